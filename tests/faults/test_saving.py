"""A process killed at any point of a save leaves a run that can go on; a full disk costs a checkpoint, not the run."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import context
from tests.runs import tiny_run
from training import checkpoint, saver
from training.build import Run
from training.checkpoint import load_checkpoint, snapshot, write_checkpoint
from training.log import Log
from training.loop import train
from training.run_dir import create_run
from utils.clock import Clock
from utils.errors import UserError

CPU = torch.device("cpu")
CALLS = ("open", "fsync", "replace", "unlink", "symlink")  # of os, by which files come, move and go
SMALL = {"data__split": "test", "optim__epochs": 2, "run__checkpoint_minutes": 0}


def save(run: Run, folder: Path, epoch: int) -> None:
    write_checkpoint(folder, snapshot(run.method, run.optimizer, None, Clock(5 * epoch, 5, 9), ""))


def killed_saves(folder: str) -> list[int]:
    """A process for each place: it saves a third checkpoint beside two, and is killed before its n-th call of those.

    Returns the exit codes, up to the first process that had no n-th call.
    """
    run, codes = tiny_run("byol"), []
    while not codes or codes[-1]:
        place = Path(folder) / str(len(codes) + 1)
        for epoch in (1, 2):
            save(run, place, epoch)
        child = os.fork()
        if child == 0:
            die_at_call(len(codes) + 1)
            save(run, place, 3)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


def die_at_call(at: int) -> None:
    """This process is killed before the given call, from 1, of those that touch files."""
    calls = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return counting

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_process_killed_at_any_point_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    with context().Pool(1) as apart:  # from a process without threads
        codes = apart.apply(killed_saves, (str(tmp_path),))
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    assert len(codes) > 8
    told: list[str] = []
    steps = [load_checkpoint(tmp_path / str(at), CPU, told.append)["step"] for at in range(1, len(codes) + 1)]
    assert steps == sorted(steps)
    assert set(steps) == {10, 15}
    assert told == []
    run = tiny_run("byol")
    for at in range(1, len(codes) + 1):
        save(run, tmp_path / str(at), 4)  # and the next save finds its way
        assert load_checkpoint(tmp_path / str(at), CPU, told.append)["step"] == 20
        assert list((tmp_path / str(at)).glob("*.tmp.*")) == []


@pytest.mark.parametrize("seed", range(50))
def test_a_mutated_checkpoint_is_passed_over_or_refused_in_one_line(seed: int, two_saves: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saves, folder, symlinks=True)
    draw = random.Random(seed)
    files = [path for path in sorted(folder.iterdir()) if not path.is_symlink()]  # two checkpoints, the manifest
    for path in draw.sample(files, draw.randint(1, 3)):
        data = bytearray(path.read_bytes())
        kind = draw.choice(("flip", "cut", "swap", "empty", "repeat"))
        if kind == "flip":
            for _ in range(draw.randint(1, 20)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[draw.randrange(len(data)) :]
        elif kind == "swap":
            data = bytearray(draw.choice(files).read_bytes())
        else:
            data = bytearray() if kind == "empty" else data + data
        path.write_bytes(data)
    told: list[str] = []
    try:
        step = load_checkpoint(folder, CPU, told.append)["step"]
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert step in (5, 10)
    assert not any("\n" in line for line in told)


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of two epochs."""
    folder, run = tmp_path_factory.mktemp("saves") / "checkpoints", tiny_run("byol")
    for epoch in (1, 2):
        save(run, folder, epoch)
    return folder


class Heard(Log):
    """A log that keeps its warnings."""

    def __init__(self, run: Run) -> None:
        assert run.directory is not None
        super().__init__(run.settings.log, run.directory.path, {})
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep it, unless it speaks of speed."""
        if "waiting for images" not in text:
            self.warnings.append(text)


def begun(folder: Path) -> Run:
    run = tiny_run("byol", **SMALL)
    run.directory = create_run(folder, "run", "test", run.settings.to_yaml())
    return run


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, write, refused = begun(tmp_path), saver.write_checkpoint, []

    def full_at_first(*args: Any) -> Path:
        if not refused:
            refused.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    monkeypatch.setattr(saver, "write_checkpoint", full_at_first)
    with Heard(run) as log:
        for _ in train(run, log):
            pass
    assert len(log.warnings) == 1
    assert "a checkpoint cannot be written: no space left on the disk (" in log.warnings[0]
    assert "training goes on, earlier checkpoints stand" in log.warnings[0]
    assert run.directory is not None
    assert load_checkpoint(run.directory.checkpoints, CPU, print)["done"]


def test_rows_of_metrics_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, write, full = begun(tmp_path), os.write, False

    def writing(descriptor: int, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:7])  # a part, as a disk that fills up may take

    monkeypatch.setattr(os, "write", writing)
    with Heard(run) as log:
        full = True
        for step in (1, 2):
            log.metrics("train", step, 0.1, {"loss": 1.0})
        full = False
        log.metrics("train", 3, 0.1, {"loss": 1.0})
    assert log.warnings == ["metrics.jsonl cannot be written: No space left on device; its rows wait until it can"]
    assert run.directory is not None
    assert [row.count('"step"') for row in run.directory.metrics.read_text().splitlines()] == [0, 1, 1, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of its own, 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_at_the_end_costs_one_line_and_the_checkpoint_before_it_stands(small_disk: Path) -> None:
    run = begun(small_disk)
    filler = small_disk / "filler"

    def disturbed() -> None:
        with Heard(run) as log:
            for _ in train(run, log):
                assert run.directory is not None
                if not filler.exists():
                    while not checkpoint.has_checkpoint(run.directory.checkpoints):
                        time.sleep(0.01)
                    fill(filler)

    with pytest.raises(UserError, match=r"no space left on the disk \(0 MiB free\); make room, then: main.py resume"):
        disturbed()
    filler.unlink()
    assert run.directory is not None
    assert load_checkpoint(run.directory.checkpoints, CPU, print)["step"] == 5
    assert list(run.directory.path.rglob("*.tmp.*")) == []


def fill(file: Path) -> None:
    """Write until nothing more goes in."""
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError:
            return
