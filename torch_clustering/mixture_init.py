"""The mixtures that expectation maximisation starts from, alike on any number of ranks. n rows of this rank."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import Shard, to_tensor
from torch_clustering.em import Expect, Rows
from torch_clustering.engine import Plan, cluster, first_centers, seen_from_mean
from torch_clustering.gaussians import Densities, Kind, Mixture, covariance_shape, whitening
from torch_clustering.seeding import generator

InitParams = Literal["kmeans", "k-means++", "random", "random_from_data"]
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")
KMEANS_PASSES, KMEANS_TOL = 300, 1e-4  # those of `KMeans`


# weights (K,), means (K, D) and covariances, None for those that are to be found
Parameters = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Start:
    """What a fit starts from: `how`, unless (n, K) responsibilities are given; parameters replace what these lead to.

    bound: mean log-likelihood of a row to compare the first pass with.
    """

    n_components: int
    how: InitParams
    seed: int
    parameters: Parameters = (None, None, None)
    responsibilities: Tensor | None = None
    bound: float = -math.inf

    @property
    def random(self) -> bool:
        """Whether restarts differ."""
        return self.responsibilities is None and any(part is None for part in self.parameters)

    def densities(self, rows: Rows, restart: int) -> Densities:
        """Centred, of restart 0, 1, ...: all ranks get the same. Collective."""
        weights, means, covariances = self.parameters
        means = None if means is None else means - rows.origin
        if weights is None or means is None or covariances is None:
            found = self._found(rows, restart).mixture
            weights = found.weights if weights is None else weights
            means = found.means if means is None else means
            covariances = found.covariances if covariances is None else covariances
        return Densities(Mixture(rows.kind, weights, means, covariances))

    def _found(self, rows: Rows, restart: int) -> Densities:
        shard, draws = rows.shard, generator(self.seed, restart)
        if self.responsibilities is None and self.how != "random":
            seeding = "random" if self.how == "random_from_data" else "k-means++"
            plan = Plan(self.n_components, seeding, 1, KMEANS_PASSES, KMEANS_TOL, int(draws.integers(2**31)))
            if self.how != "kmeans":
                return _around(rows, first_centers(shard, seen_from_mean(shard)[0], [plan])[0])
            labels = cluster(shard, plan).labels

        def expect(dtype: torch.dtype) -> Expect:
            def responsibilities(phi: Tensor, part: slice) -> tuple[Tensor, Tensor]:
                if self.responsibilities is not None:
                    own = self.responsibilities[part]
                elif self.how == "random":
                    own = _uniform(self.seed, restart, shard, part, self.n_components)
                else:
                    own = F.one_hot(labels[part], self.n_components)
                return own.T.to(dtype).contiguous(), phi.new_zeros(len(phi))

            return responsibilities

        return rows.fitted(self.n_components, expect, 0.0)[0]


def _around(rows: Rows, chosen: Tensor) -> Densities:
    """One component on each of the rows chosen (K, D), as wide as `reg_covar` lets it be."""
    means = chosen.double() - rows.origin
    n_components, width = means.shape
    covariances = means.new_full(covariance_shape(rows.kind, n_components, width), rows.reg_covar)
    if rows.kind in ("full", "tied"):
        covariances = covariances * torch.eye(width, dtype=torch.float64, device=means.device)
    return Densities(Mixture(rows.kind, means.new_full((n_components,), 1 / n_components), means, covariances))


def _uniform(seed: int, restart: int, shard: Shard, part: slice, n_components: int) -> Tensor:
    """(b, K) random responsibilities of the rows `part`, the same however the rows are split into chunks and ranks."""
    begin, end, _ = part.indices(len(shard.x))
    skipped = (shard.first + begin) * n_components
    bits = np.random.Philox(np.random.SeedSequence((seed, restart)))
    bits.advance(skipped // 4)  # a step of Philox makes four numbers
    drawn = np.random.Generator(bits).random(skipped % 4 + (end - begin) * n_components)[skipped % 4 :]
    uniform = torch.from_numpy(drawn).view(-1, n_components).to(shard.x.device)
    return uniform / uniform.sum(1, keepdim=True)


def given_responsibilities(given: Any, n_components: int, shard: Shard, replicated: bool) -> Tensor | None:
    """(n, K) float64 `init` of the shard's rows, checked; None for None. replicated: it has those of all rows."""
    if given is None:
        return None
    values = to_tensor(given).to(shard.x.device, torch.float64)
    expected = (shard.n_rows if replicated else len(shard.x), n_components)
    if values.shape != expected:
        raise ValueError(f"init has shape {tuple(values.shape)}; rows and n_components ask for {expected}")
    if not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError("init must hold finite responsibilities >= 0")
    return values[shard.first : shard.first + len(shard.x)] if replicated else values


def given_parameters(
    given: tuple[Any, Any, Any], kind: Kind, shape: tuple[int, int], device: torch.device
) -> Parameters:
    """The parameters that `weights_init`, `means_init` and `precisions_init` ask for, checked; shape is (K, D).

    Precisions have the shape of the covariances.
    """
    weights = _given("weights_init", given[0], shape[:1], device)
    if weights is not None and (bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > 1e-6):
        raise ValueError(f"weights_init must be numbers >= 0 of sum 1: sum {float(weights.sum()):.6g}")
    means = _given("means_init", given[1], shape, device)
    precisions = _given("precisions_init", given[2], covariance_shape(kind, *shape), device)
    if precisions is None:
        return weights, means, None
    if kind in ("full", "tied") and not torch.allclose(precisions, precisions.mT):
        raise ValueError("precisions_init must be symmetric")
    try:
        factor = whitening(kind, precisions)
    except ValueError:
        raise ValueError("precisions_init must be positive definite") from None
    return weights, means, factor @ factor.mT if kind in ("full", "tied") else factor.square()


def _given(name: str, given: Any, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    if given is None:
        return None
    values = to_tensor(given).to(device, torch.float64)
    if values.shape != shape:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; it must have {shape}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} contains NaN or infinity")
    return values
