"""Which centre is nearest: fast by matrix products, exact by deciding near ties directly. n rows, D features, K.

A row whose two best scores differ by less than their rounding error is decided by its float64 differences. So float32
rows get the labels of float64 distances, however the rows are split into chunks and ranks, by whatever product and at
whatever precision torch multiplies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from torch_clustering import cuda_assign
from torch_clustering._checks import CHUNK_BYTES, chunks, part_of
from torch_clustering.gemm import Affine
from torch_clustering.least import argmin, least_, place_error

# differences first: |x|² + |c|² - 2xc cancels when rows lie far from the origin
DIRECT = "donot_use_mm_for_euclid_dist"
THIN = 128  # centres (at most `least.MOST`) up to which memory bounds the product, and scores lie centre by centre
MOST_ROWS = 1 << 14  # of a block
FOLDED = 4.0  # an origin farther than this many times the rows' spread is subtracted from the rows themselves


@dataclass(frozen=True)
class Rows:
    """Rows seen from an origin in their midst, where products of float32 cancel least.

    x (n, D); origin (D,) float64 with values of x's dtype; norms (n,) |x - origin|, x's dtype. folded: products are
    taken with x itself and the centres' weights make up for the origin, which spares a pass over x. buffers: see
    `buffer`.
    """

    x: Tensor
    origin: Tensor
    norms: Tensor
    folded: bool
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def about(cls, x: Tensor, center: Tensor) -> "Rows":
        """x (n, D) seen from `center` (D,)."""
        origin = center.to(x.dtype)
        norms = torch.empty_like(x[:, 0])
        for part in chunks(len(x), x.shape[1], x.device):
            torch.linalg.vector_norm(x[part] - origin, dim=1, out=norms[part])
        spread = float(norms.mean()) if len(norms) else 0.0
        return cls(x, origin.double(), norms, float(origin.norm()) <= FOLDED * spread)

    @cached_property
    def shifted(self) -> cuda_assign.Shifted:
        """x in float16 for the kernels of `cuda_assign`, made once; half as large as x."""
        return cuda_assign.shift_rows(self.x, self.origin, self.norms.double().mean(), torch.float16)

    def squares(self, weights: Tensor | None = None) -> Tensor:
        """Float64 sum of |x - origin|², times weights (n,)."""
        total = self.origin.new_zeros(())
        for part in chunks(len(self.norms), 1, self.norms.device):
            squares = self.norms[part].double().square()
            total += (squares if weights is None else squares * weights[part]).sum()
        return total

    def buffer(self, use: str, n_rows: int, n_columns: int) -> Tensor:
        """(n_rows, n_columns) uninitialised, the same memory at each call: fresh memory costs as much as a product."""
        size = n_rows * n_columns
        if use not in self.buffers or self.buffers[use].numel() < size:
            self.buffers[use] = self.x.new_empty(size)
        return self.buffers[use][:size].view(n_rows, n_columns)

    def block(self, part: slice | Tensor) -> Tensor:
        """(b, D) what products are taken with, the rows `part`, a slice or positions. Overwritten by the next call."""
        x = self.x[part] if isinstance(part, slice) else part
        if self.folded and isinstance(part, slice):
            return x
        block = self.buffer("block", len(x), self.x.shape[1])
        if not isinstance(part, slice):
            x = torch.index_select(self.x, 0, part, out=block)
        return x if self.folded else torch.sub(x, self.origin.to(x.dtype), out=block)


class Scorer:
    """Scores |x - c|² - |x - origin|² of blocks of rows; centers (K, D) float64.

    transposed: the scores of a centre lie in one piece, not those of a row; `least` may then change them by rounding.
    """

    def __init__(self, rows: Rows, centers: Tensor, transposed: bool = False) -> None:
        self.rows, self.centers, self.transposed = rows, centers, transposed
        moved = centers - rows.origin  # (K, D) same distances, smaller norms
        bias = moved.square().sum(1)
        if rows.folded:
            bias += 2 * moved @ rows.origin
        self.affine = Affine((-2 * moved).to(rows.x.dtype), bias.to(rows.x.dtype))
        radius, distance = float(moved.norm(dim=1).max()), float(rows.origin.norm()) if rows.folded else 0.0
        error = relative_error(rows.x) + (place_error(rows.x.dtype) if transposed else 0.0)
        # a score's error: that of 2 x (c - origin), |x| <= norm + distance, and that of the bias
        self.slope, self.level = 2 * error * radius, rows.norms.new_tensor(error * radius * (radius + 4 * distance))

    def chunk_rows(self) -> int:
        """Rows of a block that fits the cache with its scores."""
        x, budget = self.rows.x, CHUNK_BYTES if self.rows.x.device.type == "cpu" else 256 * CHUNK_BYTES
        if self.transposed:  # the product takes fewer rows at a time
            return max(64, min(MOST_ROWS, budget // (x.element_size() * len(self.centers))))
        fitting = budget // (x.element_size() * max(x.shape[1], len(self.centers)))
        return max(1, min(len(x), max(64, fitting)))

    def scores(self, part: slice | Tensor) -> Tensor:
        """(b, K) scores of rows `part`; they are overwritten by the next call."""
        if not self.transposed:
            block = self._cached(part)
            return self.affine(block, self.rows.buffer("scores", len(block), len(self.centers)))
        n_rows = len(self.rows.norms[part])
        scores = self.rows.buffer("scores", len(self.centers), n_rows)
        step = max(64, CHUNK_BYTES // (2 * scores.element_size() * self.centers.shape[1]))
        for start in range(0, n_rows, step):
            block, out = self._cached(part_of(part, start, min(start + step, n_rows))), scores[:, start : start + step]
            torch.addmm(self.affine.bias[:, None], self.affine.weight, block.T, out=out)
        return scores.T

    def _cached(self, part: slice | Tensor) -> Tensor:
        """(b, D) what products are taken with, brought into the cache, which a thin product does too slowly itself."""
        block = self.rows.block(part)
        if self.rows.folded and isinstance(part, slice) and len(self.centers) <= THIN and block.device.type == "cpu":
            block.sum()
        return block

    def errors(self, part: slice | Tensor) -> Tensor:
        """(b,) bound of |computed - exact| of each score of these rows."""
        return torch.add(self.level, self.rows.norms[part], alpha=self.slope)

    def settle(self, rows: Tensor, columns: slice = slice(None)) -> Tensor:
        """(u,) int64 nearest of the centres `columns` to the rows at positions `rows`, by float64 differences."""
        parts = rows.split(self.chunk_rows())
        return torch.cat([self.decide(self.scores(part)[:, columns], part, columns) for part in parts])

    def decide(self, scores: Tensor, rows: Tensor, columns: slice = slice(None)) -> Tensor:
        """`settle` for the rows of one block, whose scores (b, K of the columns) are known and kept."""
        x, centers = self.rows.x, self.centers[columns]
        reach = scores.amin(1) + 2 * self.errors(rows)
        # all centres that may be nearest, also where scores overflowed: (p,) pairs, sorted
        row, center = torch.logical_not(scores > reach[:, None]).nonzero().unbind(1)
        squares = centers.new_empty(len(row))
        for pairs in chunks(len(row), 2 * x.shape[1], x.device):
            squares[pairs] = (x[rows[row[pairs]]] - centers[center[pairs]]).square().sum(1)
        least = centers.new_full((len(rows),), math.inf).scatter_reduce(0, row, squares, "amin")
        nearest = (squares == least[row]).nonzero()[:, 0]
        return torch.full_like(rows, len(centers)).scatter_reduce(0, row[nearest], center[nearest], "amin")


def take_least_(scores: Tensor, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(b, 1) int64 where each row of `scores` (b, K) is least, (b, 1) what it is there, and (b,) by how much.

    In place, the least score becomes infinite.
    """
    if transposed:
        places, gaps = least_(scores.T[None])
        own = places[0, :, None].long()
        best = scores.gather(1, own)
        scores.scatter_(1, own, math.inf)
        return own, best, gaps[0]
    own = argmin(scores)[:, None]
    best = scores.gather(1, own)
    scores.scatter_(1, own, math.inf)
    return own, best, scores.amin(1) - best[:, 0]


def nearest_each(rows: Rows, centers: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
    """Write each row's nearest centre of every set of centers (K, D) float64 into its labels (n,), in place.

    All sets share one pass over the rows.
    """
    if rows.x.dtype == torch.float32 and cuda_assign.available(rows.x.device):
        for own, some in zip(labels, centers, strict=True):
            own.copy_(cuda_assign.nearest(rows.x, some, nearest, rows.shifted))
        return
    sizes = [len(one) for one in centers]
    alike = len(set(sizes)) == 1  # then the least of all sets are found together
    transposed = sum(sizes) <= THIN and rows.x.device.type == "cpu"
    scorer = Scorer(rows, torch.cat(list(centers)), transposed)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    columns = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    together = [(slice(None), labels)] if alike else [(own, [one]) for own, one in zip(columns, labels, strict=True)]
    unsure = [torch.empty((len(sets), len(rows.x)), dtype=torch.bool, device=rows.x.device) for _, sets in together]
    step = scorer.chunk_rows()
    for start in range(0, len(rows.x), step):
        part = slice(start, start + step)
        scores, errors = scorer.scores(part), 2 * scorer.errors(part)
        for (column, sets), doubt in zip(together, unsure, strict=True):
            least, gap = least_of_sets_(scores[:, column], len(sets), transposed)
            doubt[:, part] = torch.logical_not(gap > errors)  # so where scores overflowed
            for own, found in zip(sets, least, strict=True):
                own[part] = found
    for own, column, mask in zip(labels, columns, torch.cat(unsure), strict=True):
        doubtful = mask.nonzero()[:, 0]
        own[doubtful] = scorer.settle(doubtful, column).to(own.dtype)


def least_of_sets_(scores: Tensor, n_sets: int, transposed: bool) -> tuple[Tensor, Tensor]:
    """(s, b) which score of each row is least in each of s sets, and (s, b) by how much; uses up scores (b, s K)."""
    if transposed:
        return least_(scores.T.view(n_sets, scores.shape[1] // n_sets, len(scores)))
    least, _, gap = take_least_(scores.reshape(len(scores) * n_sets, -1), transposed)
    return least.view(-1, n_sets).T, gap.view(-1, n_sets).T


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """(n,) int64: each row's nearest centre, the lowest index among equals.

    Args:
        x: (n, D) float32 or float64.
        centers: (K, D) float64.
    """
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    nearest_each(Rows.about(x, centers.mean(0)), [centers], [labels])
    return labels


def own_squared_distances(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """(n,) float64: squared distance of each row to the centre its label names. centers (K, D) float64."""
    squared = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for part in chunks(len(x), 2 * x.shape[1], x.device):
        squared[part] = (x[part] - centers[labels[part]]).square().sum(1)
    return squared


def inertia(x: Tensor, weights: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Float64 sum of weight times squared distance to the centre a row's label names; weights (n,) float64."""
    total = centers.new_zeros(())
    for part in chunks(len(x), 2 * x.shape[1], x.device):
        total += (weights[part] * own_squared_distances(x[part], centers, labels[part])).sum()
    return total


def relative_error(x: Tensor) -> float:
    """Bound of |computed - exact| / (|x| |c|) of a product of D terms, at the precision torch multiplies with now."""
    rounding = (x.shape[1] + 8) * torch.finfo(x.dtype).eps / 2
    # tensor cores may cut off where others round to nearest
    return (1 + x.is_cuda) * rounding + factor_error(x)


def factor_error(x: Tensor) -> float:
    """What torch, as it is set now, takes off float32 factors of a product, relative to the product; 0 for nothing."""
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    reduced = {"tf32": 2.0**-9, "bf16": 2.0**-7}
    return reduced.get(backend.matmul.fp32_precision, 0.0) if x.dtype == torch.float32 else 0.0
