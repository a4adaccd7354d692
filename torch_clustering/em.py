"""Expectation maximisation of Gaussian mixtures on rows sharded over ranks. n rows of this rank, b of a
chunk, D features, K components.

One pass over the rows is an E-step and the M-step after it: responsibilities never leave their chunk.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from torch_clustering._checks import Shard, chunks
from torch_clustering._collectives import sum_over_ranks
from torch_clustering.assign import factor_error
from torch_clustering.gaussians import Densities, Kind, Mixture, bands, features, n_features
from torch_clustering.gemm import onednn, usable

# products of float32 rows are used while what they lose (see `Densities.magnitude`) stays below this
ACCEPTED_LOSS = 1e-4
LARGEST_COVARIANCES_BYTES = 8 << 30

# responsibilities (K, b) of the rows `part`, whose features are phi (b, F), and the log-likelihood of each (b,)
Expect = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Statistics:
    """float64 sums over rows that an M-step needs, and that add up over chunks and ranks.

    size (K,) sum of r; sums (K, F) sum of r phi; squares (K, D, D) for "full": sum of r x xᵀ, of which only the lower
    triangle counts, else empty; log_likelihood (1,).
    """

    size: Tensor
    sums: Tensor
    squares: Tensor
    log_likelihood: Tensor

    @classmethod
    def zeros(cls, kind: Kind, n_components: int, width: int, device: torch.device) -> Self:
        """Of no rows of D = `width` features. ValueError: full covariances would be too large."""
        size_bytes = 8 * n_components * width**2
        if kind == "full" and size_bytes > LARGEST_COVARIANCES_BYTES:
            raise ValueError(
                f"full covariances of {n_components} components, {width} features take {size_bytes / 2**30:.3g} GiB; "
                "choose covariance_type 'diag' or 'tied', or fewer features (PCA)"
            )
        squares = (n_components, width, width) if kind == "full" else (0,)
        shapes = [(n_components,), (n_components, n_features(kind, width)), squares, (1,)]
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add_(self, phi: Tensor, responsibilities: Tensor, log_likelihood: Tensor) -> None:
        """Add those of a chunk: phi (b, F), responsibilities (K, b) and log_likelihood (b,), weights included."""
        self.size.add_(responsibilities.sum(1))
        self.sums.add_(weighted_sums(responsibilities, phi))
        self.log_likelihood.add_(log_likelihood.sum(dtype=torch.float64))
        if self.squares.ndim == 3:
            add_squares_(self.squares, phi, responsibilities)

    def over_ranks(self, shard: Shard) -> "Statistics":
        """Those of the rows of all ranks. Collective: one message."""
        own = [self.size, self.sums, self.squares, self.log_likelihood]
        flat = sum_over_ranks(torch.cat([part.flatten() for part in own]), shard.group)
        parts = torch.split(flat, [part.numel() for part in own])
        return Statistics(*(new.view_as(old) for new, old in zip(parts, own, strict=True)))


def parts_of(kind: Kind, x: Tensor, origin: Tensor, n_components: int) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk of x (n, D), and phi (b, F) of x less origin (D,), in its dtype, which the next chunk overwrites."""
    thin = n_features(kind, x.shape[1]) + 2 * n_components
    # thin products are fastest on chunks twice as long as the cache would have them
    numbers = thin + n_components * bands(x.shape[1])[0][1] if kind == "full" else thin / 2
    slices = chunks(len(x), math.ceil(numbers * origin.itemsize / 8), x.device)
    room = origin.new_empty((min(slices[0].stop, len(x)) if slices else 0, n_features(kind, x.shape[1])))
    for part in slices:
        yield part, features(kind, x[part], origin, room)


def weighted_sums(weights: Tensor, phi: Tensor) -> Tensor:
    """(K, F) weights (K, b) @ phi (b, F), by oneDNN where torch has it: it takes two thirds of the time."""
    if min(weights.shape[0], phi.shape[1]) > 1 and usable(phi):
        return onednn(weights, phi.T, phi.new_zeros(phi.shape[1]))
    return weights @ phi


def add_squares_(squares: Tensor, x: Tensor, responsibilities: Tensor) -> None:
    """Add the sums of r x xᵀ of rows x (b, D) to squares (K, D, D), at least to their lower triangles, in place."""
    n_components, n_rows = responsibilities.shape
    # few rows lie between many components. What is left out of one sums to less than eps / 256 of it, and rows so
    # unlikely lie some 10 deviations away: 100 times the average square at most makes less than rounding
    active = responsibilities > torch.finfo(x.dtype).eps / 256 * responsibilities.mean(1, keepdim=True)
    if x.device.type == "cpu" and 2 * int(active.count_nonzero()) < active.numel():
        for total, weights, chosen in zip(squares, responsibilities, active, strict=True):
            rows = chosen.nonzero()[:, 0]
            own = x.index_select(0, rows)
            total.add_((own * weights.index_select(0, rows)[:, None]).T @ own)
        return
    columns = x.T.contiguous()
    for start, end in bands(x.shape[1]):
        weighted = (responsibilities[:, None] * columns[start:end]).view(-1, n_rows)  # (K w, b)
        squares[:, start:end, :end] += (weighted @ x[:, :end]).view(n_components, end - start, end)


@dataclass(frozen=True)
class Rows:
    """The rows of all ranks as mixtures see them, and how parameters are made from them.

    origin (D,) float64, exact in the rows' dtype: near their mean, taken off before they are multiplied; weight: sum
    of the weights of all rows; squares: (D, D) weighted sum of x xᵀ for "tied" (the same in every pass), else empty.
    """

    shard: Shard
    kind: Kind
    reg_covar: float
    origin: Tensor
    weight: float
    squares: Tensor

    @classmethod
    def of(cls, shard: Shard, kind: Kind, reg_covar: float) -> Self:
        """Collective: all ranks must call."""
        width = shard.x.shape[1]
        total = shard.x.new_zeros(width + 1, dtype=torch.float64)
        for part in chunks(len(shard.x), 2 * width, shard.x.device):
            total[:width] += shard.x[part].double().sum(0)
        total[width] = shard.weights.sum()
        total = sum_over_ranks(total, shard.group)
        origin = (total[:width] / shard.n_rows).to(shard.x.dtype).double()
        squares = torch.zeros((width, width) if kind == "tied" else 0, dtype=torch.float64, device=shard.x.device)
        if kind == "tied":
            for part in chunks(len(shard.x), 2 * width, shard.x.device):
                x = shard.x[part] - origin
                squares += (x * shard.weights[part, None]).T @ x
            squares = sum_over_ranks(squares, shard.group)
        return cls(shard, kind, reg_covar, origin, float(total[width]), squares)

    def parts(self, n_components: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Each chunk, and phi (b, F) of its rows, which the next chunk overwrites."""
        return parts_of(self.kind, self.shard.x, self.origin.to(dtype), n_components)

    def statistics(self, n_components: int, expect: Expect, dtype: torch.dtype) -> Statistics:
        """Statistics of the rows of all ranks. Collective."""
        total = Statistics.zeros(self.kind, n_components, len(self.origin), self.origin.device)
        weights = self.shard.weights
        weighted = weights.stride() != (0,)  # without weights they are one number, expanded
        for part, phi in self.parts(n_components, dtype):
            responsibilities, log_likelihood = expect(phi, part)
            if weighted:
                own = weights[part].to(dtype)
                responsibilities, log_likelihood = responsibilities * own, log_likelihood * own
            total.add_(phi, responsibilities, log_likelihood)
        return total.over_ranks(self.shard)

    def maximize(self, statistics: Statistics) -> Mixture:
        """The centred mixture of greatest expected likelihood; `reg_covar` is added once to each variance."""
        width = len(self.origin)
        size = statistics.size + 10 * torch.finfo(torch.float64).eps  # (K,)
        averages = statistics.sums / size[:, None]
        means, squares = averages[:, :width], averages[:, width:]
        if self.kind == "full":
            lower = (statistics.squares / size[:, None, None] - means[:, :, None] * means[:, None]).tril()
            covariances = lower + lower.tril(-1).mT
        elif self.kind == "tied":
            covariances = (self.squares - (size * means.T) @ means) / size.sum()
            covariances = (covariances + covariances.mT) / 2
        elif self.kind == "diag":
            covariances = (squares - means.square()).clamp_(min=0) + self.reg_covar
        else:
            covariances = (squares[:, 0] - means.square().sum(1)).clamp_(min=0) / width + self.reg_covar
        if self.kind in ("full", "tied"):
            covariances.diagonal(dim1=-2, dim2=-1).add_(self.reg_covar)
        return Mixture(self.kind, size / size.sum(), means, covariances)

    def fitted(
        self, n_components: int, expect: Callable[[torch.dtype], Expect], loss: float
    ) -> tuple[Densities, Statistics]:
        """Densities of the mixture that `expect(dtype)` leads to, and its statistics. Collective.

        float32 rows are multiplied in float32, and once more in float64 where that was not enough. loss: of `expect`.
        """
        if self.shard.x.dtype == torch.float32 and loss <= ACCEPTED_LOSS:
            statistics = self.statistics(n_components, expect(torch.float32), torch.float32)
            try:
                densities = Densities(self.maximize(statistics))
            except ValueError:  # a variance drowned in rounding
                pass
            else:
                if self.loss(densities) <= ACCEPTED_LOSS:
                    return densities, statistics
        statistics = self.statistics(n_components, expect(torch.float64), torch.float64)
        return Densities(self.maximize(statistics)), statistics

    def loss(self, densities: Densities) -> float:
        """What float32 products would take off `densities`, at the precision torch multiplies with now."""
        return densities.magnitude * (factor_error(self.shard.x) or 2.0**-24)

    def step(self, densities: Densities) -> tuple[Densities, float]:
        """The densities after one E- and M-step, and the mean log-likelihood of a row before. Collective."""

        def expect(dtype: torch.dtype) -> Expect:
            scorer = densities.at(dtype)
            return lambda phi, part: posterior(scorer(phi))

        n_components = len(densities.mixture.weights)
        after, statistics = self.fitted(n_components, expect, self.loss(densities))
        total = float(statistics.log_likelihood) + self.weight * densities.offset
        if self.kind == "tied":  # sum of |Pᵀx|²
            total -= 0.5 * float((self.squares @ densities.whitening * densities.whitening).sum())
        return after, total / self.weight


def posterior(joint: Tensor) -> tuple[Tensor, Tensor]:
    """(K, b) responsibilities, made in place of the log densities `joint` (K, b), and (b,) log-likelihoods."""
    top = joint.amax(0)
    # exp(-80) is nothing beside 1; what is smaller would be computed as slow denormal numbers
    total = joint.sub_(top).clamp_(min=-80).exp_().sum(0)
    return joint.div_(total), total.log_().add_(top)


@dataclass(frozen=True)
class Climb:
    """Where one start led to. bounds: mean log-likelihood of a row before each pass."""

    densities: Densities
    bounds: list[float]
    converged: bool

    @property
    def bound(self) -> float:
        """The last of the bounds, -infinity without a pass."""
        return self.bounds[-1] if self.bounds else -math.inf


def climb(rows: Rows, start: Densities, *, bound: float, tol: float, max_iter: int) -> Climb:
    """Passes from `start` until the likelihood changes by less than `tol`, at first from `bound`. Collective."""
    densities, bounds = start, [bound]
    while len(bounds) <= max_iter:
        densities, bound = rows.step(densities)
        bounds.append(bound)
        if abs(bounds[-1] - bounds[-2]) < tol:
            return Climb(densities, bounds[1:], True)
    return Climb(densities, bounds[1:], False)
