"""Sums and gathers over ranks, forward and backward, with data that differ per rank."""

import pytest
import torch

from tests.ranks import run_ranks
from utils import distributed

ROWS, WIDTH = 4, 3


def whole(world: int) -> torch.Tensor:
    return torch.linspace(-1, 1, world * ROWS * WIDTH, dtype=torch.float64).view(world * ROWS, WIDTH) ** 3


def pair_loss(rows: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(rows @ rows.T, dim=1).mean()


def gather_part(rank: int, world: int) -> tuple[float, torch.Tensor]:
    own = whole(world)[rank * ROWS : (rank + 1) * ROWS].clone().requires_grad_()
    loss = pair_loss(distributed.gather(own))
    loss.backward()
    return loss.item(), own.grad


def sum_part(rank: int, world: int) -> tuple[float, torch.Tensor]:
    own = whole(world)[rank * ROWS : (rank + 1) * ROWS].clone().requires_grad_()
    loss = distributed.sum_over_ranks(own.sum(0)).pow(3).sum()
    loss.backward()
    return loss.item(), own.grad


@pytest.mark.parametrize("world", [2, 4])
def test_gather_gradient_over_ranks_is_world_times_the_gradient_of_one_process(world: int) -> None:
    rows = whole(world).requires_grad_()
    loss = pair_loss(rows)
    loss.backward()
    for rank, (value, gradient) in enumerate(run_ranks(world, gather_part)):
        assert value == pytest.approx(loss.item(), abs=1e-14)
        # every rank holds the whole loss: the sum over ranks, which DDP's mean divides again
        torch.testing.assert_close(gradient / world, rows.grad[rank * ROWS : (rank + 1) * ROWS], atol=1e-14, rtol=0)


@pytest.mark.parametrize("world", [2, 4])
def test_sum_over_ranks_gradient_is_world_times_the_gradient_of_one_process(world: int) -> None:
    rows = whole(world).requires_grad_()
    loss = rows.sum(0).pow(3).sum()
    loss.backward()
    for rank, (value, gradient) in enumerate(run_ranks(world, sum_part)):
        assert value == pytest.approx(loss.item(), abs=1e-13)
        torch.testing.assert_close(gradient / world, rows.grad[rank * ROWS : (rank + 1) * ROWS], atol=1e-13, rtol=0)


def shared_sum_part(rank: int, world: int) -> torch.Tensor:
    own = whole(world)[rank * ROWS : (rank + 1) * ROWS].clone().requires_grad_()
    distributed.sum_over_ranks(own.sum(0), same_loss=True).pow(3).sum().backward()
    return own.grad


@pytest.mark.parametrize("world", [2, 4])
def test_sum_of_a_loss_that_all_ranks_share_has_the_same_gradient_without_a_message(world: int) -> None:
    exchanged = [gradient for _, gradient in run_ranks(world, sum_part)]
    for silent, expected in zip(run_ranks(world, shared_sum_part), exchanged, strict=True):
        torch.testing.assert_close(silent, expected, atol=1e-14, rtol=0)


def unequal_part(rank: int, world: int) -> torch.Tensor:
    own = torch.arange(rank * 10, rank * 10 + (0, 3, 1, 5)[rank])
    return distributed.gather_rows(own)


@pytest.mark.parametrize(("world", "expected"), [(2, [10, 11, 12]), (4, [10, 11, 12, 20, 30, 31, 32, 33, 34])])
def test_gather_rows_joins_unequal_and_empty_blocks_in_rank_order(world: int, expected: list[int]) -> None:
    for rows in run_ranks(world, unequal_part):
        assert rows.tolist() == expected


def talk_part(rank: int, world: int) -> tuple[str, bool, bool, list[int]]:
    mean = distributed.mean_over_ranks_(torch.tensor([float(rank)]))
    assert mean.item() == (world - 1) / 2
    return (
        distributed.broadcast_object(f"from {rank}"),
        distributed.any_rank(rank == world - 1),
        distributed.any_rank(False),
        [distributed.rank(), distributed.world()],
    )


def test_every_rank_hears_rank_zero_and_any_rank() -> None:
    for rank, heard in enumerate(run_ranks(2, talk_part)):
        assert heard == ("from 0", True, False, [rank, 2])


def test_one_process_needs_no_group() -> None:
    rows = whole(1)
    assert distributed.world() == 1
    assert distributed.everyone() is None
    assert distributed.gather(rows) is rows
    assert distributed.gather_rows(rows) is rows
    assert distributed.once_per_machine(lambda: 7) == 7
