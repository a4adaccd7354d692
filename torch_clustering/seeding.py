"""First centres, drawn alike on any number of ranks. n rows of this rank, N of all, K clusters, L candidates a step."""

import math

import numpy as np
import torch
from torch import Tensor

from torch_clustering._checks import Shard, warn
from torch_clustering._collectives import gather, rank, sum_over_ranks
from torch_clustering.assign import DIRECT


def generator(seed: int, restart: int) -> np.random.Generator:
    """The random numbers of one restart: a counter-based stream on the CPU, the same on every rank and machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, restart))))


def random_rows(shard: Shard, n_clusters: int, draws: np.random.Generator) -> Tensor:
    """(K, D) K different rows, each as likely as any other. Collective."""
    return fetch_rows(shard, draws.choice(shard.n_rows, n_clusters, replace=False).tolist())


def kmeans_plus_plus(shard: Shard, n_clusters: int, draws: np.random.Generator) -> Tensor:
    """(K, D) rows spread by greedy k-means++ (Arthur & Vassilvitskii 2007), the same for any split. Collective.

    Each step draws L = 2 + floor(ln K) candidates with probability w times the squared distance to the nearest centre
    so far, and keeps the one that leaves the least potential (the first among equals).
    """
    trials = 2 + int(math.log(n_clusters))
    weight_quanta = to_integers(shard.weights, quantum(shard.weights, shard))
    chosen = fetch_rows(shard, draw_rows(weight_quanta, draws.random(1), shard))
    closest = squared_distances(shard.x, chosen)[:, 0]  # (n,) to the nearest centre so far
    while len(chosen) < n_clusters:
        scale = quantum(shard.weights * closest, shard)
        if scale == 0:
            warn(f"{len(chosen)} distinct rows for {n_clusters} clusters; centers repeat")
            rest = draws.choice(shard.n_rows, n_clusters - len(chosen)).tolist()
            return torch.cat([chosen, fetch_rows(shard, rest)])
        best, closest = next_center(shard, closest, scale, draws.random(trials))
        chosen = torch.cat([chosen, best])
    return chosen


def next_center(shard: Shard, closest: Tensor, scale: float, uniforms: np.ndarray) -> tuple[Tensor, Tensor]:
    """(1, D) the candidate that leaves the least potential, and (n,) `closest` with it among the centres. Collective.

    closest (n,) float64: squared distance of own rows to the nearest centre so far; uniforms (L,) in [0, 1).
    """
    rows = draw_rows(to_integers(shard.weights * closest, scale), uniforms, shard)
    candidates = fetch_rows(shard, rows)  # (L, D)
    left = torch.minimum(closest[:, None], squared_distances(shard.x, candidates))  # (n, L)
    quanta = to_integers(shard.weights[:, None] * left, scale)
    potentials = sum_over_ranks(quanta.sum(0), shard.group).tolist()  # L
    best = potentials.index(min(potentials))
    return candidates[best : best + 1], left[:, best]


def squared_distances(x: Tensor, rows: Tensor) -> Tensor:
    """(n, L) float64, 0 between equal rows; each entry has the same bits whatever other rows stand beside it."""
    return torch.cdist(x, rows, compute_mode=DIRECT).double().square()


def quantum(masses: Tensor, shard: Shard) -> float:
    """Quanta per unit of mass, 0 without mass. Collective.

    The largest mass becomes 2^(62 - bits of N), so that a sum of N masses fits int64.
    """
    own = masses.max() if len(masses) else masses.new_zeros(())
    largest = float(gather(own, shard.group).max())
    return 2.0 ** (62 - math.ceil(math.log2(shard.n_rows + 1))) / largest if largest > 0 else 0.0


def to_integers(masses: Tensor, scale: float) -> Tensor:
    """Masses as int64 quanta. Integers add up to the same sum in any order, on any number of ranks."""
    return (masses * scale).to(torch.int64)


def draw_rows(quanta: Tensor, uniforms: np.ndarray, shard: Shard) -> list[int]:
    """Global ids of rows drawn in proportion to their quanta (n,) int64. Collective.

    For each u in [0, 1) the first row whose cumulative sum exceeds u * total: a row of mass 0 is never drawn.
    """
    cumulative = quanta.cumsum(0)  # (n,)
    own = cumulative[-1:].sum()
    totals = gather(own, shard.group).tolist()
    total, before = sum(totals), sum(totals[: rank(shard.group)])
    targets = [min(int(u * total), total - 1) + 1 for u in uniforms.tolist()]
    mine = torch.tensor([target - before for target in targets], device=quanta.device)  # (L,)
    found = torch.searchsorted(cumulative, mine) + shard.first
    found = torch.where((mine > 0) & (mine <= own), found, 0)
    return sum_over_ranks(found, shard.group).tolist()


def fetch_rows(shard: Shard, rows: list[int]) -> Tensor:
    """(len(rows), D) rows by global id, on every rank. Collective."""
    ids = torch.tensor(rows, dtype=torch.int64, device=shard.x.device) - shard.first
    mine = (ids >= 0) & (ids < len(shard.x))
    fetched = shard.x.new_zeros((len(rows), shard.x.shape[1]))
    fetched[mine] = shard.x[ids[mine]]
    return sum_over_ranks(fetched, shard.group)
