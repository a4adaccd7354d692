"""Mixture of two beta densities on [0, 1], as it tells losses of clean labels from those of wrong ones."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from torch_clustering._checks import to_tensor, whole

EDGE = 1e-4  # values are kept this far from 0 and 1, where densities may be infinite
FLOOR = 1e-12  # of a weighted density: a value far from both components is shared between them
LEAST_VARIANCE, LARGEST_VARIANCE = 1e-8, 0.999  # the second in parts of mean (1 - mean), which no density reaches


class BetaMixture1D:
    """Two beta densities fitted to numbers in [0, 1] by expectation maximisation with moments (Arazo et al. 2019).

    Args:
        max_iters: passes; there is no other stop.
        alphas_init, betas_init: parameters of the components to start from.
        weights_init: their shares, of sum 1.

    After `fit`: alphas, betas, weights, one float64 number for each component, in the kind of the data: tensors for a
    tensor, else NumPy arrays. All is computed in float64, in log space.

    >>> losses = [0.05, 0.1, 0.12, 0.2, 0.7, 0.8, 0.85, 0.9]
    >>> model = BetaMixture1D().fit(losses)
    >>> model.responsibilities(losses).argmax(0).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """

    def __init__(
        self,
        max_iters: int = 10,
        alphas_init: Sequence[float] = (1, 2),
        betas_init: Sequence[float] = (2, 1),
        weights_init: Sequence[float] = (0.5, 0.5),
    ) -> None:
        whole("max_iters", max_iters)
        if not len(alphas_init) == len(betas_init) == len(weights_init) == 2:
            raise ValueError("alphas_init, betas_init and weights_init must hold two numbers each")
        if min(*alphas_init, *betas_init, *weights_init) <= 0:
            raise ValueError("alphas_init, betas_init and weights_init must be above 0")
        self.max_iters = max_iters
        self.alphas: Any = torch.tensor(alphas_init, dtype=torch.float64)
        self.betas: Any = torch.tensor(betas_init, dtype=torch.float64)
        self.weights: Any = torch.tensor(weights_init, dtype=torch.float64)

    @torch.no_grad()
    def fit(self, x: Any) -> Self:
        """Fit to the numbers x (n,), of which those outside [1e-4, 1 - 1e-4] are moved to its ends.

        Raises:
            ValueError: no numbers, or NaN or infinity among them.
        """
        values = _values(x)
        if len(values) == 0 or not bool(values.isfinite().all()):
            raise ValueError(f"x must hold at least one number, and no NaN or infinity: {len(values)} numbers")
        for _ in range(self.max_iters):
            shares = self._responsibilities(values)  # (2, n)
            totals = shares.sum(1)
            mean = shares @ values / totals  # (2,)
            variance = (shares * (values - mean[:, None]).square()).sum(1) / totals
            bound = mean * (1 - mean)
            variance = variance.clamp(min=LEAST_VARIANCE).minimum(LARGEST_VARIANCE * bound)
            self.alphas = mean * (bound / variance - 1)
            self.betas = self.alphas * (1 - mean) / mean
            self.weights = totals / totals.sum()
        self.alphas, self.betas, self.weights = (_like(part, x) for part in (self.alphas, self.betas, self.weights))
        return self

    def likelihood(self, x: Any, y: int) -> Any:
        """(n,) density of component y (0 or 1) at x (n,)."""
        return _like(self._log_densities(_values(x))[y].exp(), x)

    def weighted_likelihood(self, x: Any, y: int) -> Any:
        """(n,) density of component y at x (n,) times its weight."""
        return _like(self._log_joint(_values(x))[y].exp(), x)

    def probability(self, x: Any) -> Any:
        """(n,) density of the mixture at x (n,)."""
        return _like(self._log_joint(_values(x)).logsumexp(0).exp(), x)

    def responsibilities(self, x: Any) -> Any:
        """(2, n) posterior of each component at x (n,), columns of sum 1."""
        return _like(self._responsibilities(_values(x)), x)

    def plot(self) -> None:
        """Draw the weighted densities and their sum into matplotlib's current axes."""
        from matplotlib import pyplot

        grid = torch.linspace(0, 1, 201, dtype=torch.float64)[1:-1]
        for component in (0, 1):
            pyplot.plot(grid.numpy(), self.weighted_likelihood(grid, component).numpy(), label=f"component {component}")
        pyplot.plot(grid.numpy(), self.probability(grid).numpy(), label="mixture")
        pyplot.legend()

    def _responsibilities(self, values: Tensor) -> Tensor:
        return self._log_joint(values).clamp_(min=math.log(FLOOR)).softmax(0)

    def _log_joint(self, values: Tensor) -> Tensor:
        return self._log_densities(values) + to_tensor(self.weights).to(values.device).log()[:, None]

    def _log_densities(self, values: Tensor) -> Tensor:
        """(2, n) log densities of values (n,)."""
        alphas, betas = (to_tensor(part).to(values.device) for part in (self.alphas, self.betas))
        constant = torch.lgamma(alphas + betas) - torch.lgamma(alphas) - torch.lgamma(betas)
        slopes = (alphas - 1)[:, None] * values.log() + (betas - 1)[:, None] * (-values).log1p()
        return slopes + constant[:, None]


def _values(x: Any) -> Tensor:
    values = to_tensor(x).to(torch.float64)
    if values.ndim != 1:
        raise ValueError(f"x must have 1 dimension (n,), not {values.ndim}: shape {tuple(values.shape)}")
    return values.clamp(EDGE, 1 - EDGE)


def _like(result: Tensor, x: Any) -> Any:
    """`result` in the kind of `x`."""
    return result if isinstance(x, Tensor) else result.numpy()
