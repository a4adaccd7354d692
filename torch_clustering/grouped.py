"""Rows in clusters, on one process or sharded over ranks: what the scores without classes read.

n rows of this rank, N of all, D features, K clusters that have rows. All is float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from torch_clustering._checks import chunks, make_shard, refused_together
from torch_clustering._collectives import Group, gather, rank, sum_over_ranks
from torch_clustering.counts import integers, places


@dataclass(frozen=True)
class Grouped:
    """This rank's rows with their clusters.

    x (n, D) about an `origin` (D,) that is subtracted where they are read; place (n,) of each row's cluster among K;
    sizes (K,) float64 over all ranks; first: global id of row 0.
    """

    x: Tensor
    origin: Tensor
    place: Tensor
    sizes: Tensor
    first: int
    group: Group | None

    def read(self, part: slice | Tensor) -> Tensor:
        """(b, D) float64 rows about the origin."""
        return self.x[part].double() - self.origin

    def directions(self, part: slice | Tensor) -> Tensor:
        """(b, D) float64 rows of length 1; rows of zeros stay."""
        return F.normalize(self.x[part].double(), eps=1e-300)

    def parts(self, width: int) -> list[slice]:
        """Slices of own rows that fit a cache with `width` numbers a row."""
        return chunks(len(self.x), width, self.x.device)


def grouped(x: Any, labels: Any, group: Group | None) -> Grouped:
    """Own rows that are in a cluster, about the mean of all. Collective: what is wrong on one rank is raised on all."""
    shard = make_shard(x, None, 1, group)
    (ids,), _ = integers([labels], group)
    with refused_together(group):
        if len(ids) != len(shard.x):
            raise ValueError(f"{len(shard.x)} rows against {len(ids)} labels")
    ids = ids.to(shard.x.device)
    kept = ids != -1
    own = shard.x if bool(kept.all()) else shard.x[kept]
    clusters, place = places(ids[kept], group)
    sizes = sum_over_ranks(torch.bincount(place, minlength=len(clusters)), group).double()
    n_rows = int(sizes.sum())
    if not 2 <= len(sizes) < n_rows:
        raise ValueError(f"{len(sizes)} clusters of {n_rows} rows; at least 2, and fewer than rows, can be scored")
    numbers = gather(torch.tensor([len(own)], device=own.device), group)[:, 0].tolist()
    zero = own.new_zeros(own.shape[1], dtype=torch.float64)
    rows = Grouped(own, zero, place, sizes, sum(numbers[: rank(group)]), group)
    return replace(rows, origin=cluster_sums(rows).sum(0) / n_rows)


def cluster_sums(rows: Grouped) -> Tensor:
    """(K, D) sums of the rows of each cluster, about the origin. Collective."""
    sums = rows.origin.new_zeros((len(rows.sizes), len(rows.origin)))
    for part in rows.parts(2 * len(rows.origin)):
        sums.index_add_(0, rows.place[part], rows.read(part))
    return sum_over_ranks(sums, rows.group)


def row_draws(first: int, n_rows: int, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """(n,) random numbers in [0, 1) of the rows with global ids `first` and on: a row's is the same on any split."""
    stream = np.random.Philox(np.random.SeedSequence(seed))
    stream.advance(first // 4)  # a step of Philox gives four numbers
    return np.random.Generator(stream).random(first % 4 + n_rows)[first % 4 :]


def stratified(rows: Grouped, sample_size: int, random_state: int) -> Tensor:
    """Positions of own rows that are drawn: from each cluster its share of `sample_size`, at least one. Collective.

    Each cluster takes the rows of the smallest random numbers: the same on any split.
    """
    draws = row_draws(rows.first, len(rows.x), (random_state,))
    sizes, place = rows.sizes.cpu().numpy(), rows.place.cpu().numpy()
    quota = np.minimum(np.maximum((sizes * sample_size / sizes.sum()).round(), 1), sizes).astype(np.int64)
    order, within = _ordered(place, draws, len(sizes))
    offered = order[within < quota[place[order]]]
    counts = gather(rows.place.new_tensor([len(offered)]), rows.group)[:, 0].tolist()
    sent = rows.sizes.new_zeros((max(1, *counts), 2))
    sent[: len(offered)] = torch.from_numpy(np.stack([draws[offered], place[offered]], 1))
    offers = [block[:count] for block, count in zip(gather(sent, rows.group), counts, strict=True)]
    draw, cluster = torch.cat(offers).cpu().numpy().T
    order, within = _ordered(cluster.astype(np.int64), draw, len(sizes))
    last = order[within == quota[cluster[order].astype(np.int64)] - 1]  # one of each cluster
    return torch.from_numpy((draws <= draw[last][place]).nonzero()[0]).to(rows.x.device)


def _ordered(place: NDArray[np.int64], draws: NDArray[np.float64], n_clusters: int) -> tuple[NDArray, NDArray]:
    """(n,) positions by cluster and then by draw, and each one's place within its cluster."""
    order = np.lexsort((draws, place))
    counts = np.bincount(place, minlength=n_clusters)
    return order, np.arange(len(place)) - np.repeat(counts.cumsum() - counts, counts)


def travelling(
    read: Callable[[slice], Tensor], ids: Tensor, size: int, group: Group | None
) -> Iterator[tuple[slice, Tensor, Tensor, list[int]]]:
    """Blocks of all ranks' queries, at most `size` of each rank, as they pass every shard. Collective.

    read(part) gives own queries (b, D), of which there are as many as ids (m,) int64. A step is: the slice of own
    queries; all ranks' queries (q, D), in rank order; their ids (q,); and where each rank's begin, and the end, in q.
    """
    counts = gather(ids.new_tensor([len(ids)]), group)[:, 0].tolist()
    for start in range(0, max(counts), size):
        lengths = [min(max(count - start, 0), size) for count in counts]
        part = slice(start, max(min(start + size, len(ids)), start))
        own = read(part)
        sent, own_ids = own.new_zeros((max(lengths), own.shape[1])), ids.new_zeros(max(lengths))
        sent[: len(own)], own_ids[: len(own)] = own, ids[part]
        blocks = [
            torch.cat([block[:length] for block, length in zip(gather(one, group), lengths, strict=True)])
            for one in (sent, own_ids)
        ]
        yield part, blocks[0], blocks[1], [0, *np.cumsum(lengths).tolist()]
