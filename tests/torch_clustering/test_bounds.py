"""Bounds hold, leave rows out, and change nothing of the result; starts in step do not see each other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from torch_clustering._checks import make_shard
from torch_clustering.assign import Rows, Scorer, nearest
from torch_clustering.bounds import Bounds, Sketch
from torch_clustering.engine import Plan, cluster, cluster_many, restarts, seen_from_mean
from torch_clustering.lloyd import Settings, lloyd
from torch_clustering.seeding import squared_distances

DTYPES = [torch.float32, torch.float64]


def overlapping(n_rows: int, width: int, dtype: torch.dtype = torch.float32, offset: float = 0.0) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    means = 0.7 * torch.randn(5, width, generator=draws)
    x = means[torch.arange(n_rows) % 5] + torch.randn(n_rows, width, generator=draws)
    return (x + offset).to(dtype)


def plan(n_clusters: int, init: object = "k-means++", **changes: object) -> Plan:
    settings = {"n_init": 1, "max_iter": 300, "tol": 0.0, "seed": 0} | changes
    return Plan(n_clusters, init, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_clusters", [3, 37])
def test_bounds_stay_true_and_leave_rows_out_while_centres_move(
    dtype: torch.dtype, n_clusters: int, offset: float
) -> None:
    x = overlapping(503, 7, dtype, offset)
    draws = torch.Generator().manual_seed(0)
    rows, centers = Rows.about(x, x.double().mean(0)), x[:n_clusters].double()
    bounds, labels = Bounds(rows, n_clusters), torch.empty(503, dtype=torch.int32)
    bounds.fill(Scorer(rows, centers), labels)
    left_out = []
    for step in (1e-7, 1e-2, 1e-4, 3e-2, 1e-1):
        moved = centers + step * torch.randn(n_clusters, 7, generator=draws, dtype=torch.float64)
        bounds.move((moved - centers).norm(dim=1))
        centers = moved
        left_out.append(503 - len(bounds.unproven(labels)[0]))
        distances = torch.cdist(x.double(), centers, compute_mode="donot_use_mm_for_euclid_dist")
        others = distances.scatter(1, labels[:, None].long(), float("inf"))
        assert bool((bounds.lower - bounds.road <= others).all())
        assert bool((bounds.upper + bounds.road[labels] >= distances.gather(1, labels[:, None].long())[:, 0]).all())
        again = bounds.unproven(labels)[0]
        bounds.refresh(Scorer(rows, centers), labels)
        assert torch.equal(labels.long(), distances.argmin(1))
        own = labels[again, None].long()
        upper = bounds.upper[again] + bounds.road[own[:, 0]]
        torch.testing.assert_close(upper.to(dtype), distances[again].gather(1, own)[:, 0].to(dtype), rtol=1e-3, atol=0)
        assert bool(bounds.lower.gather(1, labels[:, None].long()).isinf().all())
    assert left_out[0] > 490 and min(left_out) > 0


@pytest.mark.parametrize("n_clusters", [1, 7, 41])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("wide", [5, 256])
def test_every_algorithm_gives_the_same_result(
    dtype: torch.dtype, n_clusters: int, spherical: bool, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch_clustering.bounds.WIDE", wide)  # rows measure their own distance first, or not
    x = overlapping(1009, 7, dtype)
    x = torch.nn.functional.normalize(x) if spherical else x
    shard = make_shard(x, 1 + torch.arange(1009) % 3, n_clusters, None)
    ways = [{"algorithm": "lloyd"}, {"algorithm": "elkan"}, {"algorithm": "auto"}, {"bounds_memory": 0}]
    dense, *others = (cluster(shard, plan(n_clusters, spherical=spherical, **way)) for way in ways)
    assert dense.n_iter > 5 or n_clusters == 1
    for other in others:
        assert torch.equal(other.labels, dense.labels) and other.n_iter == dense.n_iter
        torch.testing.assert_close(other.centers, dense.centers, rtol=1e-6, atol=1e-6)


def test_bounds_take_no_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    take = Bounds.__init__
    monkeypatch.setattr(
        Bounds, "__init__", lambda self, rows, k: sizes.append(4 * k * len(rows.x)) or take(self, rows, k)
    )
    shard = make_shard(overlapping(1009, 7), None, 11, None)
    for allowed, number in ((0, 0), (4 * 11 * 1009 - 1, 0), (4 * 11 * 1009, 1), (4 * 11 * 1009 * 3, 3)):
        sizes.clear()
        restarts(shard, [plan(11, n_init=3, algorithm="elkan", bounds_memory=allowed)])
        assert len(sizes) >= number if number == 1 else len(sizes) == number


def test_bounds_survive_the_relocation_of_empty_clusters() -> None:
    x = overlapping(1009, 7)
    shard = make_shard(x, None, 5, None)
    init = torch.cat([x[:2], x[2:5] + 100]).double()
    dense, bounded = (cluster(shard, plan(5, init, algorithm=way)) for way in ("lloyd", "elkan"))
    assert dense.n_relocated == bounded.n_relocated == 3 and torch.equal(dense.labels, bounded.labels)


def test_what_a_restart_leads_to_does_not_depend_on_the_others() -> None:
    shard = make_shard(overlapping(1009, 7), None, 11, None)
    plans = [plan(11, n_init=3), plan(3, n_init=2)]
    together = restarts(shard, plans)
    rows, _ = seen_from_mean(shard)
    for of_plan, one in zip(together, plans, strict=True):
        alone = restarts(shard, [one])[0]
        for shared, own in zip(of_plan, alone, strict=True):
            assert torch.equal(shared.labels, own.labels) and torch.equal(shared.centers, own.centers)
            assert shared.n_iter == own.n_iter and shared.inertia == pytest.approx(own.inertia, rel=1e-12)
    best = [min(of_plan, key=lambda one: one.inertia) for of_plan in together]
    assert [one.inertia for one in cluster_many(shard, plans)] == pytest.approx([one.inertia for one in best], rel=1e-6)


def test_the_final_labels_are_those_of_the_returned_centres_after_any_number_of_passes() -> None:
    x = overlapping(1009, 7)
    shard = make_shard(x, None, 11, None)
    rows, _ = seen_from_mean(shard)
    for max_iter in (1, 2, 5, 100):
        settings = Settings(tolerance=0.0, max_iter=max_iter)
        for calm in (-1.0, 0.05, 1.0):
            (climb,) = lloyd(shard, rows, [x[:11]], replace(settings, calm=calm))
            assert torch.equal(climb.labels.long(), nearest(x, climb.centers.double()))
            exact = (x.double() - climb.centers.double()[climb.labels.long()]).square().sum()
            assert climb.inertia == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("spread", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_rows_that_all_but_collapse_get_the_labels_of_float64(spread: float) -> None:
    draws = torch.Generator().manual_seed(0)
    middle = torch.nn.functional.normalize(torch.randn(256, generator=draws), dim=0)
    means = torch.randn(10, 256, generator=draws) / 16
    noise = 0.3 * torch.randn(2003, 256, generator=draws) / 16
    x = torch.nn.functional.normalize(middle + spread * (means[torch.arange(2003) % 10] + noise))
    shard = make_shard(x, None, 10, None)
    found = cluster(shard, plan(10, x[:10].double()))
    exact = torch.cdist(x.double(), found.centers.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(found.labels, exact.argmin(1)) and len(found.labels.unique()) == 10
    assert found.inertia == pytest.approx(float(exact.amin(1).square().sum()), rel=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["wide", "flat", "round", "far", "one far row", "tiny", "huge"])
def test_rows_that_a_sketch_leaves_out_are_no_nearer(case: str, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(1009, 5, generator=draws) @ torch.randn(5, 61, generator=draws)
    x += {"flat": 0.0, "round": 1.0}.get(case, 0.1) * torch.randn(1009, 61, generator=draws)
    x *= {"tiny": 1e-15, "huge": 1e15}.get(case, 1.0)
    x += 100.0 if case == "far" else 0.0
    x[7] += 1e6 if case == "one far row" else 0.0
    x = x.to(dtype)
    rows = Rows.about(x, x.double().mean(0))
    sketch, left_out = Sketch(rows, 8), 0
    for step in range(20):
        first = 8 * step
        closest = squared_distances(rows, x[: first + 40]).amin(0)
        points = [x[first + 40 : first + 43], x[first + 43 : first + 48]]
        for some, near in zip(points, sketch.near(points, [closest, closest]), strict=True):
            far = torch.ones(1009, dtype=torch.bool).index_fill(0, near, False)
            assert bool((squared_distances(rows, some)[:, far] >= closest[far]).all())
            left_out += int(far.sum())
    assert left_out > {"round": 0.05, "one far row": 0.0}.get(case, 0.5) * 40 * 1009


def test_a_sketch_of_no_rows_finds_none() -> None:
    x = torch.rand(0, 31)
    sketch = Sketch(Rows.about(x, torch.zeros(31)), 8)
    assert [len(near) for near in sketch.near([torch.rand(3, 31)], [torch.rand(0)])] == [0]
