"""Bounds that spare exact passes: rows of which they prove that nothing can change are left out (Elkan 2003).

n rows of this rank, D features, K clusters. Distances here are not squared. Bounds are never lowered as the centres
move: K numbers add up how far each centre has travelled, and a bound counts from its own place on that road. So a pass
reads the (n, K) bounds once and writes only those of the rows it has to look at.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import CHUNK_BYTES, chunks
from torch_clustering.assign import Rows, Scorer, relative_error, take_least_

THIN = 32  # the least of so few columns is found fastest with each column in one piece
WIDE = 256  # centres from which on measuring a row's own distance first costs less than it spares
ROUNDING = 8.0  # units of the dtype's precision by which sums and roots of distances are distrusted
DOUBT = 32.0  # units of a product's error, relative to the largest squares, by which squared distances are distrusted
SAMPLE_ROWS = 1 << 11  # that the directions of a sketch are taken from
ITERATIONS = 3  # by which these directions are found well enough; any are valid


class Bounds:
    """Lower bounds of each row's distance to every other centre, and an upper one to its own.

    lower (n, K): lower bound + the centre's road when it was taken, infinite for the own centre; upper (n,): upper
    bound - the own centre's road when it was taken; road (K,) float64.
    """

    def __init__(self, rows: Rows, n_clusters: int) -> None:
        self.rows = rows
        self.transposed = n_clusters <= THIN
        shape = (n_clusters, len(rows.x)) if self.transposed else (len(rows.x), n_clusters)
        self.lower = rows.x.new_empty(shape).T if self.transposed else rows.x.new_empty(shape)
        self.upper = rows.x.new_empty(len(rows.x))
        self.road = torch.zeros(n_clusters, dtype=torch.float64, device=rows.x.device)
        self.precision = ROUNDING * torch.finfo(rows.x.dtype).eps

    def move(self, distances: Tensor) -> None:
        """The centres have moved by these distances (K,) float64."""
        self.road += distances * (1 + self.precision)

    def fill(self, scorer: Scorer, labels: Tensor) -> None:
        """Label all rows (labels (n,), in place) and take their bounds."""
        step = scorer.chunk_rows()
        self._label(scorer, labels, [slice(start, start + step) for start in range(0, len(labels), step)])

    def refresh(self, scorer: Scorer, labels: Tensor) -> None:
        """Label the rows whose label may have changed, labels (n,) in place, and take their bounds anew."""
        rows, least = self.unproven(labels)
        if len(self.road) > WIDE:
            rows = self._tighten(scorer, labels, rows, least)
        self._label(scorer, labels, rows.split(scorer.chunk_rows()))

    def unproven(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(a,) positions of the rows for which another centre than their label's may be as near, and how near."""
        road = self.road.to(self.lower.dtype)
        step = max(1, CHUNK_BYTES // (road.element_size() * len(road)))
        least = torch.empty_like(self.upper)
        for start in range(0, len(labels), step):
            lower = self.lower[start : start + step]
            if self.transposed:
                left = self.rows.buffer("left", len(road), len(lower)).T
            else:
                left = self.rows.buffer("left", len(lower), len(road))
            torch.amin(torch.sub(lower, road, out=left), 1, out=least[start : start + step])
        rows = (least <= self._reach(slice(None), labels)).nonzero()[:, 0]
        return rows, least[rows]

    def _reach(self, part: slice | Tensor, labels: Tensor) -> Tensor:
        """(b,) upper bounds of the distances of rows `part` to their own centres, rounding included."""
        road = self.road.to(self.upper.dtype)
        reach = self.upper[part] + road[labels[part]]
        return reach + self.precision * (reach.abs() + 2 * road.max())

    def _tighten(self, scorer: Scorer, labels: Tensor, rows: Tensor, least: Tensor) -> Tensor:
        """Those of `rows` that stay unproven once the distance to their own centre is measured."""
        centers, road = scorer.centers.to(self.upper.dtype), self.road.to(self.upper.dtype)
        rounding = self.precision * centers.norm(dim=1).max()
        for some in rows.split(scorer.chunk_rows()):
            own = labels[some]
            x = torch.index_select(self.rows.x, 0, some, out=self.rows.buffer("block", len(some), centers.shape[1]))
            distance = torch.linalg.vector_norm(x.sub_(centers[own]), dim=1)
            self.upper[some] = distance * (1 + relative_error(x)) + rounding - road[own]
        return rows[least <= self._reach(rows, labels)]

    def _label(self, scorer: Scorer, labels: Tensor, parts: Sequence[slice | Tensor]) -> None:
        doubtful = []
        for part in parts:
            scores = scorer.scores(part)
            own, best, gap = take_least_(scores, scorer.transposed)
            unsure = torch.logical_not(gap > 2 * scorer.errors(part)).nonzero()[:, 0]
            doubtful.append(unsure + part.start if isinstance(part, slice) else part[unsure])
            labels[part] = own[:, 0].to(labels.dtype)
            self._take(scorer, part, scores, own, best)
        for rows in torch.cat(doubtful).split(scorer.chunk_rows()) if doubtful else ():
            scores = scorer.scores(rows)
            own = scorer.decide(scores, rows)[:, None]
            labels[rows] = own[:, 0].to(labels.dtype)
            best = scores.gather(1, own)
            self._take(scorer, rows, scores.scatter_(1, own, math.inf), own, best)

    def _take(self, scorer: Scorer, part: slice | Tensor, scores: Tensor, own: Tensor, best: Tensor) -> None:
        """Bounds of rows `part` from scores (b, K), infinite at the own centre (b, 1), where it was `best` (b, 1)."""
        squares = self.rows.norms[part, None].square()  # score + |x - origin|² = distance²
        error = scorer.errors(part)[:, None] + self.precision * squares
        near = (best + squares).clamp_(min=0)
        # an error e of a square d² is one of at most e / d, and of at most sqrt(e), of d
        tiny = torch.finfo(near.dtype).tiny
        error = torch.minimum(error / (near - 2 * error).clamp_(min=tiny).sqrt_(), error.sqrt())
        road = self.road.to(near.dtype)
        self.lower[part] = scores.add_(squares).clamp_(min=0).sqrt_().sub_(error).add_(road)
        self.upper[part] = (near.sqrt_().add_(error) - road[own])[:, 0]


class Sketch:
    """A few coordinates of each row, by which most rows prove to be far from a point.

    They are products with C - 1 orthonormal directions, about those along which rows spread most, and the length of
    what these leave out. So |s - t| of two sketches is at most |x - y| of their rows.
    """

    def __init__(self, rows: Rows, n_coordinates: int) -> None:
        self.rows, self.origin = rows, rows.origin.to(rows.x.dtype)
        self.doubt = DOUBT * relative_error(rows.x)
        self.directions = self._directions(n_coordinates - 1).to(rows.x.dtype)
        self.coordinates = rows.x.new_empty((len(rows.x), n_coordinates))
        for part in chunks(len(rows.x), rows.x.shape[1], rows.x.device):
            self.coordinates[part] = self._coordinates(rows.x[part], rows.norms[part].square())
        squares = rows.norms.square()
        self.slack = self.doubt * (squares + self.origin.square().sum()) - squares

    def _directions(self, n_directions: int) -> Tensor:
        """(D, C - 1) float64, by subspace iterations on some rows."""
        sample = self.rows.x[:: len(self.rows.x) // SAMPLE_ROWS + 1] - self.origin
        sample = F.normalize(sample.double())  # no row outweighs the others
        directions = torch.randn(
            (sample.shape[1], n_directions), generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        for _ in range(ITERATIONS):
            directions = torch.linalg.qr(sample.T @ (sample @ directions)).Q
        return directions

    def _coordinates(self, x: Tensor, squares: Tensor) -> Tensor:
        """(b, C) of x (b, D), whose squared distances to the origin are `squares` (b,)."""
        along = (x - self.origin) @ self.directions
        rest = squares * (1 + self.doubt) - along.square().sum(1)  # at least the square of what is left out
        return torch.cat([along, rest.clamp(min=0).sqrt()[:, None]], 1)

    def near(self, points: Sequence[Tensor], squared: Sequence[Tensor]) -> list[Tensor]:
        """Per set of points (L, D) and squared distances (n,): positions of the rows that may be nearer to a point.

        The others are no nearer by computed distances either: these, too, err by less than `doubt` allows for.
        """
        joined = torch.cat(list(points))
        squares = (joined - self.origin).square().sum(1)
        weight = -2 * self._coordinates(joined, squares)
        ends = np.cumsum([0, *(len(some) for some in points)]).tolist()
        least = self.slack.new_empty((len(points), len(self.slack)))
        step = CHUNK_BYTES // (weight.element_size() * max(weight.shape))
        for start in range(0, len(self.slack), step):
            block = self.coordinates[start : start + step]
            block.sum()  # brings it into the cache, which a thin product alone does too slowly
            scores = self.rows.buffer("scores", len(weight), len(block))
            torch.addmm(squares[:, None], weight, block.T, out=scores)  # at most |x - point|² - |x - origin|²
            for one, begin, end in zip(least, ends[:-1], ends[1:], strict=True):
                torch.amin(scores[begin:end], 0, out=one[start : start + step])
        limits = [closest + (self.slack + self.doubt * squares.max()) for closest in squared]
        return [torch.logical_not(one > limit).nonzero()[:, 0] for one, limit in zip(least, limits, strict=True)]
