"""A run that goes on from another: what arrives of it, what is told, and what it cannot go on from."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.sources import SOURCES
from models.scan import SCAN
from models.selflabel import SelfLabel
from tests.ranks import run_ranks
from tests.runs import tiny_run, tiny_settings
from training.begin import open_run
from training.build import Run
from training.embed import embed_shard
from training.log import Log
from training.loop import train
from training.run_dir import RunDirectory, create_run
from training.settings import caveats
from utils.errors import UserError

FEW: dict[str, Any] = {"data__split": "test", "optim__epochs": 1}  # 360 of the digits: 5 steps


def trained(folder: Path, method: str, **changes: Any) -> Path:
    """The folder of a run of `method` that has ended."""
    run = tiny_run(method, **{**FEW, **changes})
    run.directory = create_run(folder, method, "test", run.settings.to_yaml())
    to_the_end(run)
    return run.directory.path


def to_the_end(run: Run) -> None:
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass


@pytest.fixture(scope="module")
def firsts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs to go on from: SimCLR, SCAN on that, BYOL with another rim around its clean images."""
    folder = tmp_path_factory.mktemp("runs")
    simclr = trained(folder, "simclr")
    scan = trained(folder, "scan", run__init_from=simclr)
    return {"simclr": simclr, "scan": scan, "byol": trained(folder, "byol", views__test_crop=0.75)}


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path / "checkpoints" / "last.pt", weights_only=True)


def labels_of(run: Run) -> Tensor:
    """What the run's E-step would say before its first step."""
    shard = embed_shard(run.method, run.store, run.views, run.clock, seed=0, precision="fp32")
    state = run.method.e_step(shard, None, run.clock)
    assert state.labels is not None
    return state.labels


def test_the_encoder_of_the_first_run_arrives_and_heads_start_as_ever(firsts: dict[str, Path]) -> None:
    run, plain = tiny_run("scan", **FEW, run__init_from=firsts["simclr"]), tiny_run("scan", **FEW)
    learnt = checkpoint(firsts["simclr"])["method"]
    for name, value in run.method.encoder.state_dict().items():
        assert torch.equal(value, learnt[f"online.encoder.{name}"]), name
    assert isinstance(run.method, SCAN) and isinstance(plain.method, SCAN)
    assert torch.equal(run.method.cluster_heads[0].weight, plain.method.cluster_heads[0].weight)
    assert f"tensors loaded from {firsts['simclr']}" in run.introduction()


def test_the_head_of_the_first_run_arrives_with_its_labels_row_by_row(firsts: dict[str, Path]) -> None:
    run = tiny_run("selflabel", **FEW, run__init_from=firsts["scan"])
    stored = checkpoint(firsts["scan"])
    assert isinstance(run.method, SelfLabel)
    head = int(stored["state"]["extra"]["head"])
    assert torch.equal(run.method.cluster_head.weight, stored["method"][f"cluster_heads.{head}.weight"])
    assert torch.equal(labels_of(run), stored["state"]["labels"])
    assert f"clusters of {firsts['scan']}: cluster head taken over: 100.0% of the images keep" in run.introduction()


@pytest.mark.parametrize("test_crop", [0.75, 1.0])
def test_clusters_without_a_head_arrive_by_fitting_one_to_what_the_first_run_saw(
    firsts: dict[str, Path], test_crop: float
) -> None:
    run = tiny_run("selflabel", **FEW, run__init_from=firsts["byol"], views__test_crop=test_crop)
    kept = (labels_of(run) == checkpoint(firsts["byol"])["state"]["labels"]).double().mean().item()
    assert kept > 0.5
    told = f"a linear head fitted to the clusters: {kept:.1%} of the images keep their label, "
    assert told in run.introduction()


def test_encoder_and_clusters_of_a_run_on_other_images_arrive(
    firsts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "dim", dim_digits)
    for first, method in (("simclr", "scan"), ("byol", "selflabel"), ("scan", "selflabel")):
        run = tiny_run(method, data__name="dim", data__split="train", run__init_from=firsts[first])
        assert run.source.n_rows == 1437
        run.clock = run.clock.__class__(0, run.clock.steps_per_epoch, 1, 2)
        to_the_end(run)
        assert run.state is not None and run.state.labels is not None and len(run.state.labels) == 1437


def dim_digits(config: Any) -> Any:
    """The digits under another name with another normalisation."""
    source = SOURCES["digits"](config)
    source.name, source.mean = "dim", (0.1,)
    return source


def everything(rank: int, world: int, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    run = tiny_run("selflabel", **FEW, run__init_from=path, optim__precision="fp64", method__threshold=0.2)
    to_the_end(run)
    return dict(run.method.state_dict()), run.told


@pytest.mark.parametrize("first", ["byol", "scan"])
def test_two_ranks_go_on_as_one(firsts: dict[str, Path], first: str) -> None:
    expected, told = everything(0, 1, firsts[first])
    for weights, said in run_ranks(2, everything, firsts[first]):
        assert said == told
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9)


def test_a_resumed_run_needs_the_first_run_no_more(firsts: dict[str, Path], tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(firsts["scan"], first, symlinks=True)
    path = trained(tmp_path, "selflabel", run__init_from=first)
    shutil.rmtree(first)
    settings = tiny_settings("selflabel", **FEW, run__init_from=first)
    with pytest.raises(UserError, match="no run here"):
        tiny_run("selflabel", **FEW, run__init_from=first)
    run = open_run(settings, RunDirectory(path), torch.device("cpu"))
    assert run.clock.finished and run.state is not None
    assert torch.equal(labels_of(run), run.state.labels)


def test_a_debug_run_ignores_the_first_run(tmp_path: Path) -> None:
    assert tiny_settings("selflabel", run__init_from=tmp_path, run__debug=True).run.init_from is None


@pytest.mark.parametrize("method", ["scan", "selflabel"])
def test_a_second_stage_on_its_own_runs_and_says_so(method: str, firsts: dict[str, Path]) -> None:
    said = f"{method} is a second stage, and run.init_from is not set: it starts from an untrained encoder"
    assert caveats(tiny_settings(method)) == [said]
    assert caveats(tiny_settings(method, run__init_from=firsts["scan"])) == []
    run = tiny_run(method, **FEW)
    to_the_end(run)
    assert run.state is not None and run.told == []


@pytest.mark.parametrize("method", ["scan", "selflabel"])
def test_a_folder_that_is_no_run_is_named(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run here \(config.yml is missing\); give the folder of a run") as error:
        tiny_run(method, run__init_from=tmp_path)
    assert error.value.place == str(tmp_path)


@pytest.mark.parametrize(
    ("first", "changes", "message"),
    [
        ("scan", {"estep__n_clusters": 7}, "{path} has 10 clusters, this run 7; set estep.n_clusters=10"),
        ("scan", {"encoder__name": "digits"}, "{path} has encoder.name=tiny, this run digits; set encoder.name=tiny"),
        ("scan", {"views__sobel": True}, "{path} has views.sobel=false, this run true; set views.sobel=false"),
        ("scan", {"encoder__checkpoint": "w.pt"}, "encoder.checkpoint names other weights to start from; give one"),
        ("scan", {"encoder__pretrained": True}, "encoder.pretrained names other weights to start from; give one"),
    ],
)
def test_what_a_run_cannot_go_on_from_is_told_in_one_line(
    firsts: dict[str, Path], first: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        tiny_run("selflabel", **FEW, run__init_from=firsts[first], **changes)
    assert str(error.value).startswith("run.init_from: " + message.format(path=firsts[first]))
    assert "\n" not in str(error.value)


def test_a_run_without_clusters_or_without_a_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    run = tiny_run("simclr", **{**FEW, "optim__epochs": 2})
    run.directory = create_run(tmp_path, "begun", "test", run.settings.to_yaml())
    path = run.directory.path
    with pytest.raises(UserError, match=f"run.init_from: {path} has no checkpoint yet; let it finish an epoch"):
        tiny_run("scan", **FEW, run__init_from=path)
    with Log(run.settings.log, None, {}) as log:
        next(iter(train(run, log)))  # one of its two epochs: no E-step yet
    tiny_run("scan", **FEW, run__init_from=path)
    with pytest.raises(UserError, match=f"run.init_from: {path} has no clusters yet; let it finish"):
        tiny_run("selflabel", **FEW, run__init_from=path)


def test_a_method_that_fits_other_images_alone_is_told_in_one_line(tmp_path: Path) -> None:
    path = trained(tmp_path, "and")  # with a bank of 360 rows
    with pytest.raises(UserError) as error:
        tiny_run("selflabel", data__split="train", run__init_from=path)
    assert str(error.value).startswith(f"run.init_from: {path} does not fit these images (size mismatch for")
    assert "\n" not in str(error.value)


def test_how_the_first_run_was_launched_does_not_matter(firsts: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "on three ranks"
    shutil.copytree(firsts["scan"], path, symlinks=True)
    text = (path / "config.yml").read_text()
    text = text.replace("bn_groups: 1", "bn_groups: 3").replace("global_batch: 64", "global_batch: 63")
    (path / "config.yml").write_text(text.replace("wandb: false", "wandb: true"))
    assert "bn_groups: 3" in text and "global_batch: 63" in text
    run_ranks(2, going_on, path)


def going_on(rank: int, world: int, path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.settings.installed", lambda package: False)  # no W&B on this machine
        tiny_run("selflabel", **FEW, run__init_from=path)
