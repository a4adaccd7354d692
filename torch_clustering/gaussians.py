"""Gaussian components with four kinds of covariance: log densities, and parameters from sufficient statistics.

b rows of a chunk, D features, K components. All is float64, and rows are centred: |mean|² >> variance would cancel.
kind: "full" covariances (K, D, D), "tied" (D, D), "diag" (K, D), "spherical" (K,).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["full", "tied", "diag", "spherical"]


@dataclass(frozen=True)
class Mixture:
    """weights (K,) of sum 1, means (K, D), covariances by kind."""

    kind: Kind
    weights: Tensor
    means: Tensor
    covariances: Tensor


class Densities:
    """The densities of a mixture's components, factorised once. ValueError: a covariance is not positive definite."""

    def __init__(self, mixture: Mixture) -> None:
        means, kind = mixture.means, mixture.kind
        n_components, width = means.shape
        self.kind, self.means = kind, means
        if kind in ("full", "tied"):
            self.whitening = _whitening(mixture.covariances)  # (K, D, D) or (D, D)
            log_scale = self.whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            variances = mixture.covariances.reshape(n_components, -1).expand(-1, width)
            log_scale = -0.5 * _checked(variances).log().sum(1)
        if kind == "full":
            self.columns = self.whitening.transpose(0, 1).reshape(width, -1)  # (D, K D)
            self.shift = (means[:, None] @ self.whitening).reshape(-1)  # (K D,)
        elif kind == "tied":
            self.means, self.precisions = means @ self.whitening, torch.ones_like(means)
        else:
            self.precisions = 1 / variances  # (K, D)
        self.constant = mixture.weights.log() + log_scale - 0.5 * width * math.log(2 * math.pi)  # (K,)

    def log_joint(self, x: Tensor) -> Tensor:
        """(b, K) log(weight_k N(x | mean_k, covariance_k)) of rows x (b, D)."""
        return self.constant - 0.5 * self._squared(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, K) responsibilities, rows of sum 1, and (b,) log-likelihoods of rows x (b, D)."""
        joint = self.log_joint(x)
        likelihood = joint.logsumexp(1)
        return (joint - likelihood[:, None]).exp_(), likelihood

    def _squared(self, x: Tensor) -> Tensor:
        """(b, K) squared Mahalanobis distances."""
        if self.kind == "full":
            return (x @ self.columns - self.shift).view(len(x), len(self.means), -1).square().sum(2)
        if self.kind == "tied":
            x = x @ self.whitening
        scaled = self.means * self.precisions  # (K, D)
        squared = x.square() @ self.precisions.T - 2 * x @ scaled.T + (self.means * scaled).sum(1)
        return squared.clamp_(min=0)


@dataclass(frozen=True)
class Statistics:
    """Sums over rows that an M-step needs, and that add up over chunks and ranks.

    size (K,) sum of r; sums (K, D) sum of r x; squares: sum of r x xᵀ (full, (K, D, D)), of x xᵀ (tied, (D, D)),
    of r x² (diag and spherical, (K, D)); log_likelihood (1,).
    """

    size: Tensor
    sums: Tensor
    squares: Tensor
    log_likelihood: Tensor

    @classmethod
    def of(cls, kind: Kind, x: Tensor, responsibilities: Tensor, log_likelihood: Tensor) -> "Statistics":
        """Those of one chunk: x (b, D), responsibilities (b, K), log_likelihood (b,)."""
        weighted = responsibilities.T  # (K, b)
        if kind == "full":
            squares = (weighted[:, None] * x.T) @ x
        elif kind == "tied":
            squares = x.T @ x
        else:
            squares = weighted @ x.square()
        return cls(responsibilities.sum(0), weighted @ x, squares, log_likelihood.sum()[None])

    def flat(self) -> Tensor:
        """All sums in one vector, for one message."""
        return torch.cat([part.flatten() for part in vars(self).values()])

    def like(self, flat: Tensor) -> "Statistics":
        """The statistics whose `flat()` is `flat`."""
        own = list(vars(self).values())
        parts = torch.split(flat, [part.numel() for part in own])
        return Statistics(*(new.view_as(old) for new, old in zip(parts, own, strict=True)))


def maximize(kind: Kind, statistics: Statistics, reg_covar: float) -> Mixture:
    """The mixture of greatest expected likelihood; `reg_covar` is added once to each variance."""
    size = statistics.size + 10 * torch.finfo(torch.float64).eps  # (K,)
    means = statistics.sums / size[:, None]
    if kind == "full":
        covariances = statistics.squares / size[:, None, None] - means[:, :, None] * means[:, None]
    elif kind == "tied":
        covariances = (statistics.squares - (size * means.T) @ means) / size.sum()
    else:
        covariances = (statistics.squares / size[:, None] - means.square()).clamp_(min=0) + reg_covar
        covariances = covariances.mean(1) if kind == "spherical" else covariances
    if kind in ("full", "tied"):
        covariances = (covariances + covariances.mT) / 2
        covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    return Mixture(kind, size / size.sum(), means, covariances)


def _whitening(covariances: Tensor) -> Tensor:
    """Upper triangular P with covariance⁻¹ = P Pᵀ, of one (D, D) or several (K, D, D)."""
    lower, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        raise ValueError(_singular(int(failed.reshape(-1).nonzero()[0])))
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
    return inverse.mT


def _checked(variances: Tensor) -> Tensor:
    if not bool((variances > 0).all()):
        raise ValueError(_singular(int((variances <= 0).any(1).nonzero()[0])))
    return variances


def _singular(component: int) -> str:
    return f"the covariance of component {component} is not positive definite; raise reg_covar or lower n_components"
