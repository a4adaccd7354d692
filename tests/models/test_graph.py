"""Nearest neighbours of all images: without self, equal on any number of ranks, with faiss too; draws among them."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.parts import graph
from models.parts.graph import check_neighbors, draw_neighbors, mine_neighbors
from models.state import FeatureShard
from tests.ranks import run_ranks
from tests.vectors import z
from utils.draws import Draws
from utils.errors import UserError

N_ROWS, K = 31, 7
FEATURES = z(N_ROWS, 5, 2) * torch.arange(1, N_ROWS + 1)[:, None]  # of very different lengths
FEATURES[[11, 29]] = 4 * FEATURES[[4]]  # in the very direction of row 4


def nearest_loop(features: Tensor, k: int) -> list[list[int]]:
    """By cosine, ties to the lowest row."""
    cosines = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T
    found = []
    for row in range(len(features)):
        others = [other for other in range(len(features)) if other != row]
        found.append(sorted(others, key=lambda other: (-round(cosines[row, other].item(), 12), other))[:k])
    return found


def mined(rank: int, world: int) -> list[Tensor]:
    """On shards of 0, few and many rows; of rows in both precisions."""
    own = slice(*(N_ROWS * each**3 // world**3 for each in (rank, rank + 1)))
    rows = torch.arange(N_ROWS)[own]
    return [mine_neighbors(FeatureShard(rows, f[own], N_ROWS, 0), K) for f in (FEATURES, FEATURES.float())]


def test_neighbors_are_the_nearest_by_cosine_without_the_row_itself() -> None:
    for neighbors in mined(0, 1):
        assert (neighbors.dtype, neighbors.tolist()) == (torch.int32, nearest_loop(FEATURES, K))
        assert not (neighbors == torch.arange(N_ROWS)[:, None]).any()
        # equal directions: each of the three has the two others first, the lower one before the higher
        assert [neighbors[row, :2].tolist() for row in (4, 11, 29)] == [[11, 29], [4, 29], [4, 11]]


@pytest.mark.parametrize("world", [2, 4])
def test_neighbors_are_equal_on_every_rank_whatever_their_shards(world: int) -> None:
    alone = mined(0, 1)
    for neighbors in run_ranks(world, mined):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(neighbors, alone, strict=True))


def test_draws_are_of_the_rows_own_neighbors_and_uniform() -> None:
    neighbors = torch.arange(N_ROWS)[:, None].int() * 100 + torch.arange(K, dtype=torch.int32)
    rows = torch.arange(20_011) * 17 % N_ROWS
    drawn = draw_neighbors(neighbors, rows, Draws(3, 5, 0, len(rows), len(rows)), "neighbour")
    assert (drawn.dtype, drawn.shape) == (torch.int64, (len(rows), 1))
    assert torch.equal(drawn[:, 0] // 100, rows)
    counts = torch.bincount(drawn[:, 0] % 100, minlength=K)
    expected = len(rows) / K
    assert ((counts - expected) ** 2 / expected).sum() < 22.46  # chi-squared, 6 degrees of freedom: 0.001


def test_draws_are_the_same_whichever_rank_asks_and_others_at_the_next_step() -> None:
    neighbors, rows = mined(0, 1)[0], torch.tensor([3, 30, 0, 8, 19, 22, 1, 15])
    drawn = [draw_neighbors(neighbors, rows, Draws(3, 5, start, start + 2, 16), "a") for start in (8, 10, 14)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    others = [Draws(3, 5, 0, 2, 16), Draws(3, 6, 8, 10, 16), Draws(4, 5, 8, 10, 16)]
    assert all(not torch.equal(draw_neighbors(neighbors, rows, draws, "a"), drawn[0]) for draws in others)
    assert not torch.equal(draw_neighbors(neighbors, rows, Draws(3, 5, 8, 10, 16), "b"), drawn[0])


@pytest.mark.parametrize(
    ("n_rows", "problem"),
    [
        (7, "method.n_neighbors: 7 neighbours of each of 7 images; use 6 or fewer"),
        (1, "method.n_neighbors: 7 neighbours of each of 1 images; add images"),
    ],
)
def test_more_neighbors_than_other_images_are_refused(n_rows: int, problem: str) -> None:
    check_neighbors("method.n_neighbors", 7, 8)
    with pytest.raises(UserError, match=problem):
        check_neighbors("method.n_neighbors", 7, n_rows)


@pytest.mark.parametrize("copies", [1, 3, 17])  # with 17 a row need not be among the nearest of its own equals
def test_faiss_finds_the_same_neighbours_up_to_ties(copies: int) -> None:
    pytest.importorskip("faiss")
    features = torch.randn(211, 7, generator=torch.Generator().manual_seed(3)).repeat(copies, 1)
    shard = FeatureShard(torch.arange(len(features)), features, len(features), 0)
    expected = mine_neighbors(shard, 13)
    with patch.object(graph, "MANY", 211), patch.object(graph, "nearest_neighbors", None):
        found = mine_neighbors(shard, 13)
    assert (found.dtype, found.shape) == (torch.int32, expected.shape)
    assert not (found == torch.arange(len(features))[:, None]).any()
    assert all(len(set(line)) == 13 for line in found.tolist())
    unit = F.normalize(features, dim=1)
    near, nearest = (torch.einsum("nd,nkd->nk", unit, unit[rows.long()]) for rows in (found, expected))
    torch.testing.assert_close(near, nearest, rtol=0, atol=1e-6)
    if copies == 1:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("rows", [211, 97])
def test_faiss_is_not_asked_about_few_rows_or_float64(rows: int) -> None:
    features = torch.randn(rows, 7, dtype=torch.float64 if rows == 211 else torch.float32)
    with patch.object(graph, "MANY", 211), patch.object(graph, "_by_faiss", None):
        assert mine_neighbors(FeatureShard(torch.arange(rows), features, rows, 0), 5).shape == (rows, 5)
