"""Triton kernels of KMeans and what launches them. n rows, D features, K clusters; imported only where they are used.

No n x K matrix is written and nothing is added atomically: equal inputs give equal bits.
"""

from __future__ import annotations  # where Triton is missing, nothing looks at its annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # then nothing here is called: see cuda_assign.available
    triton = tl = None

# rows, centres and features of a tile, warps, stages; by size of a product's factors in bytes
BLOCKS = {2: (128, 128, 64, 8, 3), 4: (64, 128, 32, 4, 3)}
LARGE_BLOCKS = [(128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (128, 128, 64, 4, 4), (128, 128, 64, 8, 3)]
WORTH_TUNING = 1e11  # multiplications: a pass takes longer than a millisecond


def jit(body: Callable[..., None]) -> Any:
    """The kernel of `body`, compiled at its first launch (interpreted on CPU tensors where TRITON_INTERPRET=1).

    Arguments that only count are not compiled for, or each new number of unsure rows might cost seconds.
    """
    return body if triton is None else triton.jit(body, do_not_specialize=["n", "K", "splits", "blocks"])


@jit
def _nearest_two(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    labels: tl.tensor,
    best: tl.tensor,
    second: tl.tensor,
    n: tl.tensor,
    K: tl.tensor,
    D: tl.tensor,
    splits: tl.tensor,
    BUCKET: tl.constexpr,  # K up to a power of 2, under which the fastest blocks are remembered
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    # neighbouring programs share a tile of rows, so that it comes from memory once and then from the L2 cache
    split = tl.program_id(0) % splits
    rows = (tl.program_id(0) // splits) * BLOCK_N + tl.arange(0, BLOCK_N)
    # past the last row or centre the last one is read again: cheaper than a mask, never stored, never the best
    from_rows = x + tl.minimum(rows, n - 1).to(tl.int64)[:, None] * D  # (BLOCK_N, 1)
    least = tl.full((BLOCK_N,), float("inf"), tl.float32)
    runner_up = tl.full((BLOCK_N,), float("inf"), tl.float32)
    label = tl.zeros((BLOCK_N,), tl.int32)
    tiles = tl.cdiv(K, BLOCK_K)
    share = tl.cdiv(tiles, splits)
    for tile in range(split * share, tl.minimum((split + 1) * share, tiles)):
        k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
        from_centers = weight + tl.minimum(k, K - 1).to(tl.int64)[None, :] * D  # (1, BLOCK_K)
        scores = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            row = tl.load(from_rows + d[None, :], mask=d[None, :] < D, other=0.0)  # (BLOCK_N, BLOCK_D)
            center = tl.load(from_centers + d[:, None], mask=d[:, None] < D, other=0.0)  # (BLOCK_D, BLOCK_K)
            scores = tl.dot(row.to(center.dtype), center, scores, input_precision=PRECISION)
        scores += tl.load(bias + k, mask=k < K, other=float("inf"))[None, :]
        first = tl.min(scores, 1)
        # the lowest index among equals: in a tile the least k, among tiles the earlier one stays
        winner = tl.min(tl.where(scores == first[:, None], k[None, :], 2147483647), 1)
        other = tl.min(tl.where(k[None, :] == winner[:, None], float("inf"), scores), 1)
        runner_up = tl.minimum(tl.maximum(least, first), tl.minimum(runner_up, other))
        label = tl.where(first < least, winner, label)
        least = tl.minimum(least, first)
    place = split.to(tl.int64) * n + rows
    tl.store(labels + place, label, mask=rows < n)
    tl.store(best + place, least, mask=rows < n)
    tl.store(second + place, runner_up, mask=rows < n)


def nearest_two(x: Tensor, weight: Tensor, bias: Tensor, *, precision: str = "tf32x3") -> tuple[Tensor, Tensor, Tensor]:
    """(n,) int32 label of each row's least score (the lowest among equals), (n,) float32 that score and the second.

    Scores are bias + x @ weight.T, with weight = -2 centers and bias = |centers|² squared distances less |x|². K = 1
    has the second score inf.

    Args:
        x: (n, D) float32, float16 or bfloat16, turned into weight's dtype before it is multiplied.
        weight: (K, D) float16 or float32. Sums of products are float32.
        bias: (K,) float32.
        precision: how float32 is multiplied: "tf32x3", "ieee" or "tf32", whatever torch's own switches say.
    """
    (n, D), K = x.shape, len(weight)
    # long rows leave the caches between two tiles of centres, and few rows leave multiprocessors idle: then several
    # programs share the centres of one tile of rows
    splits = min(triton.cdiv(K, 256), 8) if D * x.element_size() > 1024 or n < 1 << 15 else 1
    labels = torch.empty((splits, n), dtype=torch.int32, device=x.device)
    best, second = (torch.empty((splits, n), dtype=torch.float32, device=x.device) for _ in range(2))
    if n:
        arguments = [x.contiguous(), weight.contiguous(), bias, labels, best, second, n, K, D, splits]
        if x.is_cuda and weight.element_size() == 2 and n * K * D >= WORTH_TUNING:
            kernel, named = _tuned(), {"BUCKET": triton.next_power_of_2(K)}
        else:
            kernel, named = _nearest_two, {"BUCKET": 0, **_config(*BLOCKS[weight.element_size()]).all_kwargs()}
        with torch.cuda.device_of(x):
            launch = kernel[lambda chosen: (triton.cdiv(n, chosen["BLOCK_N"]) * splits,)]
            launch(*arguments, PRECISION=precision, **named)
    if splits == 1:
        return labels[0], best[0], second[0]
    least, winner = best.min(0)  # the first among equals, whose centres are lower
    others = best.scatter(0, winner[None], torch.inf).amin(0)
    return labels.gather(0, winner[None])[0], least, torch.minimum(others, second.gather(0, winner[None])[0])


def _config(rows: int, centers: int, features: int, warps: int, stages: int) -> Any:
    blocks = {"BLOCK_N": rows, "BLOCK_K": centers, "BLOCK_D": features}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


@functools.cache
def _tuned() -> Any:
    """The kernel that tries LARGE_BLOCKS at its first launch for a width and bucket of K, and keeps the fastest."""
    return triton.autotune([_config(*blocks) for blocks in LARGE_BLOCKS], key=["D", "BUCKET"])(_nearest_two)


@jit
def _shift(
    x: tl.tensor,
    origin: tl.tensor,
    scale: tl.tensor,
    shifted: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    n: tl.tensor,
    D: tl.tensor,
    stride: tl.tensor,
    width: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    place = rows.to(tl.int64)[:, None]
    factor = tl.load(scale)
    squares = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    errors = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = (rows[:, None] < n) & (d[None, :] < D)
        value = tl.load(x + place * stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
        near = (value - tl.load(origin + d, mask=d < D, other=0.0)[None, :]) * factor
        near = tl.where(inside, near, 0.0)
        kept = near
        if shifted.dtype.element_ty == tl.float16:
            kept = tl.minimum(tl.maximum(near, -65504.0), 65504.0)  # not inf: inf times 0 would be NaN
        kept = kept.to(shifted.dtype.element_ty)
        tl.store(shifted + place * width + d[None, :], kept, mask=(rows[:, None] < n) & (d[None, :] < width))
        error = near - kept.to(tl.float32)
        squares += near * near
        errors += error * error
    tl.store(norms + rows, tl.sqrt(tl.sum(squares, 1)), mask=rows < n)
    tl.store(lost + rows, tl.sqrt(tl.sum(errors, 1)), mask=rows < n)


def shift(x: Tensor, origin: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(n, W) (x - origin) * scale in `dtype`, (n,) its length before rounding, (n,) the length of what rounding took.

    W is D up to a multiple of 16, so that tiles of rows are read in whole words; the columns past D are 0.

    Args:
        x: (n, D) float32, float16 or bfloat16; float32 is computed with.
        origin: (D,) float32.
        scale: float32 number, a power of 2.
        dtype: float16 or float32 (which loses nothing).
    """
    n, D = x.shape
    rows, width = x if x.stride(1) == 1 else x.contiguous(), 16 * triton.cdiv(D, 16)
    shifted = torch.empty((n, width), dtype=dtype, device=x.device)
    norms, lost = (torch.empty(n, dtype=torch.float32, device=x.device) for _ in range(2))
    if n:
        arguments = [rows, origin, scale, shifted, norms, lost, n, D, rows.stride(0), width]
        with torch.cuda.device_of(x):
            _shift[(triton.cdiv(n, 16),)](*arguments, BLOCK_N=16, BLOCK_D=128, num_warps=4)
    return shifted, norms, lost
