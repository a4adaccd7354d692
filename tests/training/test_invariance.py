"""Promise 1: W ranks on the same global batch compute what one rank computes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.log import Log
from training.loop import train

CASES: dict[str, dict[str, Any]] = {
    "propos, one BatchNorm group": {"method": "propos", "method__bn_groups": 1},
    "propos, four groups, two forwards": {"method": "propos", "method__bn_groups": 4},
    "propos, joint forward, queue, resampling": {
        "method": "propos", "method__bn_groups": 2, "method__views_in_one_forward": True, "method__queue_size": 96,
        "method__resample": True,
    },
    "propos, gmm, accumulation, lars": {
        "method": "propos", "estep__algorithm": "gmm", "optim__accumulation": 2, "optim__name": "lars",
        "optim__clip_norm": 1.0,
    },
    "byol, euclidean e-step": {"method": "byol", "estep__metric": "euclidean", "method__bn_groups": 2},
}  # fmt: skip


def trajectory(rank: int, world: int, changes: dict[str, Any]) -> tuple[list[float], dict[str, Tensor], Tensor, Tensor]:
    """Losses of every step, weights and buffers, labels and centres of the last E-step."""
    torch.set_num_threads(1)
    run = tiny_run(optim__precision="fp64", run__max_steps=50, **changes)
    losses: list[float] = []
    with Recorder(run, losses) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None and run.state.labels is not None and run.state.centers is not None
    weights = {name: value for name, value in run.method.state_dict().items() if value.is_floating_point()}
    return losses, weights, run.state.labels, run.state.centers


class Recorder(Log):
    """A log that keeps every loss in memory."""

    def __init__(self, run: Any, losses: list[float]) -> None:
        super().__init__(run.settings.log, None, {})
        self.losses = losses

    def metrics(self, phase: str, step: int, epoch: float, values: dict[str, float]) -> None:
        if phase == "train":
            self.losses.append(values["loss"])


@pytest.mark.parametrize("name", CASES)
def test_ranks_compute_what_one_rank_computes(name: str) -> None:
    changes = {"log__every_steps": 1, **CASES[name]}
    losses, weights, labels, centers = trajectory(0, 1, changes)
    assert len(losses) == 50
    for world in (2, 4):
        for other_losses, other_weights, other_labels, other_centers in run_ranks(world, trajectory, changes):
            assert other_losses == pytest.approx(losses, rel=1e-9)
            for key, value in weights.items():
                torch.testing.assert_close(other_weights[key], value, rtol=1e-9, atol=1e-12)
            assert torch.equal(other_labels, labels)
            torch.testing.assert_close(other_centers, centers, rtol=1e-7, atol=1e-9)


def test_two_ranks_follow_one_rank_in_float32_for_ten_steps() -> None:
    changes = {"log__every_steps": 1, "method": "propos", "optim__precision": "fp32", "run__max_steps": 10}
    losses, *_ = first_ten(0, 1, changes)
    for other_losses, *_ in run_ranks(2, first_ten, changes):
        assert other_losses == pytest.approx(losses, rel=1e-4)


def first_ten(rank: int, world: int, changes: dict[str, Any]) -> tuple[list[float]]:
    run = tiny_run(**changes)
    losses: list[float] = []
    with Recorder(run, losses) as log:
        for _ in train(run, log):
            pass
    return (losses,)
