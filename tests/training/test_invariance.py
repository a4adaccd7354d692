"""Promise 1: W ranks on the same global batch compute what one rank computes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import METHODS
from models.state import ClusterState
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.build import Run
from training.log import Log
from training.loop import train

# 360 of the digits, so 5 steps an epoch, and an E-step before each that is past the warm-up, and after the last
FEW_ROWS = {"data__split": "test", "optim__epochs": 3, "estep__every_epochs": 1, "log__every_steps": 1}
CASES: dict[str, dict[str, Any]] = {
    "propos, one BatchNorm group": {"method__bn_groups": 1, "optim__epochs": 10},
    "propos, four groups, two forwards": {"method__bn_groups": 4},
    "propos, joint forward, queue, resampling": {
        "method__bn_groups": 2, "method__views_in_one_forward": True, "method__queue_size": 96,
        "method__resample": True,
    },
    "propos, gmm, accumulation, lars": {
        "estep__algorithm": "gmm", "optim__accumulation": 2, "optim__name": "lars", "optim__clip_norm": 1.0,
    },
    "byol, euclidean e-step": {"estep__metric": "euclidean", "method__bn_groups": 2},
    "simclr, joint forward": {"method__views_in_one_forward": True},
    "moco, four groups, shuffled keys, symmetric": {"method__bn_groups": 4, "method__symmetric": "mean"},
    "moco, one direction, accumulation": {"method__symmetric": "none", "optim__accumulation": 2},
    "pcl, past its warm-up": {},
    "cc": {},
    "pica, heads in turn, three repeats": {"views__n_views": 4, "optim__name": "adam", "method__over_clusters": [13]},
    "gcc, past its pretext, groups, accumulation": {"method__bn_groups": 2, "optim__accumulation": 2},
    "and, anchors of the bank, accumulation": {"method__source": "bank", "optim__accumulation": 2},
    "scan, pairs with itself, more e-steps": {"method__include_self": True},
    "selflabel, accumulation": {"optim__accumulation": 2, "optim__name": "adam", "optim__learning_rate": 0.001},
    "swav, local crops, queue, frozen at first": {
        "views__local": {"number": 2, "size": 6}, "method__bn_groups": 2, "method__freeze_epochs": 1,
    },
    "dino, local crops, accumulation, frozen at first": {
        "views__local": {"number": 1, "size": 6}, "optim__accumulation": 2, "method__freeze_epochs": 1,
        "method__teacher_warmup_epochs": 2,
    },
}  # fmt: skip
CASES |= {name: {} for name in METHODS if name not in {case.split(",")[0] for case in CASES}}


def run_of(case: str) -> Run:
    """Made from the case's first word and its settings, in float64."""
    return tiny_run(case.split(",")[0], **{**FEW_ROWS, "optim__precision": "fp64", **CASES[case]})


def trajectory(rank: int, world: int, case: str) -> tuple[list[float], dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """Losses of every step; weights, buffers and queues; labels and centres of the last E-step, of each of its K."""
    torch.set_num_threads(1)
    run = run_of(case)
    with Recorder(run) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None
    weights = {name: value for name, value in run.method.state_dict().items() if value.is_floating_point()}
    return log.losses, weights, found(run.state)


def found(state: ClusterState) -> list[tuple[Tensor, Tensor]]:
    assert state.labels is not None and state.centers is not None
    return [(state.labels, state.centers), *(pair for level in state.levels for pair in found(level))]


class Recorder(Log):
    """A log that keeps every loss in memory."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.settings.log, None, {})
        self.losses: list[float] = []

    def metrics(self, phase: str, step: int, epoch: float, values: dict[str, float]) -> None:
        if phase == "train":
            self.losses.append(values["loss"])


@pytest.mark.parametrize("case", CASES)
def test_ranks_compute_what_one_rank_computes(case: str) -> None:
    losses, weights, clusters = trajectory(0, 1, case)
    n_passes = 2 if case.startswith("pica") else 1
    assert len(losses) == 5 * n_passes * CASES[case].get("optim__epochs", 3)
    for world in (2, 4):
        for other_losses, other_weights, other_clusters in run_ranks(world, trajectory, case):
            assert other_losses == pytest.approx(losses, rel=1e-9)
            for key, value in weights.items():
                torch.testing.assert_close(other_weights[key], value, rtol=1e-9, atol=1e-12)
            for (labels, centers), (other_labels, other_centers) in zip(clusters, other_clusters, strict=True):
                assert torch.equal(other_labels, labels)
                torch.testing.assert_close(other_centers, centers, rtol=1e-7, atol=1e-9)


def test_two_ranks_follow_one_rank_in_float32_for_ten_steps() -> None:
    losses = first_ten(0, 1)
    for other_losses in run_ranks(2, first_ten):
        assert other_losses == pytest.approx(losses, rel=1e-4)


def first_ten(rank: int, world: int) -> list[float]:
    run = tiny_run("propos", **FEW_ROWS, run__max_steps=10)
    with Recorder(run) as log:
        for _ in train(run, log):
            pass
    return log.losses
