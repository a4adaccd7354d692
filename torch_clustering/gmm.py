"""Gaussian mixtures with scikit-learn's names and rules, on one process or on rows sharded over ranks."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from torch_clustering._checks import (
    Shard,
    check_features,
    one_of,
    positive,
    refused_together,
    to_tensor,
    warn,
    whole,
)
from torch_clustering._collectives import Group, everyone
from torch_clustering._estimator import DensityMixin, Estimator, Give, shared_seed
from torch_clustering.em import Climb, Rows, climb, parts_of
from torch_clustering.gaussians import KINDS, Densities, Kind, Mixture, covariance_shape
from torch_clustering.mixture_init import (
    INIT_PARAMS,
    InitParams,
    Parameters,
    Start,
    given_parameters,
    given_responsibilities,
)
from torch_clustering.seeding import generator


class GaussianMixture(DensityMixin, Estimator):
    """Mixture of K Gaussians fitted by expectation maximisation, equal on any number of ranks.

    Args:
        n_components: K >= 1, at most the number of rows of all ranks.
        covariance_type: "full" (K, D, D), "tied" (D, D), "diag" (K, D) or "spherical" (K,).
        tol: stop when the mean log-likelihood of a row changes by less.
        reg_covar: added to each variance.
        max_iter: passes at most; 0 leaves what the fit starts from.
        n_init: restarts, of which the one of greatest likelihood is kept.
        init_params: "kmeans" (its clusters), "k-means++" or "random_from_data" (components as small as `reg_covar` on
            rows spread out, or on any), "random" (random responsibilities).
        weights_init, means_init, precisions_init: parameters to start from, in place of those of `init_params`.
        random_state: seed >= 0 of a generator on the CPU, None for another one each time, or a generator of NumPy.
        warm_start: start from the mixture of the `fit` before, once.
        init: (n, K) responsibilities of this rank's rows to start from, once, in place of `init_params`.
        distributed: the rows are spread over the ranks of the default process group.
        group: the ranks that share the rows. None and not `distributed`: this process has all rows.
        layout: "sharded": each rank passes its own rows, any number. "replicated": every rank passes all rows and works
            on its share.

    After `fit`, in float64: weights_ (K,), means_ (K, D), covariances_, precisions_, precisions_cholesky_;
    lower_bound_: mean log-likelihood of the rows of all ranks before the last update, lower_bounds_: before each
    update; n_iter_, converged_. A tensor in gives tensors on its device, anything else NumPy arrays.

    Products of float32 rows are made in float32 while that is precise enough for the mixture at hand, else in float64;
    sums over rows are float64.

    >>> model = GaussianMixture(2, covariance_type="spherical").fit([[0.0], [1.0], [8.0], [9.0]])
    >>> sorted(round(mean, 3) for mean in model.means_.flatten().tolist())
    [0.5, 8.5]
    """

    lower_bound_: float
    lower_bounds_: list[float]
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
        init_params: InitParams = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = 0,
        warm_start: bool = False,
        init: Any = None,
        distributed: bool = False,
        group: Group | None = None,
        layout: Literal["sharded", "replicated"] = "sharded",
    ) -> None:
        self.n_components, self.covariance_type, self.tol = n_components, covariance_type, tol
        self.reg_covar, self.max_iter, self.n_init = reg_covar, max_iter, n_init
        self.init_params, self.weights_init, self.means_init = init_params, weights_init, means_init
        self.precisions_init, self.random_state, self.warm_start = precisions_init, random_state, warm_start
        self.init, self.distributed, self.group, self.layout = init, distributed, group, layout

    @torch.no_grad()
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of all ranks. Collective: all ranks must call.

        Args:
            X: (n, D) this rank's rows, tensor or array; n may be 0.
            y: not read.
            sample_weight: (n,) weights >= 0: a row of weight 2 counts as two rows. None for 1 each.
        Returns:
            self. A ConvergenceWarning tells when `max_iter` ended the best restart, or when a component has too few
            rows to have a covariance of its own.
        Raises:
            ValueError: fewer rows than components, NaN or infinity, impossible settings, a covariance that is not
                positive definite; on every rank alike.
        """
        self._check_settings()
        group = everyone() if self.distributed and self.group is None else self.group
        replicated = self.layout == "replicated"
        shard, give = self._take_shard(X, sample_weight, self.n_components, group, replicated=replicated)
        seed = shared_seed(self.random_state, group)
        with refused_together(group):
            start = self._start(shard, seed)
        rows = self._rows(shard)
        best: Climb | None = None
        # a margin: the same mixture found twice differs by rounding, which must not choose between them
        margin = 1e-9 if shard.x.dtype == torch.float64 else 1e-6
        for restart in range(self.n_init if start.random else 1):
            found = self._climb(rows, start.densities(rows, restart), start.bound)
            if best is None or found.bound > best.bound + margin * abs(best.bound):
                best = found
        assert best is not None
        self._keep(best, rows, give)
        for doubt in self._doubts(best, rows):
            warn(doubt)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """`fit`, and what `predict` then gives for the same rows. Collective: all ranks must call."""
        return self.fit(X, y, sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """(n,) int64: the most probable component of each row, the lowest among equals. Not collective."""
        return self._of_rows(X, lambda joint: joint.argmax(0))

    def predict_proba(self, X: Any) -> Any:
        """(n, K) posterior of each component, float64, rows of sum 1. Not collective."""
        return self._of_rows(X, lambda joint: joint.softmax(0).T)

    def score_samples(self, X: Any) -> Any:
        """(n,) log-likelihood of each row in nats, float64. Not collective."""
        return self._of_rows(X, lambda joint: joint.logsumexp(0))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows given here. Not collective; y is not read."""
        return float(self.score_samples(X).mean())

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on the rows given here, the lower the better. Not collective."""
        return -2 * self.score(X) * len(X) + self._mixture().n_parameters * math.log(len(X))

    def aic(self, X: Any) -> float:
        """Akaike information criterion on the rows given here, the lower the better. Not collective."""
        return -2 * self.score(X) * len(X) + 2 * self._mixture().n_parameters

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """(n_samples, D) float64 rows drawn from the mixture, and the (n_samples,) components they come from, in order.

        The same for the same int `random_state`. Not collective.
        """
        self._check_fitted()
        whole("n_samples", n_samples)
        rows, labels = self._mixture().sample(n_samples, generator(shared_seed(self.random_state, None), 0))
        if isinstance(self.means_, Tensor):
            return rows.to(self.means_.device), labels.to(self.means_.device)
        return rows.numpy(), labels.numpy()

    @torch.no_grad()
    def _of_rows(self, X: Any, of: Callable[[Tensor], Tensor]) -> Any:
        """`of` the (K, b) float64 log(weight_k N(x | k)) of each chunk of rows, one after the other."""
        self._check_fitted()
        x, give = self._take(X, reset=False)
        mixture = self._mixture(x.device)
        origin = mixture.means.mean(0)
        x, densities = check_features(x, len(origin)), Densities(mixture.seen_from(origin))
        parts = parts_of(mixture.kind, x, origin, len(mixture.means))
        found = [of(densities.log_joint(phi)) for _, phi in parts]
        return give(torch.cat(found) if found else of(origin.new_empty((len(mixture.means), 0))))

    def _mixture(self, device: Any = "cpu") -> Mixture:
        learnt = (self.weights_, self.means_, self.covariances_)
        return Mixture(self.covariance_type, *(to_tensor(part).to(device, torch.float64) for part in learnt))

    def _start(self, shard: Shard, seed: int) -> Start:
        shape, device = (self.n_components, shard.x.shape[1]), shard.x.device
        shapes = [shape[:1], shape, covariance_shape(self.covariance_type, *shape)]
        learnt = [np.shape(getattr(self, name, 0.0)) for name in ("weights_", "means_", "covariances_")]
        if self.warm_start and learnt == shapes:
            mixture = self._mixture(device)
            parts: Parameters = (mixture.weights, mixture.means, mixture.covariances)
            return Start(self.n_components, self.init_params, seed, parts, bound=self.lower_bound_)
        given = (self.weights_init, self.means_init, self.precisions_init)
        parts = given_parameters(given, self.covariance_type, shape, device)
        responsibilities = given_responsibilities(self.init, shape[0], shard, self.layout == "replicated")
        return Start(self.n_components, self.init_params, seed, parts, responsibilities)

    def _rows(self, shard: Shard) -> Rows:
        return Rows.of(shard, self.covariance_type, self.reg_covar)

    def _climb(self, rows: Rows, first: Densities, bound: float) -> Climb:
        return climb(rows, first, bound=bound, tol=self.tol, max_iter=self.max_iter)

    def _keep(self, best: Climb, rows: Rows, give: Give) -> None:
        densities, mixture = best.densities, best.densities.mixture
        factor = densities.whitening
        precisions = factor @ factor.mT if mixture.kind in ("full", "tied") else factor.square()
        self.weights_, self.means_ = give(mixture.weights), give(mixture.means + rows.origin)
        self.covariances_, self.precisions_ = give(mixture.covariances), give(precisions)
        self.precisions_cholesky_ = give(factor)
        self.lower_bound_, self.lower_bounds_ = best.bound, best.bounds
        self.n_iter_, self.converged_ = len(best.bounds), best.converged

    def _doubts(self, best: Climb, rows: Rows) -> Iterator[str]:
        """What the user is to be warned of."""
        if self.max_iter and not best.converged:
            yield f"the likelihood still changed by tol={self.tol} or more after max_iter={self.max_iter} passes"
        mixture = best.densities.mixture
        needed = {"full": mixture.means.shape[1] + 1, "tied": 0, "diag": 2, "spherical": 2}[mixture.kind]
        sizes = mixture.weights * rows.weight
        if bool((sizes < needed).any()):
            yield (
                f"component {int(sizes.argmin())} has {float(sizes.min()):.3g} rows, its covariance needs {needed}: "
                f"reg_covar={self.reg_covar} decides; lower n_components or choose a simpler covariance_type"
            )

    def _check_settings(self) -> None:
        for name in ("n_components", "n_init"):
            whole(name, getattr(self, name))
        positive("tol", self.tol)
        for name in ("reg_covar", "max_iter"):
            positive(name, getattr(self, name), zero=True)
        one_of("covariance_type", self.covariance_type, KINDS)
        one_of("init_params", self.init_params, INIT_PARAMS)
        one_of("layout", self.layout, ("sharded", "replicated"))
