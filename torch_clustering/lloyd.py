"""Lloyd's iterations from given centres, on rows sharded over ranks. n rows of this rank, D features, K clusters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from torch_clustering._checks import Shard
from torch_clustering._collectives import sum_over_ranks
from torch_clustering.assign import nearest, own_squared_distances
from torch_clustering.totals import means, relocate_empty_, update_totals_


@dataclass(frozen=True)
class Clustering:
    """What one start led to.

    labels (n,) of own rows; centers (K, D) in the rows' dtype; inertia: sum of w times the squared distance over all
    rows; n_used: clusters that have rows.
    """

    labels: Tensor
    centers: Tensor
    inertia: float
    n_iter: int
    n_relocated: int
    n_used: int


def lloyd(shard: Shard, centers: Tensor, *, spherical: bool, tolerance: float, max_iter: int) -> Clustering:
    """Move `centers` (K, D) to the means of their rows until one of scikit-learn's rules stops it. Collective.

    Its rules: no label changed; all centres together moved by a square <= tolerance; max_iter passes were made. Then
    labels and inertia are made once more, so that they belong to the returned centres.
    """
    centers = centers.double()
    labels = torch.full_like(shard.weights, -1, dtype=torch.int64)
    totals = centers.new_zeros((len(centers), centers.shape[1] + 2))
    n_iter, n_relocated, settled = 0, 0, False
    while n_iter < max_iter and not settled:
        n_iter += 1
        previous, labels = labels, nearest(shard.x, centers)
        changed = (labels != previous).nonzero()[:, 0]
        update_totals_(totals, shard, changed, previous, labels)
        sent = torch.cat([totals.flatten(), totals.new_tensor([len(changed)])])
        summed = sum_over_ranks(sent, shard.group)
        everywhere, n_changed = summed[:-1].view_as(totals), int(summed[-1])
        n_relocated += relocate_empty_(everywhere, shard, centers, labels, spherical)
        moved = means(everywhere, spherical)
        shift, centers = float((moved - centers).square().sum()), moved
        settled = n_changed == 0 or shift <= tolerance
    return finish(shard, centers.to(shard.x.dtype), n_iter, n_relocated)


def finish(shard: Shard, centers: Tensor, n_iter: int, n_relocated: int) -> Clustering:
    """Labels and inertia for `centers` as they are returned. Collective."""
    labels = nearest(shard.x, centers.double())
    inertia = (shard.weights * own_squared_distances(shard.x, centers.double(), labels)).sum()
    members = torch.bincount(labels, minlength=len(centers)).double()
    summed = sum_over_ranks(torch.cat([members, inertia[None]]), shard.group)
    return Clustering(labels, centers, float(summed[-1]), n_iter, n_relocated, int((summed[:-1] > 0).sum()))
