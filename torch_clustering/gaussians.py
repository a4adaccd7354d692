"""Log densities of Gaussian components with four kinds of covariance.

b rows of a chunk, D features, K components. Rows are centred: |mean|² >> variance would cancel. All kinds but "full"
are linear in features phi of a row, so that one product gives all log densities and another one all statistics:
"diag" phi = [x, x²], "spherical" phi = [x, |x|²], "tied" phi = x (its term in x xᵀ is the same for all components).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["full", "tied", "diag", "spherical"]
KINDS: tuple[Kind, ...] = ("full", "tied", "diag", "spherical")


@dataclass(frozen=True)
class Mixture:
    """weights (K,) of sum 1, means (K, D), covariances (K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical."""

    kind: Kind
    weights: Tensor
    means: Tensor
    covariances: Tensor

    def seen_from(self, origin: Tensor) -> "Mixture":
        """The same about `origin` (D,)."""
        return replace(self, means=self.means - origin)

    @property
    def n_parameters(self) -> int:
        """How many numbers can be chosen freely."""
        n_components, width = self.means.shape
        free = {"full": n_components * width * (width + 1), "tied": width * (width + 1)}.get(self.kind)
        free = self.covariances.numel() if free is None else free // 2
        return free + n_components * width + n_components - 1

    def sample(self, n_samples: int, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(n_samples, D) rows and (n_samples,) the components they come from, in order; both on the CPU."""
        weights, means, covariances = self.weights.cpu(), self.means.cpu(), self.covariances.cpu()
        counts = draws.multinomial(n_samples, weights.numpy() / float(weights.sum()))
        labels = torch.from_numpy(np.repeat(np.arange(len(means)), counts))
        noise = torch.from_numpy(draws.standard_normal((n_samples, means.shape[1])))
        if self.kind in ("full", "tied"):
            factors = torch.linalg.cholesky(covariances).expand(len(means), -1, -1)
            parts = zip(factors, noise.split(counts.tolist()), strict=True)
            noise = torch.cat([part @ factor.T for factor, part in parts])
        else:
            noise *= covariances.sqrt().reshape(len(means), -1)[labels]
        return means[labels] + noise, labels


def covariance_shape(kind: Kind, n_components: int, width: int) -> tuple[int, ...]:
    """The shape of covariances and precisions of K components of D = `width` features."""
    return {
        "full": (n_components, width, width),
        "tied": (width, width),
        "diag": (n_components, width),
        "spherical": (n_components,),
    }[kind]


def features(kind: Kind, x: Tensor, origin: Tensor, out: Tensor) -> Tensor:
    """(b, F) phi of rows x (b, D) less origin (D,), in the dtype of `out` (b or more, F) and in its memory."""
    phi, width = out[: len(x)], x.shape[1]
    centred = torch.sub(x, origin, out=phi[:, :width])
    if kind == "diag":
        torch.mul(centred, centred, out=phi[:, width:])
    elif kind == "spherical":
        torch.linalg.vector_norm(centred, dim=1, out=phi[:, width]).square_()
    return phi


def n_features(kind: Kind, width: int) -> int:
    """F of rows of D = `width` features."""
    return {"full": width, "tied": width, "diag": 2 * width, "spherical": width + 1}[kind]


class Densities:
    """weight_k N(x | mean_k, covariance_k) of a mixture's components, factorised once, in float64.

    whitening: P with covariance⁻¹ = P Pᵀ, upper triangular (K, D, D) or (D, D), or 1 / sqrt(variance) (K, D) or (K,).
    magnitude: products of relative precision e lose about magnitude e of a variance, and as much of the mean log
    density. It is small where means lie no farther apart than features spread, and features are not too alike.

    Raises:
        ValueError: a covariance is not positive definite.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture, kind, means = mixture, mixture.kind, mixture.means
        n_components, width = means.shape
        self.whitening = whitening(kind, mixture.covariances)
        if kind in ("full", "tied"):
            log_scale = self.whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            second = mixture.covariances.diagonal(dim1=-2, dim2=-1) + means.square()  # (K, D) of a component's own rows
            magnitude = (second[:, None] @ self.whitening.square()).max()
        else:
            precisions = self.whitening.square().reshape(n_components, -1)  # (K, D) or (K, 1)
            log_scale = self.whitening.reshape(n_components, -1).expand(-1, width).log().sum(1)
            magnitude = (1 + means.square() * precisions).norm(dim=1).max()
        self.constant = mixture.weights.log() + log_scale - 0.5 * width * math.log(2 * math.pi)  # (K,)
        if kind == "full":
            self.tables = list(_bands_of_whitening(self.whitening, means))
        else:
            slope = means @ self.whitening @ self.whitening.mT if kind == "tied" else means * precisions  # (K, D)
            self.constant -= 0.5 * (means * slope).sum(1)
            self.tables = [(slope if kind == "tied" else torch.cat([slope, -0.5 * precisions], 1), self.constant)]
        if kind == "tied":
            magnitude = torch.maximum(magnitude, (second * slope.square()).sum(1).max().sqrt())
        self.magnitude = float(magnitude)
        self.offset = float(self.constant.max())  # taken out of products, as small numbers round better

    def at(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The function phi (b, F) of `dtype` -> (K, b) log densities, less `offset` and what `common` gives.

        Columns are rows of the data: sums and maxima over components are then sums and maxima of vectors.
        """
        tables = [(weight.to(dtype), bias.to(dtype)[:, None]) for weight, bias in self.tables]
        constant = (self.constant - self.offset).to(dtype)[:, None]
        if self.mixture.kind != "full":
            return lambda phi: torch.addmm(constant, tables[0][0], phi.T)

        def log_densities(x: Tensor) -> Tensor:
            joint = constant.expand(-1, len(x))
            for weight, bias in tables:
                whitened = torch.addmm(bias, weight, x[:, : weight.shape[1]].T)  # (K w, b)
                joint = joint - whitened.square_().view(len(constant), -1, len(x)).sum(1)
            return joint

        return log_densities

    def common(self, x: Tensor) -> Tensor | float:
        """(b,) the part of a log density that is the same in all components; `at` leaves it out."""
        return -0.5 * (x @ self.whitening).square().sum(1) if self.mixture.kind == "tied" else 0.0

    def log_joint(self, phi: Tensor) -> Tensor:
        """(K, b) log(weight_k N(x | mean_k, covariance_k)) of rows of features phi (b, F) float64."""
        return self.at(phi.dtype)(phi) + (self.common(phi) + self.offset)


def _bands_of_whitening(whitening: Tensor, means: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(K w, end) and (K w,) that map x[:, :end] to w whitened features / sqrt 2 of each component, less its mean's.

    P is triangular: a band of its columns is 0 below the band, which saves up to half of the product.
    """
    shift = (means[:, None] @ whitening)[:, 0]  # (K, D)
    for start, end in bands(shift.shape[1]):
        weight = whitening[:, :end, start:end].mT.reshape(-1, end)
        yield weight * 0.5**0.5, -shift[:, start:end].reshape(-1) * 0.5**0.5


def bands(width: int) -> list[tuple[int, int]]:
    """First and last + 1 of the features of each band: 16 and more of them, in at most 8 bands."""
    step = max(16, -(-width // 8))
    return [(start, min(start + step, width)) for start in range(0, width, step)]


def whitening(kind: Kind, covariances: Tensor) -> Tensor:
    """P of `Densities`, of covariances by kind. ValueError: one is not positive definite."""
    if kind not in ("full", "tied"):
        if not bool((covariances > 0).all()):
            raise ValueError(_singular(int((covariances <= 0).nonzero()[0, 0])))
        return covariances.rsqrt()
    lower, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        raise ValueError(_singular(int(failed.reshape(-1).nonzero()[0])))
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
    return inverse.mT


def _singular(component: int) -> str:
    return f"the covariance of component {component} is not positive definite; raise reg_covar or lower n_components"
