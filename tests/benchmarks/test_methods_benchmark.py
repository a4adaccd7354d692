"""The benchmark of methods as a program, and the table of made results."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from benchmarks import methods
from benchmarks.methods_table import table

SHORT = ["encoder.name=tiny", "run.max_steps=2", "estep.final_n_init=1"]


def made(method: str, seed: int, acc: float, **changes: Any) -> dict[str, Any]:
    scores = {"acc": acc, "nmi": acc - 0.1, "ari": acc - 0.2}
    pixels = {"acc": 0.7 + seed / 100, "nmi": 0.6, "ari": 0.5}
    return {
        "method": method,
        "seed": seed,
        "status": "completed",
        "data": "digits",
        "protocol": "train+test, 1,797 rows",
        "features": "projection",
        "n_clusters": 10,
        "finished": True,
        "scores": scores,
        "embedding": None,
        "baselines": [{"name": "KMeans", "features": "pixels, 10 starts", "scores": pixels}],
        "knn": {"accuracy": 0.97, "neighbors": 20, "protocol": "360 queries, bank of 1,437"},
        "linear": {"accuracy": 0.98, "protocol": "360 test rows, fitted to 1,437"},
        "images_per_second": 1000.0 * seed,
        "seconds": 60.0 * seed,
        "images": 179200,
        **changes,
    }


def report(*runs: dict[str, Any], missing: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"suite": "digits", "world": 2, "machine": "x86_64, 2 cores", "missing": list(missing), "runs": list(runs)}


def cells(text: str, name: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row[1:] for row in rows if row[0] == name]


def test_a_method_is_its_mean_over_seeds_with_least_and_most() -> None:
    text = table(report(made("byol", 1, 0.9), made("byol", 2, 0.95), made("byol", 3, 0.94)))
    expected = ["projection", "0.9300 (0.9000 to 0.9500)", "0.8300 (0.8000 to 0.8500)", "0.7300 (0.7000 to 0.7500)"]
    expected += ["0.9700 (0.9700 to 0.9700)", "0.9800 (0.9800 to 0.9800)", "2,000", "2:00", "179,200", "3"]
    assert cells(text, "byol") == [expected]
    assert "digits: train+test, 1,797 rows; K = 10; seeds 1, 2, 3; 2 processes" in text
    assert "kNN-20: 360 queries, bank of 1,437. Linear probe: 360 test rows, fitted to 1,437." in text


def test_pixels_are_scored_once_a_seed_whatever_the_number_of_methods() -> None:
    text = table(report(made("byol", 1, 0.9), made("byol", 3, 0.95), made("moco", 1, 0.8), made("moco", 3, 0.8)))
    [(features, acc, *_, n_runs)] = cells(text, "KMeans")
    assert (features, acc, n_runs) == ("pixels, 10 starts", "0.7200 (0.7100 to 0.7300)", "2")


def test_a_cluster_heads_other_read_out_has_a_row_of_its_own() -> None:
    embedding = {"name": "KMeans", "features": "projection", "scores": {"acc": 0.5, "nmi": 0.25, "ari": 0.125}}
    head, other = cells(table(report(made("cc", 1, 0.9, features="cluster head", embedding=embedding))), "cc")
    assert head[:2] == ["cluster head", "0.9000"]
    assert other[:5] == ["projection, KMeans", "0.5000", "0.2500", "0.1250", "-"]


def test_what_failed_or_is_missing_stays_visible() -> None:
    failed = {"method": "moco", "seed": 2, "status": "failed", "reason": "error: optim.learning_rate: not finite"}
    text = table(report(failed, made("byol", 1, 0.9), failed | {"method": "byol"}, missing=("pcl",)))
    assert cells(text, "moco")[0][0] == "failed: error: optim.learning_rate: not finite"
    assert cells(text, "byol")[0][-1] == "1 of 2, others failed"
    assert cells(text, "pcl")[0][0] == "missing: this suite has no config for it"
    assert "byol seed 2 failed: error: optim.learning_rate: not finite" in text
    assert "no run is complete" in table(report(failed))


def test_a_run_is_written_read_again_and_not_mixed_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(command: list[str], log: Path) -> str | None:
        """In this process, which has done the imports."""
        assert command[:2] == [sys.executable, str(methods.ROOT / "main.py")]
        try:
            return None if main.main(command[2:]) == 0 else "failed"
        finally:
            torch.use_deterministic_algorithms(True)

    monkeypatch.setattr(methods, "launch", launch)
    command = ["--suite", "digits", "--methods", "byol", "--seeds", "7", "--world", "1", "--folder", str(tmp_path)]
    assert methods.main([*command, *SHORT, "method.bn_groups=1"]) == 0
    [run] = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert (run["images"], run["finished"], run["status"]) == (128, True, "completed")
    assert 0 < run["scores"]["acc"] < 1 and 0 < run["linear"]["accuracy"] < 1 and run["images_per_second"] > 0
    assert "| KMeans | pixels, PCA-50, 10 starts |" in capsys.readouterr().out

    monkeypatch.setattr(methods, "launch", lambda *words: pytest.fail("what is complete was run again"))
    assert methods.main([*command, *SHORT, "method.bn_groups=1"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["runs"] == [run]
    assert methods.main([*command, *SHORT, "method.bn_groups=1", "optim.learning_rate=0.2"]) == 1
    assert "holds a run of other settings (optim.learning_rate)" in capsys.readouterr().out


def test_a_run_that_was_stopped_is_begun_again_and_a_failure_gives_its_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "byol_7").mkdir()
    (tmp_path / "byol_7" / "status.json").write_text('{"status": "running"}')
    code = "print('epoch 1'); print('ValueError: first\\nRuntimeError: second'); raise SystemExit(1)"
    monkeypatch.setattr(methods, "command_of", lambda *words: [methods.sys.executable, "-c", code])
    command = ["--suite", "digits", "--methods", "byol", "--seeds", "7", "--world", "2", "--folder", str(tmp_path)]
    assert methods.main(command) == 1
    assert not (tmp_path / "byol_7").exists()
    assert "byol seed 7 failed: ValueError: first" in capsys.readouterr().out


def test_second_stages_come_after_runs_of_their_first_which_are_run_once() -> None:
    stages = methods.stages_of(["selflabel", "scan", "byol"])
    labels = ["simclr", "scan after simclr", "cc", "selflabel after scan", "selflabel after cc", "byol"]
    assert [stage.label for stage in stages] == labels
    assert stages[3].folder == "selflabel_after_scan"
    assert stages[3].first == "scan after simclr"


def test_a_second_stage_goes_on_from_the_run_of_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(methods, "command_of", lambda config, words, world: asked.append(words) or ["true"])
    monkeypatch.setattr(methods, "record_of", lambda path: {})
    options = methods.parse(["--suite", "digits", "--folder", str(tmp_path), "--world", "1"])
    config = methods.ROOT / "config" / "digits_byol.yml"
    methods.one_run(options, config, methods.Stage("byol", "scan after simclr"), 7)
    assert f"run.init_from={tmp_path / 'scan_after_simclr_7'}" in asked[0]
    assert "run.name=byol_after_scan_7" in asked[0]


def test_several_processes_are_started_by_torchrun() -> None:
    words = methods.command_of(Path("config/digits_byol.yml"), ["run.seed=7"], 2)
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert words[-2:] == ["config/digits_byol.yml", "run.seed=7"]
    assert methods.command_of(Path("config/digits_byol.yml"), [], 1)[1].endswith("main.py")


@pytest.mark.parametrize(
    "words, told",
    [
        (["--methods", "byo"], "--methods: byo is unknown (did you mean byol?)"),
        (["--seeds", "one"], "--seeds: one is no list of numbers"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        methods.parse(["--suite", "digits", *words])
    assert told in capsys.readouterr().err
