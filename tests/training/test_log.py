"""What a run says: rows of JSON that always parse, mirrors, silence on other ranks, errors that name the remedy."""

import json
from pathlib import Path

import pytest

from tests.ranks import run_ranks
from training.log import Log, LogConfig, duration


def test_metrics_are_valid_json_below_a_header_and_go_on_after_a_restart(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with Log(LogConfig(), tmp_path, {"attempt": attempt}) as log:
            log.metrics("train", 7, 0.25, {"loss": float("nan"), "learning_rate": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("attempt") for row in rows] == [1, None, 2, None]
    assert rows[1] | {"time": 0} == {
        "time": 0, "step": 7, "epoch": 0.25, "phase": "train", "loss": "NaN", "learning_rate": 0.5,
    }  # fmt: skip


def test_tensorboard_mirrors_the_rows(tmp_path: Path) -> None:
    with Log(LogConfig(tensorboard=True), tmp_path, {}) as log:
        log.metrics("train", 7, 0.25, {"loss": 1.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def speak(rank: int, world: int, folder: str) -> bool:
    with Log(LogConfig(), Path(folder) / str(rank), {}) as log:
        log.metrics("train", 1, 0.1, {"loss": 1.0})
    return (Path(folder) / str(rank) / "metrics.jsonl").exists()


def test_only_rank_zero_writes(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    assert run_ranks(2, speak, str(tmp_path)) == [True, False]


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (760, "12:40"), (11_110, "3:05:10")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
