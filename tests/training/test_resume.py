"""Promise 3: killed at any step and resumed equals uninterrupted, bit for bit, on 1, 2 and 4 ranks."""

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from models import METHODS
from models.state import ClusterState
from tests.ranks import run_ranks
from tests.runs import tiny_run, tiny_settings
from training import saver
from training.begin import continued_run, new_run, open_run
from training.build import Run
from training.checkpoint import Snapshot, write_checkpoint
from training.log import Log
from training.loop import train
from training.run_dir import RunDirectory, create_run
from utils import distributed

TEST_ROWS = {  # 360 of the digits: 5 steps an epoch; a checkpoint after each
    "data__split": "test", "optim__epochs": 4, "estep__every_epochs": 1, "run__checkpoint_minutes": 1e-9,
}  # fmt: skip
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # whole epochs done at the kill, what differs
    "propos, killed after an epoch": (2, {"method__bn_groups": 2}),
    "propos": (2, {"method__bn_groups": 2}),
    "propos, queue, resampling": (
        1, {"method__queue_size": 96, "method__resample": True, "method__bn_groups": 2, "estep__every_epochs": 2},
    ),
    "propos, killed between e-steps": (
        3, {"method__queue_size": 96, "method__resample": True, "method__bn_groups": 2, "estep__every_epochs": 2},
    ),
    "byol": (2, {"optim__accumulation": 2}),
    "simclr, fp16": (2, {"optim__precision": "fp16"}),
    "moco": (2, {"method__bn_groups": 2}),
    "pcl": (2, {"optim__name": "lars"}),
    "cc": (2, {"optim__name": "adamw"}),
    "pica": (2, {"optim__name": "adam", "method__over_clusters": [13]}),
    "gcc": (2, {"method__bn_groups": 2, "estep__every_epochs": 2}),
    "and": (2, {"optim__name": "adam"}),
    "scan": (2, {"optim__name": "adam", "estep__every_epochs": None}),
    "selflabel": (2, {"optim__name": "adam"}),
    "swav": (2, {"method__queue_start_epoch": 2, "method__freeze_epochs": 2}),
    "dino": (2, {"method__teacher_warmup_epochs": 3, "method__freeze_epochs": 3}),
}  # fmt: skip
CASES |= {name: (2, {}) for name in METHODS if name not in CASES}
FOUR_RANKS = "propos, queue, resampling"


def run_of(case: str) -> Run:
    return tiny_run(case.split(",")[0], **{**TEST_ROWS, **CASES[case][1]})


def everything(run: Run) -> dict[str, Tensor]:
    """Weights, buffers, queue, optimiser, cluster state."""
    tensors = dict(run.method.state_dict())
    for index, slots in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items() if isinstance(value, Tensor)}
    assert run.state is not None
    return tensors | of_state(run.state, "state")


def of_state(state: ClusterState, name: str) -> dict[str, Tensor]:
    fields = {**state.to_dict(), **state.extra}
    tensors = {f"{name}.{field}": value for field, value in fields.items() if isinstance(value, Tensor)}
    for number, level in enumerate(state.levels):
        tensors |= of_state(level, f"{name}.{number}")
    return tensors


def whole_and_resumed(rank: int, world: int, case: str, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Everything of a run, and of one that starts anew from what lay on disk at some step, in most cases mid-epoch."""
    run = run_of(case)
    after = CASES[case][0] * run.clock.steps_per_epoch
    after += 0 if "after an epoch" in case else run.clock.steps_per_epoch // 2
    run.directory = create_run(Path(folder), "run", "test", run.settings.to_yaml())
    killed = Path(folder) / "killed"

    def write(directory: RunDirectory, taken: Snapshot, keep_every: int | None) -> None:
        write_checkpoint(directory.checkpoints, taken, keep_every)
        if taken.step == after and not killed.exists():
            shutil.copytree(directory.path, killed)

    with patch.object(saver, "_write", write), Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    distributed.barrier()
    again = open_run(run.settings, RunDirectory(killed), torch.device("cpu"))
    assert again.clock.step == after
    with Log(run.settings.log, None, {}) as log:
        for _ in train(again, log):
            pass
    distributed.barrier()
    return everything(run), everything(again)


@pytest.mark.parametrize(("case", "world"), [(case, world) for case in CASES for world in (1, 2)] + [(FOUR_RANKS, 4)])
def test_resumed_equals_uninterrupted_bit_for_bit(case: str, world: int, tmp_path: Path) -> None:
    work = (case, str(tmp_path))
    for whole, resumed in run_ranks(world, whole_and_resumed, *work) if world > 1 else [whole_and_resumed(0, 1, *work)]:
        assert whole.keys() == resumed.keys()
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def stretch(rank: int, world: int, folder: str, until: int | None) -> dict[str, Tensor]:
    """Go on with the run in `folder`, or begin it, up to a step; everything of it."""
    fp64 = {"optim__precision": "fp64", "method__bn_groups": 4, "optim__learning_rate": 0.01}
    settings = tiny_settings("propos", **TEST_ROWS, **fp64, run__max_steps=until)
    path = Path(folder) / "run"
    if (path / "config.yml").is_file():
        run = continued_run(settings, RunDirectory(path), torch.device("cpu"))
    else:
        run = new_run(settings, torch.device("cpu"))
        run.directory = create_run(Path(folder), "run", "test", settings.to_yaml())
    with Log(settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    distributed.barrier()
    return everything(run)


def test_a_run_goes_on_with_other_numbers_of_ranks_to_the_same_end(tmp_path: Path) -> None:
    """1, 2, 4 and 1 ranks one after the other, each time left inside an epoch."""
    whole = stretch(0, 1, str(tmp_path / "whole"), None)
    stretch(0, 1, str(tmp_path), 7)
    for world, until in ((2, 12), (4, 18)):
        run_ranks(world, stretch, str(tmp_path), until)
    changed = stretch(0, 1, str(tmp_path), None)
    assert whole.keys() == changed.keys()
    for name, value in whole.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                changed[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
            )
        else:
            assert torch.equal(changed[name], value), name
