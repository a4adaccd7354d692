"""The speed benchmarks as programs, with tiny settings."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks import epoch, memory, scaling, step, warm_start
from benchmarks.reference_design import kmeans
from tests.ranks import run_ranks

CONFIG = step.ROOT / "config" / "cifar10_small_propos.yml"
TINY = ["encoder.name=tiny", "method.hidden_dim=11", "method.projection_dim=7", "optim.global_batch=16"]


def written(file: Path) -> dict[str, Any]:
    """A report, in which machine and versions stand."""
    report = json.loads(file.read_text())
    assert report["environment"]["packages"]["torch"] and report["machine"]["cpu"] and report["date"]
    return dict(report)


def test_a_step_is_measured_beside_its_bare_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--encoders", "small", "--batch", "8", "--steps", "1", "--repeats", "1", "--json", f"{tmp_path}/step.json"]
    assert step.main([*words, "encoder.name=tiny"]) == 0
    report = written(tmp_path / "step.json")
    rows = {row["what"]: row for row in report["rows"]}
    kinds = ("bf16", "fp32", "fp32 NCHW")
    assert set(rows) == {"bare passes, bf16", "bare passes, fp32"} | {f"{m}, {k}" for m in step.METHODS for k in kinds}
    assert all(min(row["seconds"]) > 0 for row in rows.values())
    # a step makes the products of the bare passes and its heads', whatever its precision and layout
    assert 0 < rows["bare passes, bf16"]["flop"] < rows["byol, bf16"]["flop"] == rows["byol, fp32 NCHW"]["flop"]
    assert len(report["ratios"]) == 6
    assert "| small | byol, bf16: step / bare passes |" in capsys.readouterr().out


def test_networks_in_nchw_are_given_and_keep_rows_of_channels() -> None:
    settings = step.settings_of(step.ROOT / "config" / "cifar10_small_byol.yml", [*TINY, "method.bn_groups=1"])
    steps = step.in_nchw(step.Steps(settings, step.noise(32)))
    seen = []
    steps.run.method.online.encoder.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    steps(2)
    assert len(seen) == 2 and all(images.is_contiguous() for images in seen)
    convolutions = [weight for weight in steps.run.method.parameters() if weight.ndim == 4]
    assert convolutions and all(weight.is_contiguous() for weight in convolutions)


def test_an_epoch_is_measured_by_its_parts_in_both_designs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rows", "48", "--e-step-rows", "64", "--repeats", "1", "--threads", "1", "--workers", "1"]
    assert epoch.main([*words, "--json", f"{tmp_path}/epoch.json", *TINY]) == 0
    report = written(tmp_path / "epoch.json")
    for design in (epoch.OURS, epoch.USUAL):
        [seconds] = report["epochs"][design]
        assert set(seconds) == set(epoch.PARTS) and all(seconds[part] > 0 for part in epoch.PARTS)
    assert report["faster"][epoch.USUAL]["median"] > 0 and report["e_step"]["ratio"]["median"] > 0
    assert "over a bare forward pass" in capsys.readouterr().out


def test_kmeans_of_the_usual_design_finds_clusters_that_lie_apart() -> None:
    truth = torch.arange(90) % 3
    labels = kmeans(F.normalize(torch.eye(3)[truth] + 0.1 * torch.randn(90, 3), dim=1), 3)
    assert all(len(set(labels[truth == group].tolist())) == 1 for group in range(3)) and len(set(labels.tolist())) == 3


def ranks_speed(rank: int, world: int) -> dict[str, float]:
    return scaling.measured(CONFIG, TINY, 1)


def test_ranks_are_measured_strong_and_weak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(layout: str, command: list[str]) -> dict[str, float]:
        """By processes that have done the imports."""
        assert command[1:3] == [scaling.__file__, "--one-rank"] and command[-len(TINY) :] == TINY
        return ranks_speed(0, 1) if layout == "1x2" else run_ranks(2, ranks_speed)[0]

    monkeypatch.setattr(scaling, "launched", launched)
    words = ["--layouts", "1x2", "2x1", "--repeats", "1", "--json", f"{tmp_path}/scaling.json"]
    assert scaling.main([*words, *TINY]) == 0
    report = written(tmp_path / "scaling.json")
    speeds = report["images_per_second"]
    assert all(speeds[layout][kind][0] > 0 for layout in ("1x2", "2x1") for kind in ("strong", "weak"))
    assert report["ratio"]["median"] == pytest.approx(speeds["2x1"]["strong"][0] / speeds["1x2"]["strong"][0])
    assert "| 2x1 |" in capsys.readouterr().out


def test_ranks_are_launched_with_what_finds_each_other() -> None:
    program = "import json, os; print(json.dumps({name: os.environ.get(name) for name in %r}))"
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
    told = scaling.launched("2x3", [sys.executable, "-S", "-c", program % (names,)])
    assert list(told.values()) == ["0", "2", "127.0.0.1", "3"]
    with pytest.raises(RuntimeError, match=r"1x1: exit codes \[3\]"):
        scaling.launched("1x1", [sys.executable, "-S", "-c", "raise SystemExit(3)"])


def test_memory_is_measured_beside_what_the_dry_run_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(words: list[str]) -> dict[str, Any]:
        """In this process, which has done the imports."""
        assert memory.main(words) == 0
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    monkeypatch.setattr(memory, "launched", launched)
    monkeypatch.setattr(memory, "CONFIGS", {("cifar10_small_propos.yml", *TINY): (64, (3, 8, 8))})
    assert memory.main(["--json", f"{tmp_path}/memory.json"]) == 0
    [row] = written(tmp_path / "memory.json")["rows"]
    assert row["libraries"] > 0 and row["step"] > 0 and row["e_step"] > 0
    assert row["told"]["images, all of them"] == 64 * 3 * 8 * 8


def test_warm_starts_are_compared_on_the_features_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--json", f"{tmp_path}/warm.json", "encoder.name=tiny", "data.split=test", "method.hidden_dim=11"]
    words += ["method.warmup_epochs=1", "optim.epochs=3", "estep.n_init=2"]
    assert warm_start.main(words) == 0
    rows = written(tmp_path / "warm.json")["rows"]
    assert {name: len(found) for name, found in rows.items()} == dict.fromkeys(rows, 2)  # the first has none before
    for (best, _), (alone, seconds) in zip(rows[warm_start.BEST], rows[warm_start.ALONE], strict=True):
        assert 0 < best <= 1.01 * alone < 2 * best and seconds > 0
    assert "| warm and fresh | 2 |" in capsys.readouterr().out
