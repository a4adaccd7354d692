"""Checkpoints are whole or not there; a damaged newest one falls back to the one before."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.runs import tiny_run
from training.build import Run, restore_run
from training.checkpoint import FORMAT, load_checkpoint, snapshot, write_checkpoint
from training.run_dir import RunDirectory
from utils.clock import Clock
from utils.errors import UserError
from utils.files import read_json

CPU = torch.device("cpu")


def save(run: Run, folder: Path, epoch: int, *, more_steps: int = 0, keep_every: int | None = None) -> Path:
    clock = Clock(10 * epoch + more_steps, 10, 9)
    taken = snapshot(run.method, run.optimizer, run.state, clock, run.settings.to_yaml())
    return write_checkpoint(folder, taken, keep_every)


def load(folder: Path) -> tuple[int, list[str]]:
    told: list[str] = []
    return load_checkpoint(folder, CPU, told.append)["step"], told


def test_two_newest_are_kept_and_last_points_at_the_newest(tmp_path: Path) -> None:
    run = tiny_run()
    for epoch, steps in ((1, 0), (2, 0), (2, 7)):
        save(run, tmp_path, epoch, more_steps=steps)
    names = ["epoch_0002.pt", "epoch_0002_step_0000027.pt", "last.pt", "manifest.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert (tmp_path / "last.pt").resolve().name == "epoch_0002_step_0000027.pt"
    assert [entry["step"] for entry in read_json(tmp_path / "manifest.json")["checkpoints"]] == [27, 20]
    assert load(tmp_path) == (27, [])


def test_every_kth_epoch_stays(tmp_path: Path) -> None:
    run = tiny_run()
    for epoch, steps in ((1, 0), (2, 0), (2, 5), (3, 0), (4, 0), (5, 0), (6, 0)):
        save(run, tmp_path, epoch, more_steps=steps, keep_every=2)
    assert sorted(p.stem for p in tmp_path.glob("epoch_*")) == ["epoch_0002", "epoch_0004", "epoch_0005", "epoch_0006"]


def test_what_is_written_is_the_run_as_it_stood_when_the_copy_was_taken(tmp_path: Path) -> None:
    run = tiny_run()
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    taken = snapshot(run.method, run.optimizer, None, Clock(10, 10, 9), "")
    with torch.no_grad():
        for parameter in run.method.parameters():
            parameter.add_(1.0)
    write_checkpoint(tmp_path, taken)
    stored = load_checkpoint(tmp_path, CPU, print)["method"]
    assert [name for name in before if not torch.equal(stored[name], before[name])] == []


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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkpoints": [{"file": "../../x", "step": 1}]}', "\0" * 50])
@pytest.mark.parametrize(("damage", "step"), [(None, 20), (flip_a_byte, 10), (truncate, 10)])
def test_damaged_manifest_falls_back_to_the_newest_whole_file(text: str, damage, step: int, tmp_path: Path) -> None:
    run = tiny_run()
    save(run, tmp_path, 1)
    newest = save(run, tmp_path, 2)
    if damage is not None:
        damage(newest)
    (tmp_path / "manifest.json").write_text(text)
    found, warnings = load(tmp_path)
    assert found == step
    assert "manifest.json: is damaged" in warnings[0]
    assert len(warnings) == (1 if damage is None else 2)
    save(run, tmp_path, 3)  # a run goes on from there
    assert load(tmp_path) == (30, [])


def test_no_good_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint yet"):
        load(tmp_path)
    flip_a_byte(save(tiny_run(), tmp_path, 1))
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        load(tmp_path)


def test_a_damaged_one_does_not_take_the_place_of_a_good_one(tmp_path: Path) -> None:
    run = tiny_run()
    save(run, tmp_path, 1)
    flip_a_byte(save(run, tmp_path, 2))
    flip_a_byte(save(run, tmp_path, 1, more_steps=5))  # it went on from the first
    assert load(tmp_path)[0] == 10


def test_a_half_written_file_of_a_killed_writer_is_swept_away(tmp_path: Path) -> None:
    run = tiny_run()
    save(run, tmp_path, 1)
    (tmp_path / "epoch_0002.pt.tmp.4711").write_bytes(b"half")
    assert load(tmp_path) == (10, [])
    save(run, tmp_path, 2)
    assert sorted(p.name for p in tmp_path.glob("*.tmp.*")) == []


def test_checkpoint_holds_every_weight_once(tmp_path: Path) -> None:
    run = tiny_run("propos", method__queue_size=9)
    content = torch.load(save(run, tmp_path, 1), weights_only=True)
    assert content["method"].keys() == run.method.state_dict().keys()
    assert content["config"] == run.settings.to_yaml()
    pointers = [value.data_ptr() for value in content["method"].values()]
    assert len(set(pointers)) == len(pointers)


def test_a_newer_version_s_checkpoint_is_named(tmp_path: Path) -> None:
    run = tiny_run()
    taken = snapshot(run.method, run.optimizer, None, Clock(10, 10, 9), "")
    taken.content["format"] = FORMAT + 1
    write_checkpoint(tmp_path, taken)
    with pytest.raises(
        UserError, match=rf"written by a newer version \(format {FORMAT + 1}, this one reads up to {FORMAT}"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"method": "simclr"}, "this checkpoint has method.name=simclr, the run propos"),
        ({"estep__n_clusters": 7}, "this checkpoint has estep.n_clusters=7, the run None"),
        ({"encoder__name": "small"}, "this checkpoint has encoder.name=small, the run tiny"),
        ({"method__projection_dim": 9}, "its network is that of another version"),
    ],
)
def test_another_run_s_checkpoint_is_refused_in_one_line(other: dict, told: str, tmp_path: Path) -> None:
    run = tiny_run()
    run.directory = RunDirectory(tmp_path)
    strange = tiny_run(**other)
    save(strange, tmp_path / "strange", 1)
    shutil.copytree(tmp_path / "strange", tmp_path / "checkpoints")
    with pytest.raises(UserError, match=told) as error:
        restore_run(run, run.directory)
    assert "\n" not in str(error.value)
