"""From rows to the best of several restarts. n rows of this rank, D features, K clusters, R restarts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import Shard, chunks
from torch_clustering._collectives import sum_over_ranks
from torch_clustering.lloyd import Clustering, lloyd
from torch_clustering.seeding import generator, kmeans_plus_plus, random_rows


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


def cluster(shard: Shard, plan: Plan) -> Clustering:
    """The restart of least inertia. Collective."""
    tolerance = plan.tol * mean_variance(shard) if plan.tol > 0 else 0.0
    best: Clustering | None = None
    for restart in range(plan.n_init):
        start = first_centers(shard, plan, restart)
        found = lloyd(shard, start, spherical=plan.spherical, tolerance=tolerance, max_iter=plan.max_iter)
        # a margin: the same clusters found twice differ by rounding, which must not choose between them
        if best is None or found.inertia < best.inertia * (1 - 1e-9):
            best = found
    assert best is not None
    return best


def first_centers(shard: Shard, plan: Plan, restart: int) -> Tensor:
    """(K, D) centers to start from. Collective."""
    draws = generator(plan.seed, restart)
    if plan.init == "k-means++":
        return kmeans_plus_plus(shard, plan.n_clusters, draws)
    if isinstance(plan.init, str):
        return random_rows(shard, plan.n_clusters, draws)
    given = plan.init(shard.x, plan.n_clusters, int(draws.integers(2**31))) if callable(plan.init) else plan.init
    centers = torch.as_tensor(given).to(shard.x.device, torch.float64)
    expected = (plan.n_clusters, shard.x.shape[1])
    if centers.shape != expected:
        raise ValueError(f"init has shape {tuple(centers.shape)}; n_clusters and features ask for {expected}")
    return F.normalize(centers) if plan.spherical else centers


def mean_variance(shard: Shard) -> float:
    """Population variance of the rows of all ranks, mean over features, weights left aside. Collective."""
    total, squares = shard.x.new_zeros((2, shard.x.shape[1]), dtype=torch.float64)
    slices = chunks(len(shard.x), shard.x.shape[1], shard.x.device)
    for part in slices:
        total += shard.x[part].double().sum(0)
    mean = sum_over_ranks(total, shard.group) / shard.n_rows
    for part in slices:
        squares += (shard.x[part] - mean).square().sum(0)
    return float(sum_over_ranks(squares, shard.group).mean()) / shard.n_rows
