"""k-means||: first centres in a few passes over the rows instead of one per centre (Bahmani et al. 2012)."""

import numpy as np
import torch
from torch import Tensor

from torch_clustering._checks import Shard
from torch_clustering._collectives import sum_over_ranks
from torch_clustering.assign import Rows, nearest_each, own_squared_distances
from torch_clustering.masses import Masses
from torch_clustering.seeding import kmeans_plus_plus, rows_at

ROUNDS = 5
OVERSAMPLING = 2  # rows drawn in a round, in multiples of K


def kmeans_parallel(shard: Shard, rows: Rows, n_clusters: int, draws: np.random.Generator) -> Tensor:
    """(K, D) centres: a weighted greedy k-means++ among some 10 K rows, the same for any split. Collective.

    Five rounds draw 2 K rows each, with probability w times the squared distance to the nearest row drawn so far. A
    drawn row weighs as much as the rows nearest to it.
    """
    drawn = rows_at(shard, Masses.of(shard.weights, shard).draw(draws.random(1), shard))  # (C, D)
    nearest = torch.zeros(len(shard.x), dtype=torch.int64, device=shard.x.device)
    closest = own_squared_distances(shard.x, drawn.double(), nearest)
    for _ in range(ROUNDS):
        masses = Masses.of(shard.weights * closest, shard)
        if sum(masses.totals) == 0:
            break
        found = rows_at(shard, masses.draw(draws.random(OVERSAMPLING * n_clusters), shard))
        labels = torch.empty_like(nearest)
        nearest_each(rows, [found.double()], [labels])
        squares = own_squared_distances(shard.x, found.double(), labels)
        nearest = torch.where(squares < closest, labels + len(drawn), nearest)
        closest = torch.minimum(squares, closest)
        drawn = torch.cat([drawn, found])
    weights = shard.weights.new_zeros(len(drawn)).index_add_(0, nearest, shard.weights)
    weights = sum_over_ranks(weights, shard.group)
    candidates = Shard(drawn, weights, 0, len(drawn), None)  # the same on every rank, which seeds alone
    about = Rows.about(drawn, rows.origin)
    return kmeans_plus_plus(candidates, about, [n_clusters], [draws])[0]
