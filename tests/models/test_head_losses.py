"""The head of least loss: summed over an epoch, over all ranks, kept in the checkpoint."""

import torch
from torch import Tensor

from models.parts.head_losses import HeadLosses
from tests.ranks import run_ranks
from tests.vectors import z
from utils.clock import Clock

LOSSES = z(5, 24, 1).view(5, 8, 3)  # of 5 steps, 8 parts of a batch, 3 heads
LOSSES[:3, :, 1] -= 7  # the second is by far the best of the first epoch


def written(rank: int, world: int) -> tuple[Tensor, int]:
    """Sums and best head after an epoch of three steps and two steps of the next."""
    heads, own = HeadLosses(3), slice(8 * rank // world, 8 * (rank + 1) // world)
    for step in range(5):
        heads.write(LOSSES[step, own].float(), Clock(step, 3, 9))
    return heads.sums, int(heads.best())


def test_losses_of_an_epoch_are_summed_and_the_next_one_begins_anew() -> None:
    sums, best = written(0, 1)
    expected = LOSSES[3:].float().double().mean(1).sum(0)
    torch.testing.assert_close(sums, expected)
    assert best == min(range(3), key=lambda head: expected[head].item())
    whole = LOSSES.mean(1).sum(0)
    assert best != min(range(3), key=lambda head: whole[head].item())  # the epoch before would name another


def test_sums_are_the_same_on_every_rank() -> None:
    sums, best = written(0, 1)
    for world in (2, 4):
        for other_sums, other_best in run_ranks(world, written):
            torch.testing.assert_close(other_sums, sums, rtol=1e-7, atol=1e-9)
            assert other_best == best


def test_the_first_head_is_best_before_any_step_and_of_equal_ones() -> None:
    heads = HeadLosses(3)
    assert heads.best() == 0
    heads.write(torch.tensor([[2.0, 1.0, 1.0]]), Clock(0, 3, 9))
    assert heads.best() == 1


def test_sums_are_in_the_checkpoint_and_cost_no_gradient() -> None:
    heads, losses = HeadLosses(2), torch.tensor([[1.0, 2.0]], requires_grad=True)
    heads.write(losses, Clock(1, 3, 9))
    assert not heads.sums.requires_grad
    other = HeadLosses(2)
    other.load_state_dict(heads.state_dict())
    assert other.sums.tolist() == [1.0, 2.0]
