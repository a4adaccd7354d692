"""Gaussian mixtures by expectation maximisation, on one process or on rows sharded over ranks."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import Shard, as_rows, check_features, chunks, make_shard, positive, warn
from torch_clustering._collectives import Group, sum_over_ranks
from torch_clustering.gaussians import Densities, Kind, Mixture, Statistics, maximize
from torch_clustering.kmeans import KMeans
from torch_clustering.seeding import generator


class GaussianMixture:
    """Mixture of K Gaussians with scikit-learn's names and rules, equal on any number of ranks. All in float64.

    Args:
        n_components: K >= 1, at most the number of rows of all ranks.
        covariance_type: "full" (K, D, D), "tied" (D, D), "diag" (K, D) or "spherical" (K,).
        tol: stop when the mean log-likelihood of a row changes by less.
        reg_covar: added to each variance.
        max_iter: passes at most.
        n_init: restarts, of which the one of greatest likelihood is kept. One if `init` gives the responsibilities.
        random_state: seed >= 0 of the first clusters.
        group: the ranks that share the rows, as in `KMeans`; None: this process has all rows.
        init: "kmeans", or (n, K) responsibilities of this rank's rows to start from.

    After `fit`, float64: weights_ (K,), means_ (K, D), covariances_; lower_bound_: mean log-likelihood of the rows of
    all ranks before the last update; n_iter_, converged_.

    >>> model = GaussianMixture(2, covariance_type="spherical").fit([[0.0], [1.0], [8.0], [9.0]])
    >>> sorted(round(mean, 3) for mean in model.means_.flatten().tolist())
    [0.5, 8.5]
    """

    weights_: Tensor
    means_: Tensor
    covariances_: Tensor
    lower_bound_: float
    n_iter_: int
    converged_: bool

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: Kind = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        random_state: int = 0,
        group: Group | None = None,
        init: Any = "kmeans",
    ) -> None:
        self.n_components, self.covariance_type, self.tol = n_components, covariance_type, tol
        self.reg_covar, self.max_iter, self.n_init = reg_covar, max_iter, n_init
        self.random_state, self.group, self.init = random_state, group, init

    @torch.no_grad()
    def fit(self, x: Any) -> "GaussianMixture":
        """Fit to the rows of all ranks; x (n, D) are this rank's, n may be 0. Collective: all ranks must call.

        A ConvergenceWarning tells when `max_iter` ended the best restart.

        Raises:
            ValueError: fewer rows than components, NaN or infinity, a covariance that is not positive definite.
        """
        self._check_settings()
        shard = make_shard(x, None, self.n_components, self.group)
        origin = sum_over_ranks(shard.x.sum(0, dtype=torch.float64), self.group) / shard.n_rows
        self.lower_bound_ = -math.inf
        for restart in range(self.n_init if isinstance(self.init, str) else 1):
            mixture, bound, n_iter, converged = self._climb(shard, origin, self._first_responsibilities(shard, restart))
            # a margin: the same mixture found twice differs by rounding, which must not choose between them
            if restart == 0 or bound > self.lower_bound_ + 1e-9 * abs(bound):
                self.weights_, self.covariances_ = mixture.weights, mixture.covariances
                self.means_ = mixture.means + origin
                self.lower_bound_, self.n_iter_, self.converged_ = bound, n_iter, converged
        if not self.converged_:
            warn(f"the likelihood still changed by tol={self.tol} or more after max_iter={self.max_iter} passes")
        return self

    def predict(self, x: Any) -> Tensor:
        """(n,) int64: the most probable component of each row. Not collective."""
        return self._log_joint(x).argmax(1)

    def predict_proba(self, x: Any) -> Tensor:
        """(n, K) posterior of each component, float64, rows of sum 1. Not collective."""
        return self._log_joint(x).softmax(1)

    def score_samples(self, x: Any) -> Tensor:
        """(n,) log-likelihood of each row in nats, float64. Not collective."""
        return self._log_joint(x).logsumexp(1)

    @torch.no_grad()
    def _log_joint(self, x: Any) -> Tensor:
        x = check_features(as_rows(x), self.means_.shape[1])
        origin = self.means_.mean(0)
        densities = Densities(Mixture(self.covariance_type, self.weights_, self.means_ - origin, self.covariances_))
        parts = [densities.log_joint(x[part] - origin) for part in self._chunks(x)]
        return torch.cat(parts) if parts else self.means_.new_empty((0, self.n_components))

    def _climb(self, shard: Shard, origin: Tensor, first: Tensor) -> tuple[Mixture, float, int, bool]:
        """Mixture, lower bound, passes and whether it converged, from `first` responsibilities (n, K). Collective."""
        likelihood = first.new_zeros(len(first))
        statistics = self._statistics(shard, origin, lambda x, part: (first[part], likelihood[part]))
        mixture = maximize(self.covariance_type, statistics, self.reg_covar)
        bound, n_iter, converged = -math.inf, 0, False
        while n_iter < self.max_iter and not converged:
            densities = Densities(mixture)
            statistics = self._statistics(shard, origin, lambda x, part, densities=densities: densities.posterior(x))
            mixture = maximize(self.covariance_type, statistics, self.reg_covar)
            previous, bound = bound, float(statistics.log_likelihood) / shard.n_rows
            n_iter, converged = n_iter + 1, abs(bound - previous) < self.tol
        return mixture, bound, n_iter, converged

    def _statistics(self, shard: Shard, origin: Tensor, expect: Callable[..., tuple[Tensor, Tensor]]) -> Statistics:
        """Statistics of the rows of all ranks. Collective.

        expect(x (b, D), part): responsibilities (b, K) and log-likelihoods (b,) of the rows `part`; x is they - origin.
        """
        nothing = origin.new_zeros((0, self.n_components))
        total = Statistics.of(self.covariance_type, origin.new_zeros((0, len(origin))), nothing, nothing[:, 0])
        flat = total.flat()
        for part in self._chunks(shard.x):
            x = shard.x[part] - origin  # (b, D)
            flat += Statistics.of(self.covariance_type, x, *expect(x, part)).flat()
        return total.like(sum_over_ranks(flat, shard.group))

    def _chunks(self, x: Tensor) -> list[slice]:
        width = x.shape[1] * (self.n_components if self.covariance_type == "full" else 2)
        return chunks(len(x), width + self.n_components, x.device)

    def _first_responsibilities(self, shard: Shard, restart: int) -> Tensor:
        """(n, K) float64 of own rows. Collective."""
        if isinstance(self.init, str):
            seed = int(generator(self.random_state, restart).integers(2**31))
            labels = KMeans(self.n_components, random_state=seed, group=self.group).fit(shard.x).labels_
            return F.one_hot(labels, self.n_components).double()
        first = torch.as_tensor(self.init).to(shard.x.device, torch.float64)
        expected = (len(shard.x), self.n_components)
        if first.shape != expected:
            raise ValueError(f"init has shape {tuple(first.shape)}; rows and n_components ask for {expected}")
        return first

    def _check_settings(self) -> None:
        for name in ("n_components", "n_init", "max_iter", "tol"):
            positive(name, getattr(self, name))
        for name in ("reg_covar", "random_state"):
            positive(name, getattr(self, name), zero=True)
        if self.covariance_type not in ("full", "tied", "diag", "spherical"):
            raise ValueError(f"covariance_type={self.covariance_type!r} is not 'full', 'tied', 'diag' or 'spherical'")
        if isinstance(self.init, str) and self.init != "kmeans":
            raise ValueError(f"init={self.init!r} is neither 'kmeans' nor (n, K) responsibilities")
