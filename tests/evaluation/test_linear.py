"""Linear evaluation of whole runs: which rows, which encoder, which classifier, on any number of ranks."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import main
from evaluation import linear as linear_module
from evaluation.label_split import stratified
from evaluation.linear import judge_all, summarise
from evaluation.linear_features import reader
from evaluation.linear_progress import ProgressFile
from evaluation.linear_settings import open_protocol
from evaluation.linear_subject import open_subject
from tests.evaluation.linear_runs import CPU, EXACT, evaluated, settings_of, untrained_run
from tests.ranks import run_ranks
from utils.clock import Clock
from utils.config import compose
from utils.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs"))


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("seconds", "world", "command")}


def test_the_encoder_is_the_runs_final_one_frozen_and_its_images_are_train_and_test(run: Path) -> None:
    subject = open_subject(settings_of(run), CPU)
    before = digest(subject.encoder)
    assert len(subject.rows.test) == 360 and len(subject.rows.fitted) + len(subject.rows.held) == 1437
    assert not set(subject.rows.fitted.tolist()) & {*subject.rows.held.tolist(), *subject.rows.test.tolist()}
    stored = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]
    assert torch.equal(subject.encoder.state_dict()["0.weight"], stored["target.encoder.0.weight"].double())
    with patch.object(linear_module, "open_subject", lambda *_: subject):
        for mode in ("cached", "online"):
            evaluated(run, f"method.mode={mode}")
    assert digest(subject.encoder) == before and not subject.encoder.training


def digest(network: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in network.state_dict().values())).hexdigest()


def test_it_learns_and_writes_what_it_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(run)
    assert result["top1"] > 0.5 and result["top5"] > result["top1"]
    counts = {name: [head[name] for head in result["heads"]] for name in ("held_out", "top1")}
    assert all((share * 143) == pytest.approx(round(share * 143)) for share in counts["held_out"])
    assert all((share * 360) == pytest.approx(round(share * 360)) for share in counts["top1"])
    assert json.loads((run / "linear-sweep-digits.json").read_text())["heads"] == result["heads"]
    printed = capsys.readouterr().out
    assert f"top-1 {result['top1']:.4f}" in printed and "143 held out" in printed and "9 learning rates" in printed
    assert not (run / "linear-sweep-digits.progress.pt").exists()


def test_the_held_out_rows_choose_and_the_test_rows_do_not(run: Path) -> None:
    settings = settings_of(run, "method.learning_rates=[1,2,4]", "optim.global_batch=512")
    first = [[0.5, 0.6, 0.6], [0.9, 0.3, 0.8], [1.0, 0.4, 0.9]]
    last = [[0.5, 0.7, 0.7], [0.9, 0.2, 0.8], [1.0, 0.4, 0.9]]
    found = summarise(settings, [first, last])
    assert (found["chosen"], found["top1"], found["learning_rate"]) == (1, 0.2, 4)  # of equals the first
    assert (found["best_top1"], found["best_epoch"], found["held_out"]) == (0.3, 1, 0.7)


def test_one_classifier_needs_no_held_out_rows(run: Path) -> None:
    result = evaluated(run, "method.learning_rates=[0.3]")
    assert len(result["heads"]) == 1 and result["held_out"] is None and "fitted to 1,437 train" in result["rows"]


def test_a_share_of_the_labels_is_drawn_class_by_class() -> None:
    classes = torch.tensor([0] * 40 + [1] * 20 + [2] * 3)
    chosen = stratified(classes, 0.1, 0, "labels")
    assert classes[chosen].bincount().tolist() == [4, 2, 1]  # at least one each
    assert torch.equal(chosen, stratified(classes, 0.1, 0, "labels"))
    assert not torch.equal(chosen, stratified(classes, 0.1, 1, "labels"))
    assert torch.equal(stratified(classes, 1, 0, "labels"), torch.arange(63))


def test_fewer_labels_are_fitted_under_their_own_name(run: Path) -> None:
    result = evaluated(run, "method.labels=0.1", "optim.global_batch=32", "method.learning_rates=[1]")
    assert "fitted to 143 of 1,437 train rows" in result["rows"]
    assert (run / "linear-sweep-digits-0.1-of-labels.json").is_file()


SHARDED = {"sweep": [], "small": ["method.labels=0.3"], "finetune": ["method.labels=0.3", "method.bn_groups=2"]}


def sharded(rank: int, world: int, run: Path, protocols: list[str]) -> list[dict[str, Any]]:
    found = []
    with patch("evaluation.linear.start", lambda _: CPU):
        for protocol in protocols:
            words = SHARDED[protocol]
            composed = open_protocol(protocol, None, [*EXACT, "optim.epochs=2", *words])
            [result] = judge_all(composed, [run])
            found.append(without_times(result))
    return found


def test_two_and_four_ranks_judge_as_one_does(run: Path) -> None:
    one = sharded(0, 1, run, [*SHARDED])
    assert one[0]["protocol"] == "sweep" and all(0 < each["top1"] < 1 for each in one)
    for found in run_ranks(2, sharded, run, [*SHARDED]):
        assert found == one
    for found in run_ranks(4, sharded, run, ["finetune"]):  # gradients, BatchNorm shared by some ranks, rows, scores
        assert found == one[2:]


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(("protocol", "saves"), [("sweep", 2), ("finetune", 4)])  # finetune: in its second rate
def test_a_stopped_evaluation_goes_on_to_the_same_result(run: Path, protocol: str, saves: int) -> None:
    words = ["run.checkpoint_minutes=0", "method.learning_rates=[0.1,1]"]
    whole, save, left = evaluated(run, *words, protocol=protocol), ProgressFile.save, iter(range(saves))

    def save_some(file: ProgressFile, state: dict[str, Any]) -> None:
        save(file, state)
        if next(left, None) == saves - 1:
            raise Stopped

    with patch.object(ProgressFile, "save", save_some), pytest.raises(Stopped):
        evaluated(run, *words, protocol=protocol)
    file, epochs = run / f"linear-{protocol}-digits.progress.pt", []
    assert file.is_file()
    step = Clock.tick

    def count(clock: Clock) -> Clock:
        epochs.append(clock.whole_epochs)
        return step(clock)

    with patch.object(Clock, "tick", count):
        assert evaluated(run, *words, protocol=protocol)["heads"] == whole["heads"]
    assert min(epochs) == {"sweep": 2, "finetune": 1}[protocol]  # not from the start
    assert not file.exists()


def test_a_progress_file_of_other_settings_or_a_damaged_one_does_not_count(run: Path) -> None:
    whole, file = evaluated(run), run / "linear-sweep-digits.progress.pt"
    other = ProgressFile(file, settings_of(run, "run.checkpoint_minutes=0", "optim.epochs=7"), "")
    other.save({"curve": [], "heads": {}})
    assert other.load() is not None and evaluated(run)["heads"] == whole["heads"]
    file.write_bytes(b"nothing")
    assert evaluated(run)["heads"] == whole["heads"]


def test_a_file_of_weights_is_judged_with_the_configs_encoder(run: Path, tmp_path: Path) -> None:
    weights, name = tmp_path / "weights.pth", "target.encoder."
    stored = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]
    torch.save({key.removeprefix(name): t for key, t in stored.items() if key.startswith(name)}, weights)
    words = ["encoder.name=tiny", "data.name=digits", f"run.folder={tmp_path}"]
    result = evaluated(weights, *words)
    assert result["heads"] == evaluated(run)["heads"]
    assert (tmp_path / "weights" / "linear-sweep-digits.json").is_file()


def test_tokens_of_a_vit_lie_side_by_side() -> None:
    from utils.compat import prepare_torchvision

    prepare_torchvision()
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=5, num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    read, slices = reader(vit, 192, ["last1", "last4", "last1+mean", "last4+mean"])
    with torch.no_grad():
        features, whole = read(images), vit.forward_features(images)
    assert features.shape == (2, 5 * 192) and [s.stop - s.start for s in slices] == [192, 768, 384, 960]
    torch.testing.assert_close(features[:, slices[0]], whole[:, 0])
    torch.testing.assert_close(features[:, slices[2]], torch.cat([whole[:, 0], whole[:, 1:].mean(1)], 1))
    torch.testing.assert_close(features[:, slices[1]], features[:, :768])
    with pytest.raises(UserError, match="has no class tokens"):
        reader(torch.nn.Flatten(), 3, ["last1"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.debug=true"], "run.debug: means nothing in a linear evaluation"),
        (["method.labels=2"], "method.labels: 2 is not above 0, at most 1"),
        (["encoder.name=small"], "encoder.name: .* is a run with another, tiny"),
        (["views.n_views=2"], "views.n_views: a linear evaluation sees one view"),
        (["views.early={epochs: 1, size: 6}"], "views.n_views: a linear evaluation sees one view"),
        (["optim.accumulation=2"], "optim.accumulation: a linear evaluation has none"),
        (["method.finetune=true"], "finetune needs mode: online"),
        (["method.tokens=[last1]"], "method.tokens: .* has no class tokens"),
        (["optim.global_batch=2000"], "optim.global_batch: 2000 is more than the"),
        (["estep.n_clusters=3"], "estep: no such section"),
    ],
)
def test_what_cannot_be_is_one_line(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["linear", str(run), *EXACT[:2], *words]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(said, error), error


def test_images_without_classes_are_refused(run: Path) -> None:
    unknown = patch("data.sources.digits.Digits.read_truth", lambda self, rows=None: None)
    with unknown, pytest.raises(UserError, match="digits has no classes to learn"):
        evaluated(run)


def test_a_config_asks_for_it_by_its_methods_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["config/linear/sweep.yml", f"method.checkpoint={run}", *EXACT]
    assert main.main(words) == 0
    assert "top-1" in capsys.readouterr().out
    assert main.main(words[:1]) == 2
    assert "method.checkpoint: missing" in capsys.readouterr().err


def test_a_protocol_is_a_file_of_linear_evaluation() -> None:
    with pytest.raises(UserError, match=r"moca is none \(did you mean moco"):
        open_protocol("moca", None, [])
    with pytest.raises(UserError, match="is no linear evaluation"):
        open_protocol("config/digits_byol.yml", None, [])
    assert compose([Path("config/linear/moco.yml")]).values["method"]["name"] == "linear"
