"""k-means++ draws against stored numbers, and the guard against rows that are centres already."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import KMeans
from torch_clustering._checks import Shard, make_shard
from torch_clustering.assign import Rows
from torch_clustering.bounds import Sketch
from torch_clustering.engine import seen_from_mean
from torch_clustering.masses import Masses
from torch_clustering.scalable_seeding import kmeans_parallel
from torch_clustering.seeding import (
    Seeding,
    add_centers,
    fetch_rows,
    generator,
    kmeans_plus_plus,
    random_rows,
    squared_distances,
)

STORED = numbers("kmeans")["kmeanspp"]


class Given:
    """A generator that gives these numbers and notes how many were asked for."""

    def __init__(self, *uniforms: list[float]) -> None:
        self.uniforms, self.asked = list(uniforms), []

    def random(self, n: int) -> np.ndarray:
        self.asked.append(n)
        return np.array(self.uniforms.pop(0)) if self.uniforms else np.full(n, 0.5)


def seen(x: torch.Tensor, weight: torch.Tensor | None = None) -> tuple[Shard, Rows]:
    shard = make_shard(x, weight, 1, None)
    return shard, seen_from_mean(shard)[0]


def seeds(x: torch.Tensor, n_clusters: int, draws: Any, weight: torch.Tensor | None = None) -> torch.Tensor:
    return kmeans_plus_plus(*seen(x, weight), [n_clusters], [draws])[0]


def begun(shard: Shard, rows: Rows, draws: Any) -> Seeding:
    """A seeding of 7 centres whose first is row 0."""
    seeding = Seeding(7, draws, 3)
    seeding.chosen, seeding.closest = shard.x[:1], squared_distances(rows, shard.x[:1])[0].clone()
    seeding.masses = Masses.of(seeding.closest, shard)
    return seeding


def test_candidates_of_one_step_equal_the_stored_ones() -> None:
    shard, rows = seen(made_rows(60, 5))
    seeding, step = begun(shard, rows, None), STORED["single_step"]
    drawn = seeding.masses.draw(np.array(step["u"]), shard)
    left = torch.minimum(seeding.closest, squared_distances(rows, shard.x[drawn]))
    assert drawn.tolist() == step["candidates"]
    assert close(left.sum(1), step["potentials"]) and close(seeding.closest.sum(), step["total"])


def test_greedy_steps_choose_the_stored_rows() -> None:
    shard, rows = seen(made_rows(60, 5))
    steps = STORED["greedy_7_centers"]["steps"]
    seeding = begun(shard, rows, Given(*(step["u"] for step in steps)))
    seeding.trials = len(steps[0]["u"])
    while seeding.running:
        add_centers(shard, rows, [seeding])
    chosen = [int((shard.x == center).all(1).nonzero()) for center in seeding.chosen]
    assert chosen == STORED["greedy_7_centers"]["chosen"]
    assert close(seeding.closest.sum(), STORED["greedy_7_centers"]["final_potential"])


@pytest.mark.parametrize("n_clusters", [int(k) for k in STORED["n_local_trials"]])
def test_number_of_candidates_equals_the_stored_one(n_clusters: int) -> None:
    draws = Given()
    seeds(torch.arange(1009.0)[:, None], n_clusters, draws)
    assert draws.asked == [1] + [STORED["n_local_trials"][str(n_clusters)]] * (n_clusters - 1)


def test_plain_seeding_draws_one_candidate_a_step() -> None:
    draws = Given()
    kmeans_plus_plus(*seen(made_rows(60, 5)), [7], [draws], greedy=False)
    assert draws.asked == [1] * 7


@pytest.mark.parametrize("u", [0.0, np.nextafter(1, 0)])
def test_a_row_without_mass_is_never_drawn(u: float) -> None:
    shard, _ = seen(torch.rand(5, 3))
    masses = Masses.of(torch.tensor([0, 3, 0, 4, 0], dtype=torch.float64), shard)
    assert masses.draw(np.array([u]), shard).tolist() == [1 if u == 0 else 3]


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
def test_rows_are_drawn_in_proportion_to_their_mass(unit: float) -> None:
    shard, _ = seen(torch.rand(3, 2))
    masses = Masses.of(torch.tensor([1.0, 0.0, 3.0]) * unit, shard)
    drawn = masses.draw(generator(0, 0).random(2003), shard).tolist()
    assert abs(drawn.count(2) / 2003 - 0.75) < 0.03 and drawn.count(1) == 0


def test_equal_rows_have_distance_zero_and_near_ones_their_own() -> None:
    x = 1000 + 0.001 * torch.randn(97, 61, generator=torch.Generator().manual_seed(0))
    x[17] = x[13]
    _, rows = seen(x)
    squared = squared_distances(rows, x[[5, 13]])
    exact = (x.double()[None] - x[[5, 13], None].double()).square().sum(2)
    assert squared[0, 5] == 0 and squared[1, 13] == 0 and squared[1, 17] == 0
    torch.testing.assert_close(squared.double(), exact, rtol=1e-4, atol=0)


def test_seeds_do_not_rest_on_products_of_reduced_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    x = 3 + torch.randn(509, 61, generator=torch.Generator().manual_seed(0))
    expected = seeds(x, 31, generator(0, 0))
    monkeypatch.setattr("torch_clustering.seeding.factor_error", lambda x: 2.0**-9)
    monkeypatch.delattr(torch, "addmm")
    assert torch.equal(seeds(x, 31, generator(0, 0)), expected)


def test_a_far_row_leaves_the_others_their_masses() -> None:
    x = torch.randn(53, 3, generator=torch.Generator().manual_seed(0))
    x[7] += 1e9
    centers = seeds(x, 5, generator(0, 0))
    assert len(centers.unique(dim=0)) == 5


def test_rows_of_weight_zero_are_no_seeds() -> None:
    x = made_rows(60, 5)
    weight = (torch.arange(60) % 4 == 1).double()
    for centers in (seeds(x, 7, generator(0, 0), weight), kmeans_parallel(*seen(x, weight), 7, generator(0, 0))):
        assert all(bool((x[weight > 0] == seed).all(1).any()) for seed in centers) and len(centers.unique(dim=0)) == 7


def test_seedings_in_step_equal_each_alone() -> None:
    x = torch.randn(509, 7, generator=torch.Generator().manual_seed(0))
    sizes = [3, 11, 5]
    together = kmeans_plus_plus(*seen(x), sizes, [generator(0, restart) for restart in range(3)])
    for restart, size in enumerate(sizes):
        assert torch.equal(together[restart], seeds(x, size, generator(0, restart)))


def test_candidates_that_are_computed_again_lead_to_the_same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    x = made_rows(509, 7)
    kept = seeds(x, 11, generator(0, 0))
    monkeypatch.setattr("torch_clustering.seeding.LEFT_BYTES", 8 * 4 * 101)
    assert torch.equal(seeds(x, 11, generator(0, 0)), kept)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("left_bytes", [1 << 24, 8 * 4 * 101])
def test_a_sketch_changes_no_seed(monkeypatch: pytest.MonkeyPatch, left_bytes: int, weighted: bool) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(4001, 9, generator=draws) @ torch.randn(9, 131, generator=draws)
    x += 3 + 0.1 * torch.randn(4001, 131, generator=draws)
    shard, rows = seen(x, (torch.arange(4001) % 3).double() if weighted else None)
    monkeypatch.setattr("torch_clustering.seeding.LEFT_BYTES", left_bytes)
    looked_at = []
    near = Sketch.near

    def watched(*arguments: Any) -> list[torch.Tensor]:
        looked_at.extend(found := near(*arguments))
        return found

    monkeypatch.setattr(Sketch, "near", watched)
    found = [
        kmeans_plus_plus(shard, rows, [71, 97], [generator(0, 0), generator(0, 1)], bounds_memory=memory)
        for memory in (0, 1 << 30)
    ]
    assert all(torch.equal(plain, sketched) for plain, sketched in zip(*found, strict=True))
    assert len(looked_at) > 100 and min(map(len, looked_at)) < 401


def test_scalable_seeds_are_rows_and_start_as_well_as_greedy_ones() -> None:
    x = 5 * torch.randn(31, 7, generator=torch.Generator().manual_seed(0))[torch.arange(2003) % 31]
    x += torch.randn(2003, 7, generator=torch.Generator().manual_seed(1))
    centers = kmeans_parallel(*seen(x), 31, generator(0, 0))
    assert all(bool((x == center).all(1).any()) for center in centers)
    greedy, scalable = (KMeans(31, init=init, n_init=3).fit(x).inertia_ for init in ("k-means++", "k-means||"))
    assert scalable == pytest.approx(greedy, rel=0.02)


def test_random_rows_are_different_rows() -> None:
    shard, _ = seen(torch.arange(13.0)[:, None])
    assert sorted(random_rows(shard, 13, generator(0, 0)).flatten().tolist()) == list(range(13))
    assert fetch_rows(shard, [7, 2, 7]).flatten().tolist() == [7, 2, 7]


def test_restarts_and_seeds_have_their_own_streams() -> None:
    streams = [generator(seed, restart).random(3).tolist() for seed, restart in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert streams[0] == streams[3] and streams[0] != streams[1] and streams[0] != streams[2] != streams[1]
