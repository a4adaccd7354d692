"""Small copies of runs whose numbers are quoted."""

import json
from pathlib import Path

import pytest

from benchmarks import keep_results


def test_a_copy_is_small_and_knows_no_machine(tmp_path: Path) -> None:
    run = tmp_path / "there" / "run_1"
    run.mkdir(parents=True)
    (run / "config.yml").write_text(f"run:\n  folder: {tmp_path}/there\n  ratio: 3/4\n")
    rows = [{"header": True, "time": 1000.0, "run": str(run)}]
    rows += [{"time": 1000.0 + step, "phase": "train", "step": step, "loss": step / 3} for step in range(200)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert keep_results.main([str(run), "--to", str(tmp_path / "kept")]) == 0
    kept = tmp_path / "kept" / "run_1"
    assert (kept / "config.yml").read_text() == "run:\n  folder: there\n  ratio: 3/4\n"
    header, *steps = map(json.loads, (kept / "metrics.jsonl").read_text().splitlines())
    assert header["run"] == "run_1" and len(steps) == keep_results.ROWS
    assert (steps[0]["step"], steps[-1]["step"]) == (0, 199)
    assert steps[-1]["loss"] == 66.33 and steps[-1]["time"] == 199.0
    assert not (kept / "evaluation.json").exists()


def test_what_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keep_results.main([str(tmp_path), "--to", str(tmp_path / "kept")]) == 2
    assert "no metrics.jsonl" in capsys.readouterr().err and not (tmp_path / "kept").exists()
