"""k-means++ draws against stored numbers, and the guard against rows that are centres already."""

import numpy as np
import pytest
import torch

from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import KMeans
from torch_clustering._checks import make_shard
from torch_clustering.seeding import (
    draw_rows,
    fetch_rows,
    generator,
    kmeans_plus_plus,
    next_center,
    quantum,
    random_rows,
    squared_distances,
    to_integers,
)

STORED = numbers("kmeans")["kmeanspp"]


def test_candidates_of_one_step_equal_the_stored_ones() -> None:
    shard = make_shard(made_rows(60, 5), None, 7, None)
    closest = squared_distances(shard.x, shard.x[:1])[:, 0]
    step = STORED["single_step"]
    drawn = draw_rows(to_integers(closest, quantum(closest, shard)), np.array(step["u"]), shard)
    left = torch.minimum(closest[:, None], squared_distances(shard.x, shard.x[drawn]))
    assert drawn == step["candidates"]
    assert close(left.sum(0), step["potentials"]) and close(closest.sum(), step["total"])


def test_greedy_steps_choose_the_stored_rows() -> None:
    shard = make_shard(made_rows(60, 5), None, 7, None)
    closest, chosen = squared_distances(shard.x, shard.x[:1])[:, 0], [0]
    for step in STORED["greedy_7_centers"]["steps"]:
        best, closest = next_center(shard, closest, quantum(closest, shard), np.array(step["u"]))
        chosen.append(int((shard.x == best).all(1).nonzero()))
        assert chosen[-1] == step["chosen"]
    assert chosen == STORED["greedy_7_centers"]["chosen"]
    assert close(closest.sum(), STORED["greedy_7_centers"]["final_potential"])


@pytest.mark.parametrize("n_clusters", [int(k) for k in STORED["n_local_trials"]])
def test_number_of_candidates_equals_the_stored_one(n_clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Draws:
        def random(self, n: int) -> np.ndarray:
            asked.append(n)
            return np.full(n, 0.5)

    kmeans_plus_plus(make_shard(torch.arange(1009.0)[:, None], None, n_clusters, None), n_clusters, Draws())
    assert asked == [1] + [STORED["n_local_trials"][str(n_clusters)]] * (n_clusters - 1)


@pytest.mark.parametrize("u", [0.0, np.nextafter(1, 0)])
def test_a_row_without_mass_is_never_drawn(u: float) -> None:
    shard = make_shard(torch.rand(5, 3), None, 1, None)
    masses = torch.tensor([0, 3, 0, 4, 0], dtype=torch.float64)
    (row,) = draw_rows(to_integers(masses, quantum(masses, shard)), np.array([u]), shard)
    assert row == (1 if u == 0 else 3)


def test_rows_are_drawn_in_proportion_to_their_mass() -> None:
    shard = make_shard(torch.rand(3, 2), None, 1, None)
    masses = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    drawn = draw_rows(to_integers(masses, quantum(masses, shard)), generator(0, 0).random(2003), shard)
    assert abs(drawn.count(2) / 2003 - 0.75) < 0.03 and drawn.count(1) == 0


def test_equal_rows_have_distance_zero_and_distances_do_not_depend_on_their_neighbours() -> None:
    x = 1000 + 0.001 * torch.randn(97, 61, generator=torch.Generator().manual_seed(0))
    whole = squared_distances(x, x[[5, 13, 5]])
    assert whole[5, 0] == 0 and whole[13, 1] == 0
    assert torch.equal(torch.cat([squared_distances(part, x[[13]]) for part in x.split([1, 0, 3, 93])]), whole[:, [1]])


def test_rows_of_weight_zero_are_no_seeds() -> None:
    x = made_rows(60, 5)
    weight = (torch.arange(60) % 4 == 1).double()
    centers = KMeans(7, max_iter=1).fit(x, weight).cluster_centers_
    seeds = kmeans_plus_plus(make_shard(x, weight, 7, None), 7, generator(0, 0))
    assert all(bool((x[weight > 0] == seed).all(1).any()) for seed in seeds) and centers.shape == (7, 5)


def test_random_rows_are_different_rows() -> None:
    shard = make_shard(torch.arange(13.0)[:, None], None, 13, None)
    assert sorted(random_rows(shard, 13, generator(0, 0)).flatten().tolist()) == list(range(13))
    assert fetch_rows(shard, [7, 2, 7]).flatten().tolist() == [7, 2, 7]


def test_restarts_and_seeds_have_their_own_streams() -> None:
    streams = [generator(seed, restart).random(3).tolist() for seed, restart in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert streams[0] == streams[3] and streams[0] != streams[1] and streams[0] != streams[2] != streams[1]
