"""Checkpoints are whole or not there; a damaged newest one falls back to the one before."""

from pathlib import Path

import pytest
import torch

from tests.runs import tiny_run
from training.build import Run
from training.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import read_json


def save(run: Run, folder: Path, epoch: int) -> Path:
    return save_checkpoint(folder, run.method, run.optimizer, run.state, 10 * epoch, epoch, "config: text")


def load(folder: Path) -> tuple[int, list[str]]:
    told: list[str] = []
    return load_checkpoint(folder, torch.device("cpu"), told.append)["step"], told


def test_two_newest_are_kept_and_last_points_at_the_newest(tmp_path: Path) -> None:
    run = tiny_run()
    for epoch in (1, 2, 3):
        save(run, tmp_path, epoch)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch_0002.pt", "epoch_0003.pt", "last.pt", "manifest.json"]
    assert (tmp_path / "last.pt").resolve().name == "epoch_0003.pt"
    assert [entry["step"] for entry in read_json(tmp_path / "manifest.json")["checkpoints"]] == [30, 20]
    assert load(tmp_path) == (30, [])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "told"),
    [(flip_a_byte, "its checksum does not hold"), (truncate, "bytes instead of"), (Path.unlink, "the file is missing")],
)
def test_damaged_newest_falls_back_and_says_so(damage, told: str, tmp_path: Path) -> None:
    run = tiny_run()
    save(run, tmp_path, 1)
    damage(save(run, tmp_path, 2))
    step, warnings = load(tmp_path)
    assert step == 10
    assert len(warnings) == 1
    assert told in warnings[0]
    assert "epoch_0002.pt" in warnings[0]


def test_no_good_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint yet"):
        load(tmp_path)
    flip_a_byte(save(tiny_run(), tmp_path, 1))
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        load(tmp_path)


def test_checkpoint_holds_every_weight_once(tmp_path: Path) -> None:
    run = tiny_run("propos", method__queue_size=9)
    content = torch.load(save(run, tmp_path, 1), weights_only=True)
    assert content["method"].keys() == run.method.state_dict().keys()
    assert content["config"] == "config: text"
    pointers = [value.data_ptr() for value in content["method"].values()]
    assert len(set(pointers)) == len(pointers)
