"""Totals of clusters, the centres they make, and empty clusters. n rows of this rank, D features, K clusters.

Totals (K, D + 2) float64 hold, per cluster, the weighted sum of its rows, their weight and their number (rows of
weight 0 count as none). They and the centres are all that crosses ranks.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering import cuda_assign
from torch_clustering._checks import Shard, chunks, part_of
from torch_clustering._collectives import gather
from torch_clustering.assign import own_squared_distances
from torch_clustering.seeding import fetch_rows

BLOCK_ROWS = 1 << 16  # rows whose labels are compared at once
Moves = tuple[Tensor, Tensor, Tensor]  # totals (K, D + 2) and of some rows (n,) labels before, -1: none, and now


def update_totals_(
    totals: Sequence[Tensor], shard: Shard, previous: Sequence[Tensor], labels: Sequence[Tensor]
) -> list[int]:
    """Take the rows whose label changed out of their previous clusters (-1: none) and into their new ones, in place.

    For several clusterings: totals of each; previous, labels (n,) of own rows. float64 totals are exact enough for the
    sums never to be made anew.

    Returns:
        The number of these rows in each clustering.
    """
    if cuda_assign.available(shard.x.device):
        return [_update_on_cuda_(*one, shard) for one in zip(totals, previous, labels, strict=True)]
    n_changed = [0] * len(totals)
    for start in range(0, len(shard.x), BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, len(shard.x)))
        together = []  # clusterings in which all of these rows changed, as in a first pass
        for turn, moves in enumerate(zip(totals, previous, labels, strict=True)):
            changed = (moves[2][part] != moves[1][part]).nonzero()[:, 0] + start
            n_changed[turn] += len(changed)
            if len(changed) == part.stop - start:
                together.append(moves)
            else:
                move_rows_(shard, changed, [moves])
        move_rows_(shard, part, together)
    return n_changed


def _update_on_cuda_(totals: Tensor, previous: Tensor, labels: Tensor, shard: Shard) -> int:
    from torch_clustering.cuda_sums import cluster_totals  # imports Triton

    changed = (labels != previous).nonzero()[:, 0]
    leaving = changed[previous[changed] >= 0]
    totals += cluster_totals(shard.x, shard.weights, labels, len(totals), changed)
    totals -= cluster_totals(shard.x, shard.weights, previous, len(totals), leaving)
    return len(changed)


def move_rows_(shard: Shard, rows: slice | Tensor, clusterings: Sequence[Moves]) -> None:
    """Move the rows `rows`, a slice or positions, from cluster to cluster; they are read once for all clusterings."""
    n_rows = len(shard.x[rows]) if isinstance(rows, slice) else len(rows)
    width = shard.x.shape[1]
    parts = chunks(n_rows if clusterings else 0, width + 2, shard.x.device)
    exact = shard.x.new_empty((min(n_rows, parts[0].stop) if parts else 0, width + 2), dtype=torch.float64)
    for part in parts:
        some = part_of(rows, part.start, min(part.stop, n_rows))
        x, weights = shard.x[some], shard.weights[some]
        terms = exact[: len(x)]
        terms[:, :-2], terms[:, -2], terms[:, -1] = x, weights, weights.sign()
        if shard.weights.stride() != (0,):
            terms[:, :-2] *= weights[:, None]
        for totals, previous, labels in clusterings:
            before = previous[some]
            known = before >= 0
            if bool(known.all()):
                totals.index_add_(0, before, terms, alpha=-1)
            elif bool(known.any()):
                totals.index_add_(0, before[known], terms[known], alpha=-1)
            totals.index_add_(0, labels[some], terms)


def means(totals: Tensor, spherical: bool) -> Tensor:
    """(K, D) float64 centres of `totals`; a cluster without rows shares the centre of the heaviest one."""
    sums, weight = totals[:, :-2], totals[:, -2]
    centers = F.normalize(sums, eps=0.0) if spherical else sums / weight[:, None]
    empty = without_center(totals, spherical)
    heaviest = int(torch.where(empty, -1.0, weight).argmax())
    return torch.where(empty[:, None], centers[heaviest], centers)


def without_center(totals: Tensor, spherical: bool) -> Tensor:
    """(K,) bool: clusters without rows, and on the sphere those whose rows cancel to no direction."""
    empty = totals[:, -1] == 0
    return empty | (totals[:, :-2].norm(dim=1) <= 1e-12 * totals[:, -2]) if spherical else empty


def inertia_of(totals: Tensor, centers: Tensor, origin: Tensor, squares: float) -> float:
    """Sum of w |x - c|² from totals of all ranks and their sum of w |x - origin|²; centers (K, D) float64."""
    moved, weight = centers - origin, totals[:, -2]
    sums = totals[:, :-2] - weight[:, None] * origin
    return squares + float((weight * moved.square().sum(1) - 2 * (moved * sums).sum(1)).sum())


def relocate_empty_(totals: Tensor, shard: Shard, centers: Tensor, labels: Tensor, spherical: bool) -> int:
    """Give each empty cluster the row farthest from its own centre; how many were given one. Collective.

    The farthest row goes to the lowest empty cluster, ties to the lowest global row; scikit-learn leaves both open. A
    row alone in its cluster stays there, as does a row that lies on its centre. `totals` are those of all ranks and are
    changed in place; centers (K, D) float64 and labels (n,) are those of the pass that made them.
    """
    empty = without_center(totals, spherical).nonzero()[:, 0].tolist()
    if not empty:
        return 0
    squared = own_squared_distances(shard.x, centers, labels)  # (n,)
    # equal rows lie within rounding of their mean: that is no distance
    rounding = 1e-24 * centers.square().sum(1)[labels]
    squared = torch.where((shard.weights > 0) & (squared > rounding), squared, 0)
    farthest = squared.sort(descending=True, stable=True).indices[: len(empty) + len(centers)]
    offers = totals.new_zeros((len(empty) + len(centers), 4))  # per cluster at most one row must stay
    columns = [squared[farthest], farthest + shard.first, labels[farthest], shard.weights[farthest]]
    offers[: len(farthest)] = torch.stack([column.double() for column in columns], 1)
    members = totals[:, -1].tolist()
    moves: list[tuple[int, int, float]] = []  # (global row, its cluster, its weight)
    everywhere = gather(offers, shard.group).flatten(0, 1).tolist()
    for distance, row, label, weight in sorted(everywhere, key=lambda offer: (-offer[0], offer[1])):
        if distance > 0 and members[int(label)] > 1 and len(moves) < len(empty):
            members[int(label)] -= 1
            moves.append((int(row), int(label), weight))
    if not moves:
        return 0
    moved = fetch_rows(shard, [row for row, _, _ in moves]).double()
    for cluster, x, (_, label, weight) in zip(empty, moved, moves, strict=False):
        term = torch.cat([x * weight, x.new_tensor([weight, 1.0])])
        totals[label] -= term
        totals[cluster] = term
    return len(moves)
