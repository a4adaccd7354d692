"""From rows to the best of several restarts, for one K or several. n rows of this rank, D features, K clusters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import Shard, chunks
from torch_clustering._collectives import sum_over_ranks
from torch_clustering.assign import Rows, inertia
from torch_clustering.lloyd import Climb, Settings, lloyd
from torch_clustering.scalable_seeding import kmeans_parallel
from torch_clustering.seeding import generator, kmeans_plus_plus, random_rows

# the share of changed labels at which bounds begin: never, from the first pass, when they pay
CALM = {"lloyd": -1.0, "elkan": 1.0, "auto": Settings.calm}


@dataclass(frozen=True)
class Plan:
    """What `KMeans` asks for, checked.

    init: a name, (K, D) centers, or a function (rows, K, seed) -> (K, D). spherical: rows of the shard have length 1.
    """

    n_clusters: int
    init: str | Tensor | Callable[..., Any]
    n_init: int
    max_iter: int
    tol: float
    seed: int
    spherical: bool = False
    algorithm: Literal["auto", "lloyd", "elkan"] = "auto"
    bounds_memory: int = 1 << 30


@dataclass(frozen=True)
class Clustering:
    """What one start led to.

    labels (n,) int64 of own rows; centers (K, D) in the rows' dtype; inertia: sum of w times the squared distance over
    all rows; n_used: clusters that have rows.
    """

    labels: Tensor
    centers: Tensor
    inertia: float
    n_iter: int
    n_relocated: int
    n_used: int


def cluster(shard: Shard, plan: Plan) -> Clustering:
    """The restart of least inertia. Collective."""
    return cluster_many(shard, [plan])[0]


def cluster_many(shard: Shard, plans: Sequence[Plan]) -> list[Clustering]:
    """For each plan the restart of least inertia; plans differ in n_clusters alone. Collective."""
    return [best_of(shard, found) for found in restarts(shard, plans)]


def restarts(shard: Shard, plans: Sequence[Plan]) -> list[list[Clustering]]:
    """For each plan what its restarts led to. Collective.

    The restarts of all plans share passes over the rows and messages; none depends on the others.
    """
    plan = plans[0]
    rows, variance = seen_from_mean(shard)
    settings = Settings(plan.tol * variance, plan.max_iter, plan.spherical, CALM[plan.algorithm], plan.bounds_memory)
    climbs = lloyd(shard, rows, first_centers(shard, rows, plans), settings)
    del rows  # what it holds is as large as the labels that are now made
    return [[reached(climbs.pop(0)) for _ in range(plan.n_init)] for plan in plans]


def reached(climb: Climb) -> Clustering:
    """What a climb led to."""
    return Clustering(climb.labels.long(), climb.centers, climb.inertia, climb.n_iter, climb.n_relocated, climb.n_used)


def best_of(shard: Shard, found: Sequence[Clustering]) -> Clustering:
    """The clustering of least inertia, which is then summed anew from differences. Collective."""
    best = found[0]
    for other in found[1:]:
        # a margin: the same clusters found twice differ by rounding, which must not choose between them
        if other.inertia < best.inertia - 1e-9 * abs(best.inertia):
            best = other
    own = inertia(shard.x, shard.weights, best.centers.double(), best.labels)
    return replace(best, inertia=float(sum_over_ranks(own, shard.group)))


def first_centers(shard: Shard, rows: Rows, plans: Sequence[Plan]) -> list[Tensor]:
    """(K, D) centers for each restart of each plan. Collective."""
    init = plans[0].init
    starts = [(plan.n_clusters, generator(plan.seed, restart)) for plan in plans for restart in range(plan.n_init)]
    if init in ("k-means++", "plain k-means++"):
        sizes, draws = zip(*starts, strict=True)
        greedy, memory = init == "k-means++", plans[0].bounds_memory
        return kmeans_plus_plus(shard, rows, sizes, draws, greedy=greedy, bounds_memory=memory)
    if init == "k-means||":
        return [kmeans_parallel(shard, rows, n_clusters, draws) for n_clusters, draws in starts]
    if isinstance(init, str):
        return [random_rows(shard, n_clusters, draws) for n_clusters, draws in starts]
    given = init if callable(init) else lambda *_: init
    found = [given(shard.x, n_clusters, int(draws.integers(2**31))).double() for n_clusters, draws in starts]
    return [F.normalize(centers) for centers in found] if plans[0].spherical else found


def seen_from_mean(shard: Shard) -> tuple[Rows, float]:
    """The rows seen from the mean of all ranks' rows, and the mean over features of their variance. Collective.

    The variance is that of the population, as in scikit-learn weights are left aside.
    """
    total = shard.x.new_zeros(shard.x.shape[1], dtype=torch.float64)
    for part in chunks(len(shard.x), shard.x.shape[1], shard.x.device):
        total += shard.x[part].sum(0, dtype=torch.float64)
    rows = Rows.about(shard.x, sum_over_ranks(total, shard.group) / shard.n_rows)
    squares = sum_over_ranks(rows.squares(), shard.group)
    return rows, float(squares) / (shard.n_rows * shard.x.shape[1])
