"""Lloyd's iterations from several starts at once, on rows sharded over ranks.

n rows of this rank, D features, K clusters of a start. Starts go in step: those with few centres share their passes
over the rows, and all of them share one message a pass. What a start leads to does not depend on the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torch_clustering._checks import Shard
from torch_clustering._collectives import sum_over_ranks
from torch_clustering.assign import Rows, Scorer, nearest_each
from torch_clustering.bounds import Bounds
from torch_clustering.totals import inertia_of, means, relocate_empty_, update_totals_

SHARED_COLUMNS = 128  # products with more centres than this are no faster for being made together


@dataclass(frozen=True)
class Settings:
    """How passes are made.

    tolerance: the squared movement of all centres that ends them. calm: bounds are taken once at most this share of
    labels changes in a pass, as far as `bounds_memory` bytes go.
    """

    tolerance: float
    max_iter: int
    spherical: bool = False
    calm: float = 0.05
    bounds_memory: int = 1 << 30


@dataclass
class Climb:
    """One start on its way. After `lloyd`: centers (K, D) in the rows' dtype, labels (n,) int32 and inertia of them.

    totals (K, D + 2) float64 of own rows, everywhere: of all ranks (see `totals`). settled: the centers are those that
    are returned; done: so are the labels.
    """

    centers: Tensor
    labels: Tensor
    totals: Tensor
    everywhere: Tensor = field(init=False)
    bounds: Bounds | None = None
    changed: float = 1.0  # share of all rows whose label changed in the last pass
    settled: bool = False
    done: bool = False
    n_iter: int = 0
    n_relocated: int = 0
    inertia: float = math.inf

    @property
    def n_used(self) -> int:
        """Clusters that have rows."""
        return int((self.everywhere[:, -1] > 0).sum())

    def move(self, centers: Tensor) -> float:
        """Put `centers` (K, D) float64 in place; the squared movement of all."""
        squares = (centers - self.centers).square().sum(1)
        if self.bounds is not None:
            self.bounds.move(squares.sqrt())
        self.centers = centers
        return float(squares.sum())


def lloyd(shard: Shard, rows: Rows, starts: Sequence[Tensor], settings: Settings) -> list[Climb]:
    """Move each start's centers (K, D) to the means of their rows until one of scikit-learn's rules stops it.

    Its rules: no label changed; all centres together moved by a square <= tolerance; max_iter passes were made. Where
    centres moved last, labels are made once more, so that they belong to the returned centres. Collective.
    """
    squares = float(sum_over_ranks(rows.squares(shard.weights), shard.group))
    climbs = [start_from(shard, centers.double()) for centers in starts]
    while running := [climb for climb in climbs if not climb.done]:
        step(shard, rows, running, settings)
        for climb in running:
            if climb.settled:
                climb.done = True
            else:
                advance(shard, climb, settings)
            if climb.done:
                climb.inertia = inertia_of(climb.everywhere, climb.centers, rows.origin, squares)
                climb.centers, climb.bounds = climb.centers.to(shard.x.dtype), None
    return climbs


def advance(shard: Shard, climb: Climb, settings: Settings) -> None:
    """Move the centers to the means of their rows, rounded to the rows' dtype as they are returned. Collective."""
    relocated = relocate_empty_(climb.everywhere, shard, climb.centers, climb.labels, settings.spherical)
    climb.n_iter, climb.n_relocated = climb.n_iter + 1, climb.n_relocated + relocated
    shift = climb.move(means(climb.everywhere, settings.spherical).to(shard.x.dtype).double())
    climb.settled = climb.changed == 0 or shift <= settings.tolerance or climb.n_iter == settings.max_iter
    climb.done = climb.changed == 0 and shift == 0  # the labels are those of these centers already


def start_from(shard: Shard, centers: Tensor) -> Climb:
    """A climb that has not begun: no row has a label."""
    labels = torch.full((len(shard.x),), -1, dtype=torch.int32, device=shard.x.device)
    return Climb(centers, labels, centers.new_zeros((len(centers), centers.shape[1] + 2)))


def step(shard: Shard, rows: Rows, climbs: Sequence[Climb], settings: Settings) -> None:
    """Label all rows by the climbs' centers and make the totals of all ranks, in one message. Collective."""
    previous = [climb.labels.clone() for climb in climbs]
    label(rows, climbs, settings)
    n_changed = update_totals_([c.totals for c in climbs], shard, previous, [c.labels for c in climbs])
    message = []
    for climb, number in zip(climbs, n_changed, strict=True):
        message += [climb.totals.flatten(), climb.totals.new_tensor([number])]
    summed = sum_over_ranks(torch.cat(message), shard.group).split([len(part) for part in message])
    for climb, totals, changed in zip(climbs, summed[::2], summed[1::2], strict=True):
        climb.everywhere, climb.changed = totals.view_as(climb.totals), float(changed) / shard.n_rows


def label(rows: Rows, climbs: Sequence[Climb], settings: Settings) -> None:
    """Give each row the label of its nearest center, in every climb."""
    unbounded: list[Climb] = []
    for climb in climbs:
        if climb.bounds is not None:
            climb.bounds.refresh(Scorer(rows, climb.centers, climb.bounds.transposed), climb.labels)
        elif not climb.settled and climb.changed <= settings.calm and bounds_fit(rows, climbs, climb, settings):
            climb.bounds = Bounds(rows, len(climb.centers))
            climb.bounds.fill(Scorer(rows, climb.centers, climb.bounds.transposed), climb.labels)
        else:
            unbounded.append(climb)
    while unbounded:
        together = [unbounded.pop(0)]
        while unbounded and sum(len(climb.centers) for climb in [*together, unbounded[0]]) <= SHARED_COLUMNS:
            together.append(unbounded.pop(0))
        nearest_each(rows, [climb.centers for climb in together], [climb.labels for climb in together])


def bounds_fit(rows: Rows, climbs: Sequence[Climb], climb: Climb, settings: Settings) -> bool:
    """Whether `climb`'s bounds and those that others have take at most `bounds_memory` bytes. On the CPU only."""
    bounded = [other.centers for other in climbs if other.bounds is not None]
    columns = sum(len(centers) for centers in [*bounded, climb.centers])
    size = len(rows.x) * columns * rows.x.element_size()
    return rows.x.device.type == "cpu" and size <= settings.bounds_memory
