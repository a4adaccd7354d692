"""Sums of rows by cluster without atomic additions: equal inputs give equal bits. n rows, D features, K clusters.

Rows are sorted by label and cut into parts of one cluster each; a program adds a part's rows in their order, another
adds a cluster's parts in theirs, both in float64.
"""

from __future__ import annotations  # where Triton is missing, nothing looks at its annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_clustering.cuda_kernels import jit, tl

PART_ROWS = 256


class Parts(NamedTuple):
    """Rows in the order of their clusters, cut into P parts of one cluster each, some of them empty.

    order (m,): positions of rows; begins, ends (P,): where in it each part lies; firsts, lasts (K,): parts of clusters.
    """

    order: Tensor
    begins: Tensor
    ends: Tensor
    firsts: Tensor
    lasts: Tensor


def cluster_totals(x: Tensor, weights: Tensor, labels: Tensor, n_clusters: int, rows: Tensor) -> Tensor:
    """(K, D + 2) float64: per cluster the weighted sum of its rows, their weight, the number of those with weight.

    Args:
        x: (n, D) of any floating dtype.
        weights: (n,) float64.
        labels: (n,) cluster of each row, 0 to K - 1; only those of `rows` are looked at.
        rows: (m,) int64 positions of the rows to add.
    """
    parts = _parts(labels[rows], n_clusters)
    parts = parts._replace(order=rows[parts.order])
    return torch.cat([_sum(x, weights, parts), _sum(torch.stack([weights, weights > 0], 1), None, parts)], 1)


def segment_sums(x: Tensor, weights: Tensor | None, labels: Tensor, n_clusters: int) -> Tensor:
    """(K, D) float64: per cluster the sum of its rows times their weights; 0 where a cluster has none.

    Args:
        x: (n, D) of any floating dtype.
        weights: (n,) or None for 1.
        labels: (n,) cluster of each row, 0 to K - 1.
    """
    return _sum(x, weights, _parts(labels, n_clusters))


def _parts(labels: Tensor, n_clusters: int) -> Parts:
    small = torch.int16 if n_clusters < 1 << 15 else torch.int32  # fewer digits to sort by
    ordered, order = labels.to(small).sort(stable=True)
    limits = torch.searchsorted(ordered, torch.arange(n_clusters + 1, dtype=small, device=labels.device))  # (K + 1,)
    begins, ends = limits[:-1], limits[1:]
    n_parts = (ends - begins + PART_ROWS - 1) // PART_ROWS  # (K,)
    lasts = n_parts.cumsum(0)
    # as many as there could be, so that nobody waits for the device to count them; the surplus is empty
    part = torch.arange(len(labels) // PART_ROWS + n_clusters, device=labels.device)
    cluster = torch.searchsorted(lasts, part, right=True).clamp(max=n_clusters - 1)
    begin = begins[cluster] + (part - (lasts - n_parts)[cluster]) * PART_ROWS
    return Parts(order, begin, torch.minimum(begin + PART_ROWS, ends[cluster]), lasts - n_parts, lasts)


def _sum(x: Tensor, weights: Tensor | None, parts: Parts) -> Tensor:
    """(K, D) float64 sums of rows by cluster."""
    of_parts = _sum_ranges(x, weights, parts.order, parts.begins, parts.ends)  # (P, D)
    every = torch.arange(len(of_parts), device=x.device)
    return _sum_ranges(of_parts, None, every, parts.firsts, parts.lasts)


def _sum_ranges(x: Tensor, weights: Tensor | None, order: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
    """(P, D) float64: for each range the sum of x[order[start:stop]], times the weights of those rows."""
    source = x if x.stride(1) == 1 else x.contiguous()
    factors = source if weights is None else weights.contiguous()
    sums = torch.empty((len(starts), x.shape[1]), dtype=torch.float64, device=x.device)
    blocks = -(-x.shape[1] // 128)
    arguments = [source, factors, order, starts, stops, sums, x.shape[1], source.stride(0), blocks]
    with torch.cuda.device_of(x):
        _add[(len(starts) * blocks,)](*arguments, WEIGHTED=weights is not None, ROWS=16, FEATURES=128, num_warps=4)
    return sums


@jit
def _add(
    x: tl.tensor,
    weights: tl.tensor,
    order: tl.tensor,
    starts: tl.tensor,
    stops: tl.tensor,
    sums: tl.tensor,
    D: tl.tensor,
    stride: tl.tensor,
    blocks: tl.tensor,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
) -> None:
    part = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * FEATURES + tl.arange(0, FEATURES)
    total = tl.zeros((ROWS, FEATURES), tl.float64)
    stop = tl.load(stops + part)
    for start in range(tl.load(starts + part), stop, ROWS):
        place = start + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < stop, other=0)
        inside = (place < stop)[:, None] & (d < D)[None, :]
        value = tl.load(x + row[:, None] * stride + d[None, :], mask=inside, other=0.0).to(tl.float64)
        if WEIGHTED:
            value *= tl.load(weights + row, mask=place < stop, other=0.0).to(tl.float64)[:, None]
        total += value
    tl.store(sums + part * D + d, tl.sum(total, 0), mask=d < D)
