"""Scores of clusters from the rows alone, on one process or on rows sharded over ranks. All in float64.

n rows of this rank, N of all, D features, K clusters that have rows, b rows whose silhouette is asked for. Rows of
label -1 are in no cluster and are left out. Each function is collective with a group: each rank passes its own rows
and their labels, of any number, and all get the score of all rows.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from torch_clustering._checks import chunks, one_of
from torch_clustering._collectives import Group, rank, sum_over_ranks, world
from torch_clustering.counts import integers
from torch_clustering.grouped import Grouped, cluster_sums, grouped, stratified, travelling

Metric = Literal["euclidean", "sqeuclidean", "cosine"]
QUERIES = 512  # rows that a shard looks at together
ANSWER_NUMBERS = 1 << 22  # float64 numbers that all ranks answer in one message


def silhouette(
    x: Any,
    labels: Any,
    *,
    metric: Metric = "euclidean",
    sample_size: int | None = None,
    random_state: int = 0,
    group: Group | None = None,
) -> float:
    """Mean over rows of (b - a) / max(a, b), in [-1, 1] (Rousseeuw 1987): 1 for tight clusters far from each other.

    a: mean distance of a row to the other rows of its cluster, b: the least mean distance to another cluster; a row
    alone in its cluster counts 0.

    Args:
        x: (n, D) this rank's rows; n may be 0.
        labels: (n,) integers.
        metric: "euclidean" compares all pairs of rows, O(N² D), without holding them; "sqeuclidean" and "cosine" need
            the clusters' means only, O(N K D), and have other values than "euclidean".
        sample_size: average over about so many rows, drawn from each cluster by its size (at least one), each against
            all N rows: an unbiased estimate for sample_size / N of the work. None: all rows.
    Raises:
        ValueError: not 2 <= K <= N - 1; NaN, infinity, unfit labels.

    >>> round(silhouette([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1]), 4)
    0.8885
    """
    rows = grouped(x, labels, group)
    chosen = torch.arange(len(rows.x), device=rows.x.device)
    if sample_size is not None:
        chosen = stratified(rows, sample_size, random_state)
    place, sizes = rows.place[chosen], torch.zeros_like(rows.sizes)
    sums = sizes.index_add(0, place, _silhouettes(rows, chosen, metric))
    sums, drawn = sum_over_ranks(torch.stack([sums, sizes.index_add(0, place, torch.ones_like(sums)[place])]), group)
    return float((rows.sizes / rows.sizes.sum() * sums / drawn).sum())


def silhouette_samples(x: Any, labels: Any, *, metric: Metric = "euclidean", group: Group | None = None) -> Any:
    """(n,) float64 silhouette of each of this rank's rows, NaN for rows of label -1; arguments as in `silhouette`.

    A tensor for a tensor, else an array.

    >>> silhouette_samples([[0.0], [1.0], [9.0]], [0, 0, 1]).round(3).tolist()
    [0.889, 0.875, 0.0]
    """
    rows = grouped(x, labels, group)
    found = _silhouettes(rows, torch.arange(len(rows.x), device=rows.x.device), metric)
    (all_labels,), _ = integers([labels], None)
    scores = found.new_full((len(all_labels),), math.nan)
    scores[all_labels.to(found.device) != -1] = found
    return scores if isinstance(x, Tensor) else scores.numpy()


def calinski_harabasz(x: Any, labels: Any, *, group: Group | None = None) -> float:
    """Scatter of the clusters' means over scatter within clusters, each by its degrees of freedom; more is better.

    1 where all rows lie on their means (scikit-learn's convention). Arguments and errors as in `silhouette`.

    >>> calinski_harabasz([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1])
    162.0
    """
    rows = grouped(x, labels, group)
    n_rows, n_clusters = float(rows.sizes.sum()), len(rows.sizes)
    centers = cluster_sums(rows) / rows.sizes[:, None]
    mean = (rows.sizes[:, None] * centers).sum(0) / n_rows
    between = float(rows.sizes @ (centers - mean).square().sum(1))
    within = float(_spread(rows, centers)[1].sum())
    if within <= 1e-28 * between:  # equal rows are off their mean by rounding
        return 1.0
    return between * (n_rows - n_clusters) / (within * (n_clusters - 1))


def davies_bouldin(x: Any, labels: Any, *, group: Group | None = None) -> float:
    """Mean over clusters of the worst (s + s') / |c - c'| against another cluster, >= 0; less is better.

    s: mean distance of a cluster's rows to its mean c. Clusters with one mean do not count against each other. 0 where
    all means or all rows of each cluster coincide. Arguments and errors as in `silhouette`.

    >>> round(davies_bouldin([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1]), 4)
    0.1111
    """
    rows = grouped(x, labels, group)
    centers = cluster_sums(rows) / rows.sizes[:, None]
    distances, _ = _spread(rows, centers)
    spread = distances / rows.sizes
    apart = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
    apart[apart <= 1e-13 * centers.norm(dim=1).max()] = math.inf  # equal rows give means equal up to rounding
    return float(((spread[:, None] + spread) / apart).max(1).values.mean())


def _spread(rows: Grouped, centers: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) sums of distances and of squared distances of each cluster's rows to its center. Collective."""
    spread = torch.zeros_like(rows.sizes).expand(2, -1).clone()
    for part in rows.parts(2 * len(rows.origin)):
        squared = (rows.read(part) - centers[rows.place[part]]).square().sum(1)
        spread.index_add_(1, rows.place[part], torch.stack([squared.sqrt(), squared]))
    distances, squares = sum_over_ranks(spread, rows.group)
    return distances, squares


def _silhouettes(rows: Grouped, chosen: Tensor, metric: Metric) -> Tensor:
    """(b,) silhouettes of own rows by position. Collective."""
    one_of("metric", metric, ("euclidean", "sqeuclidean", "cosine"))
    by_means = metric != "euclidean"
    found = _distances_by_means(rows, chosen, metric == "cosine") if by_means else _distances_to_all(rows, chosen)
    scores = [rows.sizes.new_zeros(0)]
    for part, totals in found:
        place = rows.place[part]
        size = rows.sizes[place]
        own = totals.gather(1, place[:, None])[:, 0] / (size - 1).clamp(min=1)
        other = (totals / rows.sizes).scatter(1, place[:, None], math.inf).min(1).values
        larger = torch.maximum(own, other)
        scores.append(torch.where((size > 1) & (larger > 0), (other - own) / larger, 0))
    return torch.cat(scores)


def _distances_by_means(rows: Grouped, chosen: Tensor, cosine: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of own rows, and (b, K) sums of squared distances or of 1 - cos to each cluster's rows. Collective."""
    read = rows.directions if cosine else rows.read
    sums = rows.origin.new_zeros((len(rows.sizes), len(rows.origin) + 1))
    for piece in rows.parts(2 * len(rows.origin)):
        block = read(piece)
        sums.index_add_(0, rows.place[piece], torch.cat([block, block.square().sum(1, keepdim=True)], 1))
    sums = sum_over_ranks(sums, rows.group)
    for piece in chunks(len(chosen), sum(sums.shape), rows.x.device):
        part = chosen[piece]
        block = read(part)
        squared = block.square().sum(1, keepdim=True)
        products = block @ sums[:, :-1].T  # (b, K)
        if cosine:
            totals = rows.sizes - products
            totals.scatter_add_(1, rows.place[part][:, None], squared - 1)  # a row of zeros is at 0 from itself
        else:
            totals = squared * rows.sizes - 2 * products + sums[:, -1]
        yield part, totals.clamp_(min=0)


def _distances_to_all(rows: Grouped, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of own rows, and (b, K) sums of their distances to the rows of each cluster. Collective.

    Blocks of all ranks' rows travel past every shard; each shard answers with sums.
    """
    me, size = rank(rows.group), max(16, min(QUERIES, ANSWER_NUMBERS // (len(rows.sizes) * world(rows.group) ** 2)))
    steps = travelling(lambda part: rows.read(chosen[part]), chosen + rows.first, size, rows.group)
    for part, queries, ids, ends in steps:
        sums = sum_over_ranks(_distances_to_own(rows, queries, ids), rows.group)  # (K, q)
        yield chosen[part], sums[:, ends[me] : ends[me + 1]].T


def _distances_to_own(rows: Grouped, queries: Tensor, ids: Tensor) -> Tensor:
    """(K, b) sums of distances of `queries` (b, D), rows of global `ids`, to this rank's rows of each cluster."""
    sums = queries.new_zeros((len(rows.sizes), len(queries)))
    squares = queries.square().sum(1)
    for part in rows.parts(len(queries)):
        block = rows.read(part)
        distances = torch.addmm(block.square().sum(1)[:, None] + squares, block, queries.T, alpha=-2)
        distances.clamp_(min=0).sqrt_()
        position = ids - rows.first - part.start
        itself = ((position >= 0) & (position < len(block))).nonzero()[:, 0]
        distances[position[itself], itself] = 0
        sums.index_add_(0, rows.place[part], distances)
    return sums
