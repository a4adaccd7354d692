"""Promise 1 on as many ranks as a machine has devices: 8 compute what one does. 16: benchmarks/many_ranks.py."""

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.runs import tiny_run
from tests.training.test_invariance import FEW_ROWS, Recorder, found
from training.loop import train

SHORT = {
    **FEW_ROWS, "optim__epochs": 1, "optim__precision": "fp64", "run__max_steps": 3, "method__warmup_epochs": 0,
    "method__queue_size": 96, "estep__final_n_init": 1,
}  # fmt: skip


def outcome(rank: int, world: int, n_groups: int) -> tuple[list[float], dict[str, Tensor], Tensor]:
    """An E-step, three steps that scatter its prototypes, an E-step: losses, weights and buffers, labels."""
    run = tiny_run("propos", **SHORT, method__bn_groups=n_groups)
    with Recorder(run) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None
    weights = {name: value for name, value in run.method.state_dict().items() if value.is_floating_point()}
    return log.losses, weights, found(run.state)[0][0]


@pytest.mark.parametrize("n_groups", [1, 4])  # a BatchNorm group on all ranks, on two neighbours
def test_eight_ranks_compute_what_one_rank_computes(n_groups: int) -> None:
    losses, weights, labels = outcome(0, 1, n_groups)
    assert len(losses) == 3 and len(labels) == 360
    everyones = run_ranks(8, outcome, n_groups)
    assert len(everyones) == 8
    for other_losses, other_weights, other_labels in everyones:
        assert other_losses == pytest.approx(losses, rel=1e-9)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=1e-9, atol=1e-12)
        assert torch.equal(other_labels, labels)
