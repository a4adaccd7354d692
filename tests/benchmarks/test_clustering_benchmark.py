"""The clustering benchmark as a program, and its parts that decide what is printed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import clustering, clustering_data
from benchmarks.clustering_bars import bar_table, judged, measurement_table
from benchmarks.clustering_contenders import OURS, SKLEARN
from benchmarks.clustering_measure import Measurement, in_turn, inertia

ROOT = Path(__file__).resolve().parents[2]
TASK = "k-means++ K=10, 10 restarts"  # the bar is 0.10


def test_the_program_prints_both_contenders_and_writes_them_as_json(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/clustering.py", "--quick", "--only", "gmm", "--section", "default"]
    command += ["--repeats", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    measurements = report["sections"]["default"]["measurements"]
    found = {(m["task"], m["contender"]): m["error"] or m["median"] for m in measurements}
    tasks = ["GMM diag, one iteration", "GMM full, one iteration"]
    assert list(found) == [(task, name) for task in tasks for name in (SKLEARN, OURS)]
    assert all(isinstance(value, float) and value > 0 for value in found.values()), found
    assert [(row["task"], row["default"]["met"]) for row in report["bars"]] == [(task, None) for task in tasks]
    assert report["machine"]["threads"] == 1
    assert all(task in done.stdout for task in tasks)


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        clustering.parse(["--only", "pass,gm"])
    assert "unknown gm;" in capsys.readouterr().err


def test_contenders_take_turns_after_a_warm_up_and_a_failing_one_is_asked_no_more() -> None:
    asked: list[tuple[str, int]] = []

    def sound(turn: int) -> tuple[float, dict[str, Any]]:
        asked.append(("sound", turn))
        return 2.0 * turn, {"turn": turn}

    def failing(turn: int) -> tuple[float, dict[str, Any]]:
        asked.append(("failing", turn))
        raise RuntimeError("not installed")

    rows = {name: Measurement("case", "task", "7,5,3", name, "ms") for name in ("sound", "failing")}
    good, bad = in_turn(rows, {"sound": sound, "failing": failing}, 3)
    assert asked == [("sound", 0), ("failing", 0), ("sound", 0), ("sound", 1), ("sound", 2)]
    assert (good.values, good.median, good.notes) == ([0.0, 2.0, 4.0], 2.0, {"turn": 2})
    assert "RuntimeError: not installed" in measurement_table([bad])


@pytest.mark.parametrize(("ours", "met"), [([0.09, 0.5, 0.1], True), ([0.11, 0.11, 0.05], False)])
def test_a_bar_is_met_by_the_ratio_of_medians_at_full_size_only(ours: list[float], met: bool) -> None:
    rows = [Measurement("seeding", TASK, "", OURS, "s", ours), Measurement("seeding", TASK, "", SKLEARN, "s", [1.0])]
    [full], [reduced] = (judged({"tuned": rows}, full_size) for full_size in (True, False))
    assert full["tuned"] == {"ratio": pytest.approx(sorted(ours)[1]), "bar": 0.1, "met": met}
    assert full["default"] == {"ratio": None, "bar": 0.1, "met": None}
    assert reduced["tuned"]["met"] is None
    assert ("not met" in bar_table([full])) != met


def test_a_missing_peer_leaves_the_bar_open() -> None:
    rows = [Measurement("seeding", TASK, "", OURS, "s", [1.0])]
    rows.append(Measurement("seeding", TASK, "", SKLEARN, "s", [], error="not installed"))
    assert judged({"default": rows}, full_size=True) == []


@pytest.mark.parametrize("name", ["overlap", "digits", "blobs"])
def test_data_sets_are_made_once_and_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering_data, "FOLDER", tmp_path / "first")
    first = clustering_data.rows(name, 101, 13)
    [file] = (tmp_path / "first").iterdir()
    written = file.stat().st_mtime_ns
    assert np.array_equal(clustering_data.rows(name, 101, 13), first)
    assert file.stat().st_mtime_ns == written
    monkeypatch.setattr(clustering_data, "FOLDER", tmp_path / "second")
    assert np.array_equal(clustering_data.rows(name, 101, 13), first)
    assert (first.shape, first.dtype, np.unique(first, axis=0).shape) == ((101, 13), np.float32, (101, 13))


def test_inertia_is_that_of_the_nearest_centers_also_beyond_one_block() -> None:
    draws = np.random.default_rng(0)
    x, centers = draws.standard_normal((1013, 5)).astype(np.float32), draws.standard_normal((3, 5))
    squared = ((x[:, None].astype(np.float64) - centers) ** 2).sum(2)
    assert inertia(x, centers) == pytest.approx(squared.min(1).sum(), rel=1e-12)
