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

from torch_clustering._checks import CHUNK_BYTES, Shard, chunks, part_of, warn
from torch_clustering._collectives import gather, sum_over_ranks
from torch_clustering.assign import DIRECT, Rows, factor_error, relative_error
from torch_clustering.bounds import DOUBT, Sketch
from torch_clustering.masses import Masses, to_quanta

LEFT_BYTES = 1 << 24  # of distances to candidates that are kept until the best is known; more are computed again
LEAST_ROWS = 64  # products of fewer rows are made by other kernels, with other rounding
EXACT = 2.0**30  # quanta of a potential below which masses are rounded anew
COORDINATES = 64  # of a sketch
MANY = 64  # centres of a seeding for which a sketch is worth making
SCREENED = 16  # chosen centres from which on it is tried
FEW = 0.3  # share of the rows up to which a step over them alone is faster than one over all


def generator(seed: int, restart: int) -> np.random.Generator:
    """The random numbers of one restart: a counter-based stream on the CPU, the same on every rank and machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, restart))))


def random_rows(shard: Shard, n_clusters: int, draws: np.random.Generator) -> Tensor:
    """(K, D) K different rows, each as likely as any other. Collective."""
    return fetch_rows(shard, draws.choice(shard.n_rows, n_clusters, replace=False).tolist())


class Seeding:
    """One k-means++ seeding on its way: chosen (C, D) centres; closest (n,) squared distance of own rows to them."""

    def __init__(self, n_clusters: int, draws: np.random.Generator, trials: int) -> None:
        self.n_clusters, self.draws, self.trials = n_clusters, draws, trials
        self.chosen: Tensor
        self.closest: Tensor
        self.masses: Masses
        self.screened_from = SCREENED  # chosen centres from which on a sketch is tried

    def savings(self, squared: Tensor, part: slice | Tensor, weights: Tensor | None) -> Tensor:
        """(L,) quanta of the rows `part` that each candidate would spare.

        squared (L, b) distances to the candidates become, in place, those to the nearest centre with each.
        """
        closest, scale = self.closest[part], self.masses.scale
        left = torch.minimum(squared, closest, out=squared)
        if weights is not None:
            closest, left = closest * weights[part], left * weights[part]
        return to_quanta(closest, scale).sum() - to_quanta(left, scale).sum(1)

    @property
    def running(self) -> bool:
        """Whether centres are missing and rows off the chosen centres are there to be chosen."""
        return len(self.chosen) < self.n_clusters and sum(self.masses.totals) > 0


def kmeans_plus_plus(
    shard: Shard,
    rows: Rows,
    sizes: Sequence[int],
    draws: Sequence[np.random.Generator],
    *,
    greedy: bool = True,
    bounds_memory: int = 1 << 30,
) -> list[Tensor]:
    """Per seeding (K, D) rows spread by k-means++ (Arthur & Vassilvitskii 2007), the same for any split. Collective.

    Each step draws L candidates with probability w times the squared distance to the nearest centre so far, and keeps
    the one that leaves the least potential (the first among equals). L is 2 + floor(ln K) if `greedy`, else 1. Rows
    that no candidate of a step comes near are left out, where bounds of all centres would fit `bounds_memory` bytes.
    """
    pairs = list(zip(sizes, draws, strict=True))
    seedings = [Seeding(size, draw, 2 + int(math.log(size)) if greedy else 1) for size, draw in pairs]
    first = Masses.of(shard.weights, shard)
    positions = torch.cat([first.draw(seeding.draws.random(1), shard) for seeding in seedings])
    starts = rows_at(shard, positions)  # (seedings, D)
    for seeding, start, closest in zip(seedings, starts, squared_distances(rows, starts), strict=True):
        seeding.chosen, seeding.closest = start[None], closest.clone()
        seeding.masses = Masses.of(shard.weights.to(closest.dtype) * closest, shard)
    sketch = Sketch(rows, COORDINATES) if sketch_pays(rows, sizes, bounds_memory) else None
    while running := [seeding for seeding in seedings if seeding.running]:
        add_centers(shard, rows, running, sketch)
    return [fill_up(shard, seeding) for seeding in seedings]


def sketch_pays(rows: Rows, sizes: Sequence[int], memory: int) -> bool:
    """Whether a sketch is small beside the rows and bounds of all centres fit `memory`, and it spares what it costs."""
    size = len(rows.x) * max(COORDINATES, *sizes) * rows.x.element_size()
    small = rows.x.shape[1] >= 2 * COORDINATES and size <= memory
    return rows.x.device.type == "cpu" and factor_error(rows.x) == 0 and small and max(sizes) >= MANY


def fill_up(shard: Shard, seeding: Seeding) -> Tensor:
    """(K, D) the chosen centres; any rows where there are not enough distinct ones. Collective."""
    missing = seeding.n_clusters - len(seeding.chosen)
    if missing == 0:
        return seeding.chosen
    warn(f"{len(seeding.chosen)} distinct rows for {seeding.n_clusters} clusters; centers repeat")
    rest = seeding.draws.choice(shard.n_rows, missing).tolist()
    return torch.cat([seeding.chosen, fetch_rows(shard, rest)])


def add_centers(shard: Shard, rows: Rows, seedings: Sequence[Seeding], sketch: Sketch | None = None) -> None:
    """One more centre for each seeding. Collective: two messages for all."""
    drawn = [seeding.masses.draw(seeding.draws.random(seeding.trials), shard) for seeding in seedings]
    offers = rows_at(shard, torch.cat(drawn)).split([seeding.trials for seeding in seedings])  # (L, D) each
    weights = None if shard.weights.stride() == (0,) else shard.weights.to(rows.x.dtype)
    step = max(1, LEFT_BYTES // (rows.x.element_size() * sum(map(len, drawn))))
    kept = step >= shard.n_rows  # the same on every rank
    near = rows_near(sketch, seedings, offers)
    left, saved = weigh(rows, seedings, offers, near, weights, step)
    told = gather(torch.cat(saved), shard.group).split([len(offer) for offer in offers], 1)  # (W, L) each
    for seeding, offer, some, own, savings in zip(seedings, offers, near, left, told, strict=True):
        sums = savings.sum(0).tolist()
        best = sums.index(max(sums))
        seeding.chosen = torch.cat([seeding.chosen, offer[best : best + 1]])
        if some is not None:
            seeding.closest[some] = own[best]
        elif kept:
            seeding.closest = own[best].clone()
        else:
            torch.minimum(seeding.closest, squared_distances(rows, offer[best : best + 1])[0], out=seeding.closest)
        masses = seeding.closest if weights is None else seeding.closest * weights
        totals = [total - less for total, less in zip(seeding.masses.totals, savings[:, best].tolist(), strict=True)]
        seeding.masses = Masses(masses, seeding.masses.scale, totals)
        if not kept or sum(totals) < EXACT:
            seeding.masses = Masses.of(masses, shard)


def weigh(
    rows: Rows,
    seedings: Sequence[Seeding],
    offers: Sequence[Tensor],
    near: Sequence[Tensor | None],
    weights: Tensor | None,
    step: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Per seeding (L, m) what its rows `near` would be from its centres with each candidate, and (L,) `savings`.

    Seedings that look at all rows (None) share passes over them by `step` rows; what they have left is that of the last
    of these and overwritten by the next call.
    """
    left = [rows.x.new_empty((len(offer), 0)) for offer in offers]
    saved = [torch.zeros(len(offer), dtype=torch.int64, device=rows.x.device) for offer in offers]
    for turn, some in enumerate(near):
        if some is not None:
            left[turn] = squared_distances(rows, offers[turn], some).clone()
            saved[turn] = seedings[turn].savings(left[turn], some, weights)
    others = [turn for turn, some in enumerate(near) if some is None]
    for start in range(0, len(rows.x) if others else 0, step):
        part = slice(start, start + step)
        squared = squared_distances(rows, torch.cat([offers[turn] for turn in others]), part)
        for turn, own in zip(others, squared.split([len(offers[turn]) for turn in others]), strict=True):
            left[turn] = own
            saved[turn] += seedings[turn].savings(own, part, weights)
    return left, saved


def rows_near(sketch: Sketch | None, seedings: Sequence[Seeding], offers: Sequence[Tensor]) -> list[Tensor | None]:
    """Per seeding positions of the rows that one of its candidates may be nearer to than its centres; None: all."""
    found: list[Tensor | None] = [None] * len(seedings)
    turns = [turn for turn, seeding in enumerate(seedings) if len(seeding.chosen) >= seeding.screened_from]
    if sketch is None or not turns:
        return found
    near = sketch.near([offers[turn] for turn in turns], [seedings[turn].closest for turn in turns])
    for turn, some in zip(turns, near, strict=True):
        if len(some) <= FEW * len(seedings[turn].closest):
            found[turn] = some
        else:
            seedings[turn].screened_from = len(seedings[turn].chosen) * 5 // 4 + 1
    return found


def squared_distances(rows: Rows, centers: Tensor, part: slice | Tensor = slice(None)) -> Tensor:
    """(C, b) of the rows `part`, a slice or positions, to rows `centers` (C, D), exact where they are all but equal.

    Equal rows have distance 0. An entry has the same bits whatever other rows stand beside it, all but always. The
    result is overwritten by the next call.
    """
    norms = rows.norms[part]
    if factor_error(rows.x) > 0:  # a setting of torch must not change what is drawn
        return torch.cdist(centers, rows.x[part], compute_mode=DIRECT).square_()
    origin = rows.origin.to(rows.x.dtype)
    moved = centers - origin  # (C, D)
    own_squares = moved.square().sum(1, keepdim=True)
    bias = own_squares + 2 * (moved @ origin)[:, None] if rows.folded else own_squares
    squared = rows.buffer("squared", len(centers), len(norms))
    step = max(LEAST_ROWS, CHUNK_BYTES // (moved.element_size() * moved.shape[1]))
    weight = -2 * moved
    starts = list(range(0, max(len(norms) - LEAST_ROWS + 1, 1), step))
    for start, end in zip(starts, [*starts[1:], len(norms)], strict=True):
        block = rows.block(part_of(part, start, end))
        if len(block) < LEAST_ROWS:
            block = torch.cat([block, block.new_zeros((LEAST_ROWS - len(block), block.shape[1]))])
            squared[:, start:end] = torch.addmm(bias, weight, block.T)[:, : end - start]
        else:
            if block.device.type == "cpu" and isinstance(part, slice):
                block.sum()  # brings it into the cache, which a thin product alone does too slowly
            torch.addmm(bias, weight, block.T, out=squared[:, start:end])
    squares = norms.square()
    squared += squares
    # where rounding may be all that is left: |x|² + |c|² and what lies between the origin and 0 bound it
    bound = squares + own_squares.max() + (rows.origin.square().sum() if rows.folded else 0.0)  # (b,)
    center, row = (squared <= bound.mul_(DOUBT * relative_error(rows.x))).nonzero().unbind(1)
    found = row + (part.start or 0) if isinstance(part, slice) else part[row]
    for pairs in chunks(len(row), 2 * moved.shape[1], moved.device):
        exact = (rows.x[found[pairs]].double() - centers[center[pairs]]).square().sum(1)
        squared[center[pairs], row[pairs]] = exact.to(squared.dtype)
    return squared


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
