"""The least of few scores of each row, where all scores of a centre lie in one piece of memory, on the CPU.

Whole rows of such a matrix are compared with each other, many numbers at once, where a search within the scores of one
row would look at one at a time. The place of the least is carried in the last bits of the scores. s sets of K centres
each, at most MOST; b rows.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 4  # of a score that hold its place
FEW = 1 << BITS  # scores that are compared one after the other; more are laid out as a table first
MOST = FEW * FEW


def least_(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(s, b) integers, where each row's scores (s, K, b) of a set are least, and (s, b) by how much.

    The scores are changed in place, and what is returned is off, by rounding to `place_error`. Where a score is no
    finite number, the second result is none; where it is not above 0, the first may be any place.
    """
    n_sets, n_scores, n_rows = scores.shape
    if n_scores <= FEW:
        least, second = two_least_(scores.numpy())
        return place_of(least), torch.from_numpy(second) - torch.from_numpy(least)
    # two different entries of a table differ in their row or in their column of it: so the second least is the less of
    # the second least minimum of its rows and that of its columns
    width = math.isqrt(n_scores - 1) + 1
    full = n_scores - n_scores % width
    table, rest = scores[:, :full].view(n_sets, full // width, width, n_rows), scores[:, full:]
    of_row, of_column = table.amin(2), table.amin(1)
    if full < n_scores:
        of_row = torch.cat([of_row, rest.amin(1, keepdim=True)], 1)
        first = of_column[:, : n_scores - full]
        torch.minimum(first, rest, out=first)
    row_least, row_second = two_least_(of_row.numpy())
    column_least, column_second = two_least_(of_column.numpy())
    place = place_of(row_least) * width + place_of(column_least)
    lead = torch.from_numpy(np.minimum(row_second, column_second))
    return place.clamp_(max=n_scores - 1), lead.sub_(torch.from_numpy(np.maximum(row_least, column_least)))


def place_error(dtype: torch.dtype) -> float:
    """Bound of the share of a score by which carrying its place changes it."""
    return FEW * torch.finfo(dtype).eps


def two_least_(scores: NDArray) -> tuple[NDArray, NDArray]:
    """(s, b) least and second least of scores (s, K, b), each with its place among the K in its last bits.

    In place, all scores get theirs.
    """
    integer: type = np.int32 if scores.dtype == np.float32 else np.int64
    places: NDArray = np.arange(scores.shape[1], dtype=integer)[:, None]
    bits: NDArray = scores.view(integer)
    bits &= integer(-FEW)
    bits |= places
    least = scores[:, 0].copy()
    second = np.full_like(least, math.inf)
    larger = np.empty_like(least)
    with np.errstate(invalid="ignore"):  # infinite scores with a place are no numbers
        for place in range(1, len(places)):
            np.maximum(least, scores[:, place], out=larger)
            np.minimum(second, larger, out=second)
            np.minimum(least, scores[:, place], out=least)
    return least, second


def place_of(least: NDArray) -> Tensor:
    """The places that `two_least_` left in the last bits of numbers."""
    integer: type = np.int32 if least.dtype == np.float32 else np.int64
    return torch.from_numpy(least.view(integer) & integer(FEW - 1))


def argmin(scores: Tensor) -> Tensor:
    """Index of the least score of each row; NumPy's takes a tenth of the time of torch's on the CPU."""
    return torch.from_numpy(scores.numpy().argmin(1)) if scores.device.type == "cpu" else scores.argmin(1)
