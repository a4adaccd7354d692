"""Promise 3: killed after an epoch and resumed equals uninterrupted, bit for bit, on 1, 2 and 4 ranks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import METHODS
from models.state import ClusterState
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.begin import open_run
from training.build import Run
from training.log import Log
from training.loop import train
from training.run_dir import RunDirectory, create_run
from utils import distributed

TEST_ROWS = {"data__split": "test", "optim__epochs": 4, "estep__every_epochs": 1}  # 360 of the digits: 5 steps an epoch
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # epochs done at the kill, what differs
    "propos": (2, {"method__bn_groups": 2}),
    "propos, queue, resampling": (
        1, {"method__queue_size": 96, "method__resample": True, "method__bn_groups": 2, "estep__every_epochs": 2},
    ),
    "propos, killed between e-steps": (
        3, {"method__queue_size": 96, "method__resample": True, "method__bn_groups": 2, "estep__every_epochs": 2},
    ),
    "byol": (2, {"optim__accumulation": 2}),
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
    """Everything of a run, and of one that starts anew from what lay on disk when the first had done some epochs."""
    after = CASES[case][0]
    run = run_of(case)
    run.directory = create_run(Path(folder), "run", "test", run.settings.to_yaml())
    killed = Path(folder) / "killed"
    with Log(run.settings.log, None, {}) as log:
        for done, _ in enumerate(train(run, log), 1):
            if done == after and rank == 0:  # the one that writes: its next save comes after this
                shutil.copytree(run.directory.path, killed)
    again = open_run(run.settings, RunDirectory(killed), torch.device("cpu"))
    assert again.clock.whole_epochs == after
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
