"""Totals of clusters, the centres they make, and empty clusters. n rows of this rank, D features, K clusters.

Totals (K, D + 2) float64 hold, per cluster, the weighted sum of its rows, their weight and their number (rows of
weight 0 count as none). They and the centres are all that crosses ranks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import Shard, chunks
from torch_clustering._collectives import gather
from torch_clustering.assign import own_squared_distances
from torch_clustering.seeding import fetch_rows


def update_totals_(totals: Tensor, shard: Shard, changed: Tensor, previous: Tensor, labels: Tensor) -> None:
    """Take the `changed` rows (positions) out of their previous clusters (-1: none) and into their new ones, in place.

    float64 totals of float32 rows are exact enough for the sums never to be made anew.
    """
    for part in chunks(len(changed), 2 * totals.shape[1], totals.device):
        rows = changed[part]
        weights = shard.weights[rows, None]
        terms = torch.cat([shard.x[rows] * weights, weights, (weights > 0).double()], 1)  # (b, D + 2)
        totals.index_add_(0, labels[rows], terms)
        leaving = previous[rows] >= 0
        if bool(leaving.any()):
            totals.index_add_(0, previous[rows][leaving], terms[leaving], alpha=-1)


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
