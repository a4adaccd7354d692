"""Totals of clusters, the centres they make, and empty clusters. n rows of this rank, D features, K clusters.

Totals (K, D + 2) float64 hold, per cluster, the weighted sum of its rows, their weight and their number (rows of
weight 0 count as none). They and the centres are all that crosses ranks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering import cuda_assign
from torch_clustering._checks import Shard, chunks
from torch_clustering._collectives import gather
from torch_clustering.assign import own_squared_distances
from torch_clustering.seeding import fetch_rows

BLOCK_ROWS = 1 << 14  # rows whose labels are compared at once


def update_totals_(totals: Tensor, shard: Shard, previous: Tensor, labels: Tensor) -> int:
    """Take the rows whose label changed out of their previous clusters (-1: none) and into their new ones, in place.

    previous, labels (n,) of own rows. float64 totals are exact enough for the sums never to be made anew.

    Returns:
        The number of these rows.
    """
    if cuda_assign.available(labels.device):
        from torch_clustering.cuda_sums import cluster_totals  # imports Triton

        changed = (labels != previous).nonzero()[:, 0]
        leaving = changed[previous[changed] >= 0]
        totals += cluster_totals(shard.x, shard.weights, labels, len(totals), changed)
        totals -= cluster_totals(shard.x, shard.weights, previous, len(totals), leaving)
        return len(changed)
    n_changed = 0
    for start in range(0, len(labels), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        changed = (labels[part] != previous[part]).nonzero()[:, 0] + start
        n_changed += len(changed)
        own, before = labels[changed], previous[changed]
        leaving = changed[before >= 0]
        add_rows_(totals, shard, torch.cat([changed, leaving]), torch.cat([own, before[before >= 0]]), len(changed))
    return n_changed


def add_rows_(totals: Tensor, shard: Shard, rows: Tensor, labels: Tensor, n_added: int) -> None:
    """Add the first `n_added` of the rows at positions `rows` (m,) to the totals of clusters `labels` (m,), in place.

    The other rows are subtracted.
    """
    weights = shard.weights[rows]
    weights[n_added:] *= -1
    totals[:, -2] += torch.bincount(labels, weights, len(totals))
    totals[:, -1] += torch.bincount(labels, weights.sign(), len(totals))
    labels, order = labels.sort(stable=True)
    rows, weights = rows[order], weights[order]
    parts = chunks(len(rows), 2 * totals.shape[1], totals.device)
    found = shard.x.new_empty((min(len(rows), parts[0].stop if parts else 0), shard.x.shape[1]))
    exact, places = torch.empty_like(found, dtype=torch.float64), torch.arange(len(found), device=found.device)
    for part in parts:  # each part's rows follow each other by cluster
        own, sizes = torch.unique_consecutive(labels[part], return_counts=True)
        n_rows = len(rows[part])
        torch.index_select(shard.x, 0, rows[part], out=found[:n_rows])
        exact[:n_rows] = found[:n_rows]
        sums = F.embedding_bag(
            places[:n_rows], exact, sizes.cumsum(0) - sizes, mode="sum", per_sample_weights=weights[part]
        )
        totals[:, :-2].index_add_(0, own, sums)


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
