"""Labels that products of bfloat16 prove, on CPUs that are fast at these. n rows of this rank, D features, K centres.

What rounding takes off rows and centres is measured, so that a row's label is certain where its two best scores lie
farther apart than that; only the others need a product of float32.
"""

import time
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torch_clustering._checks import CHUNK_BYTES, chunks
from torch_clustering.gemm import Affine, usable
from torch_clustering.least import take_least_

if TYPE_CHECKING:
    from torch_clustering.assign import Rows

FEWEST_ROWS = 8192  # for which a screen pays, and after which it may be given up
FEWEST_CENTERS = 256
MOST_OPEN = 0.35  # share of the rows that it may leave in doubt
CLEARLY = 0.7  # of the time of a product of float32
MARGIN = 1.01  # for what computing the bounds themselves takes off
ROUNDING = 2.0**-8 * MARGIN  # bound of the share of a number by which bfloat16 changes it
PROBE_NUMBERS = 1 << 18  # that the probed product makes


class Screen:
    """Scores in bfloat16 of rows about their origin. worth: no pass has left too many rows in doubt.

    lost: bound of |x - its bfloat16| / |x| of all rows; error: `assign.relative_error`.
    """

    def __init__(self, rows: "Rows", error: float) -> None:
        self.rows, self.error, self.worth = rows, error, True
        self.origin, lost = rows.origin.to(rows.x.dtype), rows.norms.new_zeros(())
        for part in chunks(len(rows.x), rows.x.shape[1], rows.x.device):
            block = torch.sub(rows.x[part], self.origin, out=rows.buffer("block", *rows.x[part].shape))
            off = torch.linalg.vector_norm(block.sub_(block.bfloat16().float()), dim=1)
            lost = torch.maximum(lost, (off / rows.norms[part].clamp(min=torch.finfo(off.dtype).tiny)).max())
        self.lost = MARGIN * float(lost)

    def label_(self, centers: Tensor, labels: Tensor) -> Tensor:
        """Label rows by their nearest of `centers` (K, D) float64; positions (u,) of those where this may be wrong.

        Where the first rows say that too many stay open, the others are left out.
        """
        rows, (n_centers, width) = self.rows, centers.shape
        moved = centers - rows.origin
        bias, weight = moved.square().sum(1).to(rows.x.dtype), (-2 * moved).to(rows.x.dtype)
        rounded = weight.bfloat16()
        steep, off = float(weight.norm(dim=1).max()), float((weight - rounded.float()).norm(dim=1).max())
        # errors of two scores: of their products' factors, then of sums; as in `Scorer`, doubled for pairs of terms
        slope = 2 * MARGIN * (self.lost * (steep + off) + off + 2 * self.error * steep)
        level = self.error * steep**2 + 2 * ROUNDING * float(bias.max())
        step = max(512, CHUNK_BYTES // (4 * n_centers))
        block = rows.x.new_empty((step, width), dtype=torch.bfloat16)
        products = rows.x.new_empty((step, n_centers), dtype=torch.bfloat16)
        unsure, n_open = torch.ones(len(rows.x), dtype=torch.bool), 0
        for start in range(0, len(rows.x), step):
            part = slice(start, start + step)
            x = rows.x[part]
            short = block[: len(x)].copy_(torch.sub(x, self.origin, out=rows.buffer("block", *x.shape)))
            product = torch.mm(short, rounded.T, out=products[: len(x)])
            scores = rows.buffer("scores", *product.shape).copy_(product).add_(bias)
            own, best, gap = take_least_(scores, transposed=False)
            labels[part] = own[:, 0].to(labels.dtype)
            # a product is at most its score and the bias; so is its rounding, which grows with the score
            outer = (best[:, 0].abs() + (best[:, 0] + gap).abs()).mul_(ROUNDING)
            torch.logical_not(gap > outer.add_(rows.norms[part], alpha=slope).add_(level), out=unsure[part])
            n_open += int(unsure[part].count_nonzero())
            self.worth = start + len(x) < FEWEST_ROWS or n_open <= MOST_OPEN * (start + len(x))
            if not self.worth:
                break
        return unsure.nonzero()[:, 0]


def pays(x: Tensor, n_centers: int) -> bool:
    """Whether bfloat16 is worth a try for rows x (n, D); labels do not depend on it."""
    if len(x) < FEWEST_ROWS or n_centers < FEWEST_CENTERS or not usable(x):
        return False
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and is_faster(x.shape[1], n_centers)


@cache
def is_faster(width: int, n_columns: int) -> bool:
    """Result of a probe of some milliseconds, made once per shape."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand((max(512, PROBE_NUMBERS // n_columns), width), generator=draws)
    weight = torch.rand((n_columns, width), generator=draws)
    rounded, out = weight.bfloat16(), torch.empty((len(x), n_columns))
    affine = Affine(weight, torch.zeros(n_columns))
    exact = screened = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        affine(x, out)
        exact, started = min(exact, time.perf_counter() - started), time.perf_counter()
        out.copy_(x.bfloat16() @ rounded.T)
        screened = min(screened, time.perf_counter() - started)
    return screened < CLEARLY * exact
