"""What is given away of a run gives what the run gives, in every format, and says what it is."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evaluation import export, export_check, export_weights
from evaluation.export_check import check
from evaluation.export_contents import BATCHES, Contents, to_cpu
from evaluation.export_graph import make_posterior, write_onnx, write_torch_export
from evaluation.export_weights import write_safetensors, write_timm
from models.parts.centers import memberships
from tests.runs import save, tiny_run
from training.embed import embed_shard
from training.run_dir import create_run
from utils.compat import prepare_torchvision
from utils.errors import UserError


def contents_of(method: str, *, clusters: bool = True, **changes: Any) -> Contents:
    """A run before its first step, but with uneven BatchNorm statistics and with clusters."""
    run = tiny_run(method, data__split="test", **changes)
    draws = torch.Generator().manual_seed(1)
    for name, values in run.method.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values.add_(0.5 * torch.rand(values.shape, generator=draws) - 0.25)
    run.method.eval()
    if not clusters:
        return Contents(run, None)
    shard = embed_shard(
        run.method, run.feed.store, run.feed.views, run.clock, seed=0, precision=run.settings.optim.precision
    )
    run.state = run.method.e_step(shard, None, run.clock)
    return Contents(run, to_cpu(run.state))


def outputs_of(folder: Path, code: str, pixels: list[Tensor], *, torch_in: bool = True) -> list[dict[str, Tensor]]:
    """What the card's code gives in this process."""
    prepare_torchvision()
    found = []
    for batch in pixels:
        told: dict[str, Any] = {"pixels": batch if torch_in else batch.numpy()}
        with contextlib.chdir(folder):
            exec(code, told)
        found.append({name: torch.as_tensor(values) for name, values in told["outputs"].items()})
    return found


def assert_equal_outputs(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    for given, wanted in zip(found, expected, strict=True):
        assert list(given) == list(wanted)
        for name, values in wanted.items():
            torch.testing.assert_close(given[name].to(values.dtype), values, rtol=0, atol=1e-5)
        assert given["feature"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.export.load
def test_a_graph_gives_what_the_run_gives_for_any_batch_size_and_holds_no_more_than_it_needs(tmp_path: Path) -> None:
    contents = contents_of("temi", optim__precision="fp64", views__sobel=True)
    pixels, expected = contents.pixels(), contents.expected()
    code = write_torch_export(contents, tmp_path)
    assert_equal_outputs(outputs_of(tmp_path, code, pixels), expected)
    told = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=told)
    assert json.loads(told["metadata.json"]) == contents.facts()
    convolutions = [node for node in program.graph.nodes if "conv" in str(node.target)]
    assert len(convolutions) == 3  # the edges, and those of the tiny encoder once
    assert not [name for name in program.state_dict if "student" in name]


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "gmm", "covariance": "diag"},
        {"algorithm": "gmm", "covariance": "full", "n_clusters": 3},
        {"algorithm": "gmm", "covariance": "tied"},
        {"algorithm": "gmm", "covariance": "spherical"},
        {"metric": "euclidean"},
    ],
)
def test_a_posterior_equals_memberships(changes: dict[str, Any]) -> None:
    contents = contents_of("simclr", **{f"estep__{key}": value for key, value in changes.items()})
    method, state = contents.run.method, contents.state
    assert state is not None
    features = method.embed(contents.run.views.clean(contents.images[0])).detach()
    posterior = make_posterior(method, state)
    assert posterior is not None
    torch.testing.assert_close(posterior(features), memberships(features, state, method.estep), rtol=1e-5, atol=1e-6)


def test_onnx_gives_what_the_run_gives_and_holds_its_preprocessing(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    contents = contents_of("moco", estep__algorithm="gmm", estep__covariance="full", estep__n_clusters=3)
    expected = contents.expected()
    code = write_onnx(contents, tmp_path)
    assert_equal_outputs(outputs_of(tmp_path, code, contents.pixels(), torch_in=False), expected)
    assert os.listdir(tmp_path) == ["model.onnx"]
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(end.name, end.shape) for end in session.get_inputs()] == [("pixels", ["batch", 1, 8, 8])]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["preprocessing"])["mean"] == [0.30526]
    assert told["method"] == "moco" and json.loads(told["epoch"]) == 0


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (write_safetensors, {"views__sobel": True, "optim__precision": "fp64"}),
        (write_safetensors, {"encoder__name": "resnet18", "encoder__stem": "stl"}),
        (write_safetensors, {"encoder__name": "timm:test_vit", "views__size": 16}),
        (write_timm, {"encoder__name": "timm:test_vit", "views__size": 16, "views__test_crop": 0.5}),
        (write_timm, {"encoder__name": "resnet18", "encoder__stem": "imagenet", "views__normalize": False}),
    ],
)
def test_an_encoder_alone_gives_what_encode_gives(write: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    contents = contents_of("simclr", clusters=False, **changes)
    expected = contents.expected()[1:2]
    code = write(contents, tmp_path)
    assert_equal_outputs(outputs_of(tmp_path, code, contents.pixels()[1:2]), expected)
    if write is write_timm:
        known = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
        assert known["crop_pct"] == changes.get("views__test_crop", 1.0)
        assert known["mean"] == ([0.0] if "views__normalize" in changes else [0.30526])
        assert known["input_size"] == [1, *([changes.get("views__size", 8)] * 2)]


def test_a_network_that_a_format_cannot_hold_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes, problem in (
        ({}, "timm has no network like tiny"),
        ({"encoder__name": "resnet18"}, "another first layer than encoder.stem=cifar"),
        ({"encoder__name": "timm:test_resnet", "views__sobel": True}, "the encoder sees edges"),
    ):
        with pytest.raises(UserError, match=f"--to timm: .*{problem}.*; use safetensors"):
            write_timm(contents_of("simclr", clusters=False, **changes), tmp_path)
    contents = contents_of("simclr", clusters=False)
    own = nn.Sequential(nn.Sequential(nn.Flatten()), nn.Linear(64, 16))
    monkeypatch.setattr(export_weights, "build_encoder", lambda *_: (own, 16))
    with pytest.raises(UserError, match="only its own code can build; use torch-export or onnx"):
        write_safetensors(contents, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_difference_is_an_error_unless_two_clusters_are_as_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature, close = torch.ones(2, 3), torch.tensor([[0.5, 0.49995, 0.0], [1.0, 0.0, 0.0]])
    expected = {"feature": feature, "cluster": torch.tensor([0, 0]), "probability": close}

    def largest(**changed: Tensor) -> dict[str, float]:
        monkeypatch.setattr(export_check, "reload", lambda *_: [expected | changed])
        return check(tmp_path, "", [feature], [expected])

    assert largest() == {"feature": 0, "cluster": 0, "probability": 0}
    assert largest(cluster=torch.tensor([1, 0]))["cluster"] == pytest.approx(5e-5, rel=1e-2)
    for changed in (
        {"cluster": torch.tensor([0, 1])}, {"feature": feature + 2e-4}, {"probability": close * torch.nan},
    ):  # fmt: skip
        name = next(iter(changed))
        with pytest.raises(UserError, match=f"its {name} differs from that of the run by .*; nothing was kept"):
            largest(**changed)
    wide = {"feature": feature * 1e3}
    monkeypatch.setattr(export_check, "reload", lambda *_: [{"feature": feature * 1e3 + 0.05}])
    assert check(tmp_path, "", [feature], [wide])["feature"] == pytest.approx(5e-5, rel=1e-2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with clusters."""
    run = contents_of("simclr").run
    run.directory = create_run(tmp_path_factory.mktemp("runs"), "one", "test", run.settings.to_yaml())
    save(run)
    return run.directory.path


def test_a_fresh_process_checks_it_and_the_card_tells_how_it_is_used(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "given"
    export.export_run(saved, "safetensors", None, out)
    said = capsys.readouterr().out
    assert "largest difference from the run on real images, batches of 1, 7, 64: feature " in said
    assert sorted(file.name for file in out.iterdir()) == ["MODEL_CARD.md", "model.safetensors"]
    card = (out / "MODEL_CARD.md").read_text()
    assert "None measured" in card and "CC BY 4.0" in card and "Labels never trained" in card
    images = tiny_run("simclr", data__split="test").store.images(torch.tensor([5]))
    Image.fromarray(images[0, 0].numpy()).save(out / "image.png")
    blocks = "".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    told: dict[str, Any] = {}
    with contextlib.chdir(out):
        exec(blocks, told)
    loaded = export.load_run(saved)
    expected = loaded.run.method.eval().encode(loaded.run.views.clean(images)).detach()
    torch.testing.assert_close(told["outputs"]["feature"], expected)


def test_what_fails_its_check_leaves_nothing(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(folder: Path, code: str, pixels: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"feature": batch["feature"] + 1e-3} for batch in outputs_of(folder, code, pixels)]

    monkeypatch.setattr(export_check, "reload", spoilt)
    with pytest.raises(UserError, match="its feature differs from that of the run by 0.001"):
        export.export_run(saved, "safetensors", None, tmp_path / "given")
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("to", "what", "error"),
    [
        ("onyx", None, r"--to: 'onyx' is no format \(did you mean onnx\?\)"),
        ("timm", "clusters", "--to timm: it holds the encoder's weights alone; use torch-export or onnx for clusters"),
        ("onnx", None, "is there already; remove it, or name another folder by --out"),
    ],
)
def test_mistakes_are_told_at_once(saved: Path, to: str, what: str | None, error: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=error):
        export.export_run(saved, to, what, tmp_path)


def test_other_ranks_leave_and_missing_images_are_replaced_by_noise(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = contents_of("simclr")
    monkeypatch.setattr(contents.run.store, "images", lambda rows: (_ for _ in ()).throw(UserError("data.root", "no")))
    images, real = contents.images
    assert not real and images.shape == (sum(BATCHES), 1, 8, 8) and images.dtype == torch.uint8
    assert len(np.unique(images.numpy())) == 256
    monkeypatch.setenv("RANK", "1")
    export.export_run(saved / "nowhere", "onnx", None, None)
