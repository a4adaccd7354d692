"""First centres, drawn alike on any number of ranks. n rows of this rank, N of all, K clusters, L candidates a step.

Rows are drawn in proportion to masses (weight times squared distance) that are rounded to whole quanta: integers have
the same sums in any order, so a draw does not depend on how the rows are split. Several seedings go in step and share
their passes over the rows and two messages a step.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torch_clustering._checks import CHUNK_BYTES, Shard, chunks, warn
from torch_clustering._collectives import gather, rank, sum_over_ranks
from torch_clustering.assign import DIRECT, Rows, factor_error, relative_error

LEFT_BYTES = 1 << 24  # of distances to candidates that are kept until the best is known; more are computed again
LEAST_ROWS = 64  # products of fewer rows are made by other kernels, with other rounding
EXACT = 2.0**30  # quanta of a potential below which masses are rounded anew


def generator(seed: int, restart: int) -> np.random.Generator:
    """The random numbers of one restart: a counter-based stream on the CPU, the same on every rank and machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, restart))))


def random_rows(shard: Shard, n_clusters: int, draws: np.random.Generator) -> Tensor:
    """(K, D) K different rows, each as likely as any other. Collective."""
    return fetch_rows(shard, draws.choice(shard.n_rows, n_clusters, replace=False).tolist())


class Masses:
    """What rows are drawn by: masses (n,) >= 0 of own rows in whole quanta.

    scale: quanta per unit of mass, a power of 2; totals: quanta of each rank.
    """

    def __init__(self, masses: Tensor, scale: float, totals: Sequence[int]) -> None:
        self.masses, self.scale, self.totals = masses, scale, list(totals)

    @classmethod
    def of(cls, masses: Tensor, shard: Shard) -> "Masses":
        """Masses in quanta as fine as sums of N of them can be. Collective."""
        largest = masses.max() if len(masses) else masses.new_zeros(())
        scale = scale_of(float(gather(largest, shard.group).max()), shard.n_rows)
        return cls(masses, scale, gather(to_quanta(masses, scale).sum(), shard.group).tolist())

    def draw(self, uniforms: np.ndarray, shard: Shard) -> Tensor:
        """(L,) positions of the drawn rows among own rows, -1 for those of other ranks.

        For each u in [0, 1) the first row whose cumulative sum exceeds u * total: a row of mass 0 is never drawn.
        """
        total, before = sum(self.totals), sum(self.totals[: rank(shard.group)])
        targets = [min(int(u * total), total - 1) + 1 for u in uniforms.tolist()]
        mine = torch.tensor([target - before for target in targets], device=self.masses.device)  # (L,)
        cumulative = to_quanta(self.masses, self.scale).cumsum(0)  # (n,)
        found = torch.searchsorted(cumulative, mine)
        return torch.where((mine > 0) & (found < len(cumulative)), found, -1)


class Seeding:
    """One k-means++ seeding on its way: chosen (C, D) centres; closest (n,) squared distance of own rows to them."""

    def __init__(self, n_clusters: int, draws: np.random.Generator, trials: int) -> None:
        self.n_clusters, self.draws, self.trials = n_clusters, draws, trials
        self.chosen: Tensor
        self.closest: Tensor
        self.masses: Masses

    @property
    def running(self) -> bool:
        """Whether centres are missing and rows off the chosen centres are there to be chosen."""
        return len(self.chosen) < self.n_clusters and sum(self.masses.totals) > 0


def kmeans_plus_plus(
    shard: Shard, rows: Rows, sizes: Sequence[int], draws: Sequence[np.random.Generator], *, greedy: bool = True
) -> list[Tensor]:
    """Per seeding (K, D) rows spread by k-means++ (Arthur & Vassilvitskii 2007), the same for any split. Collective.

    Each step draws L candidates with probability w times the squared distance to the nearest centre so far, and keeps
    the one that leaves the least potential (the first among equals). L is 2 + floor(ln K) if `greedy`, else 1.
    """
    pairs = list(zip(sizes, draws, strict=True))
    seedings = [Seeding(size, draw, 2 + int(math.log(size)) if greedy else 1) for size, draw in pairs]
    first = Masses.of(shard.weights, shard)
    positions = torch.cat([first.draw(seeding.draws.random(1), shard) for seeding in seedings])
    starts = rows_at(shard, positions)  # (seedings, D)
    for seeding, start, closest in zip(seedings, starts, squared_distances(rows, starts), strict=True):
        seeding.chosen, seeding.closest = start[None], closest.clone()
        seeding.masses = Masses.of(shard.weights.to(closest.dtype) * closest, shard)
    while running := [seeding for seeding in seedings if seeding.running]:
        add_centers(shard, rows, running)
    return [fill_up(shard, seeding) for seeding in seedings]


def fill_up(shard: Shard, seeding: Seeding) -> Tensor:
    """(K, D) the chosen centres; any rows where there are not enough distinct ones. Collective."""
    missing = seeding.n_clusters - len(seeding.chosen)
    if missing == 0:
        return seeding.chosen
    warn(f"{len(seeding.chosen)} distinct rows for {seeding.n_clusters} clusters; centers repeat")
    rest = seeding.draws.choice(shard.n_rows, missing).tolist()
    return torch.cat([seeding.chosen, fetch_rows(shard, rest)])


def add_centers(shard: Shard, rows: Rows, seedings: Sequence[Seeding]) -> None:
    """One more centre for each seeding. Collective: two messages for all."""
    drawn = [seeding.masses.draw(seeding.draws.random(seeding.trials), shard) for seeding in seedings]
    candidates = rows_at(shard, torch.cat(drawn))  # (sum of L, D)
    ends = np.cumsum([seeding.trials for seeding in seedings]).tolist()
    columns = [slice(end - seeding.trials, end) for end, seeding in zip(ends, seedings, strict=True)]
    weights = None if shard.weights.stride() == (0,) else shard.weights.to(rows.x.dtype)
    step = max(1, LEFT_BYTES // (rows.x.element_size() * len(candidates)))
    kept = step >= shard.n_rows  # the same on every rank
    sums = torch.zeros(len(candidates), dtype=torch.int64, device=rows.x.device)
    largest = torch.zeros(len(candidates), dtype=torch.float64, device=rows.x.device)
    left = rows.x.new_empty((len(candidates), 0))
    for start in range(0, len(rows.x), step):
        part = slice(start, start + step)
        left = squared_distances(rows, candidates, part)  # (sum of L, b)
        for seeding, own in zip(seedings, columns, strict=True):
            torch.minimum(left[own], seeding.closest[part], out=left[own])
            masses = left[own] if weights is None else left[own] * weights[part]
            sums[own] += to_quanta(masses, seeding.masses.scale).sum(1)
            largest[own] = torch.maximum(largest[own], masses.amax(1).double())
    told = gather(torch.stack([sums, largest.view(torch.int64)]), shard.group)  # (W, 2, sum of L)
    potentials, maxima = told[:, 0], told[:, 1].contiguous().view(torch.float64).amax(0).tolist()
    for seeding, own in zip(seedings, columns, strict=True):
        sums_of_ranks = potentials[:, own].sum(0).tolist()
        best = own.start + sums_of_ranks.index(min(sums_of_ranks))
        seeding.chosen = torch.cat([seeding.chosen, candidates[best : best + 1]])
        if kept:
            seeding.closest = left[best].clone()
        else:
            torch.minimum(seeding.closest, squared_distances(rows, candidates[best : best + 1])[0], out=seeding.closest)
        masses = seeding.closest if weights is None else seeding.closest * weights
        seeding.masses = Masses(masses, seeding.masses.scale, potentials[:, best].tolist())
        if not kept or (min(sums_of_ranks) < EXACT and maxima[best] > 0):
            seeding.masses = Masses.of(masses, shard)


def squared_distances(rows: Rows, centers: Tensor, part: slice = slice(None)) -> Tensor:
    """(C, b) of the rows `part` to rows `centers` (C, D) of the same data, exact where they are all but equal.

    Equal rows have distance 0. An entry has the same bits whatever other rows stand beside it, all but always. The
    result is overwritten by the next call.
    """
    x, norms = rows.x[part], rows.norms[part]
    if factor_error(x) > 0:  # a setting of torch must not change what is drawn
        return torch.cdist(centers, x, compute_mode=DIRECT).square_()
    origin = rows.origin.to(x.dtype)
    moved = centers - origin  # (C, D)
    own_squares = moved.square().sum(1, keepdim=True)
    bias = own_squares + 2 * (moved @ origin)[:, None] if rows.folded else own_squares
    squared = rows.buffer("squared", len(centers), len(x))
    step = max(LEAST_ROWS, CHUNK_BYTES // (x.element_size() * x.shape[1]))
    weight = -2 * moved
    starts = list(range(0, max(len(x) - LEAST_ROWS + 1, 1), step))
    for start, end in zip(starts, [*starts[1:], len(x)], strict=True):
        block = x[start:end] if rows.folded else x[start:end] - origin
        if len(block) < LEAST_ROWS:
            block = torch.cat([block, block.new_zeros((LEAST_ROWS - len(block), block.shape[1]))])
            squared[:, start:end] = torch.addmm(bias, weight, block.T)[:, : end - start]
        else:
            if block.device.type == "cpu":
                block.sum()  # brings it into the cache, which a thin product alone does too slowly
            torch.addmm(bias, weight, block.T, out=squared[:, start:end])
    squares = norms.square()
    squared += squares
    # where rounding may be all that is left: |x|² + |c|² and what lies between the origin and 0 bound it
    bound = squares + own_squares.max() + (rows.origin.square().sum() if rows.folded else 0.0)  # (b,)
    center, row = (squared <= bound.mul_(32 * relative_error(x))).nonzero().unbind(1)
    for pairs in chunks(len(row), 2 * x.shape[1], x.device):
        of_row, of_center = row[pairs], center[pairs]
        exact = (x[of_row].double() - centers[of_center]).square().sum(1)
        squared[of_center, of_row] = exact.to(x.dtype)
    return squared


def scale_of(largest: float, n_rows: int) -> float:
    """Quanta per unit of mass, 0 without mass: a power of 2 by which a sum of N masses up to `largest` fits int64."""
    return 2.0 ** (61 - math.ceil(math.log2(n_rows + 1)) - math.frexp(largest)[1]) if largest > 0 else 0.0


def to_quanta(masses: Tensor, scale: float) -> Tensor:
    """Masses as int64 quanta. Integers add up to the same sum in any order, on any number of ranks."""
    exact = masses if scale < 2.0**100 else masses.double()  # float32 ends at 2^128
    return (exact * scale).to(torch.int64)


def rows_at(shard: Shard, positions: Tensor) -> Tensor:
    """(m, D) rows at positions (m,) of the rank that has them, -1 on the others, on every rank. Collective."""
    mine = (positions >= 0).nonzero()[:, 0]
    fetched = shard.x.new_zeros((len(positions), shard.x.shape[1]))
    fetched[mine] = shard.x[positions[mine]]
    return sum_over_ranks(fetched, shard.group)


def fetch_rows(shard: Shard, ids: Sequence[int]) -> Tensor:
    """(m, D) rows by global id, on every rank. Collective."""
    positions = torch.tensor(ids, dtype=torch.int64, device=shard.x.device) - shard.first
    return rows_at(shard, torch.where((positions >= 0) & (positions < len(shard.x)), positions, -1))
