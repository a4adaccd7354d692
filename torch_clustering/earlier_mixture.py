"""The earlier library's Gaussian mixture, over the one of this library. n rows of one rank, D features, K clusters."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._centers import unit_rows
from torch_clustering._checks import Shard, one_of, refused_together
from torch_clustering._collectives import everyone
from torch_clustering._estimator import Estimator, shared_seed
from torch_clustering.earlier import is_replicated
from torch_clustering.em import Climb, Rows, Statistics
from torch_clustering.gaussians import Densities, Kind, Mixture
from torch_clustering.gmm import GaussianMixture
from torch_clustering.kmeans import KMeans
from torch_clustering.seeding import generator


class PyTorchGaussianMixture(Estimator):
    """`GaussianMixture` as the earlier library called it: `fit_predict` returns responsibilities, not labels.

    Args:
        covariance_type: "diag", "spherical", "full" or "tied".
        metric: "euclidean"; or "cosine", a heuristic: rows and means are brought to length 1. As the means are moved
            after each M-step the lower bound may fall, so the best mixture seen is kept.
        reg_covar: added to each variance.
        init: as in `KMeans`, whose clusters each restart begins with.
        random_state, n_clusters, n_init, max_iter, tol: seed, K, restarts, passes, and the change of the mean
            log-likelihood below which they end.
        distributed: as in `PyTorchKMeans`.
        verbose: without effect: what was printed stands in `mixture_`.

    After `fit_predict`, in the rows' dtype: cluster_centers_ (K, D); covariances (K, D) diag, (K, 1) spherical,
    (K, D, D) full, (D, D) tied; weights (K,); lower_bound_ (), the mean log-likelihood of a row. mixture_: the
    `GaussianMixture` behind them.

    >>> rows = torch.tensor([[0.0], [1.0], [8.0], [9.0]])
    >>> model = PyTorchGaussianMixture(n_clusters=2, n_init=1)
    >>> model.fit_predict(rows).shape, model.cluster_centers_.sort(0).values.flatten().tolist()
    (torch.Size([4, 2]), [0.5, 8.5])
    """

    cluster_centers_: Any
    covariances: Any
    weights: Any
    lower_bound_: Any
    mixture_: GaussianMixture

    def __init__(
        self,
        covariance_type: Kind = "diag",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        reg_covar: float = 1e-6,
        init: Any = "k-means++",
        random_state: Any = 0,
        n_clusters: int = 8,
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        distributed: bool = False,
        verbose: bool = True,
    ) -> None:
        self.covariance_type, self.metric, self.reg_covar, self.init = covariance_type, metric, reg_covar, init
        self.random_state, self.n_clusters, self.n_init, self.max_iter = random_state, n_clusters, n_init, max_iter
        self.tol, self.distributed, self.verbose = tol, distributed, verbose

    @torch.no_grad()
    def fit_predict(self, X: Any) -> Any:
        """(n, K) responsibilities of the rows given here, in their dtype. Collective if `distributed`.

        X: (n, D) rows: those of this rank, or all rows on every rank.
        """
        one_of("metric", self.metric, ("euclidean", "cosine"))
        group = everyone() if self.distributed else None
        with refused_together(group):
            rows, give = self._take(X, reset=True)
        layout: Literal["sharded", "replicated"] = "sharded"
        if group is not None and is_replicated(rows, group):
            layout = "replicated"
        rows = self._placed(rows)
        seed = shared_seed(self.random_state, group)
        shared: dict[str, Any] = {"distributed": self.distributed, "layout": layout, "max_iter": self.max_iter}
        best: GaussianMixture | None = None
        for restart in range(self.n_init if isinstance(self.init, str) or callable(self.init) else 1):
            first = KMeans(self.n_clusters, metric=self.metric, init=self.init, n_init=1, tol=self.tol, **shared)
            first.random_state = int(generator(seed, restart).integers(2**31))
            start = F.one_hot(first.fit(rows).labels_, self.n_clusters)
            kind = MixtureOnSphere if self.metric == "cosine" else GaussianMixture
            model = kind(self.n_clusters, covariance_type=self.covariance_type, init=start, tol=self.tol, **shared)
            model.set_params(reg_covar=self.reg_covar).fit(rows)
            # a margin: the same mixture found twice differs by rounding, which must not choose between them
            if best is None or model.lower_bound_ > best.lower_bound_ + 1e-6 * abs(best.lower_bound_):
                best = model
        assert best is not None
        best.init = None  # N x K numbers that are not needed any more
        self.mixture_ = best
        self.cluster_centers_, self.weights = (give(part.to(rows.dtype)) for part in (best.means_, best.weights_))
        spherical = self.covariance_type == "spherical"
        covariances = best.covariances_[:, None] if spherical else best.covariances_
        self.covariances = give(covariances.to(rows.dtype))
        self.lower_bound_ = give(torch.tensor(best.lower_bound_, dtype=torch.float64, device=rows.device))
        return self.predict_score(X)

    @torch.no_grad()
    def predict_score(self, X: Any) -> Any:
        """(n, K) responsibilities of rows X (n, D), in their dtype. Not collective."""
        self._check_fitted()
        rows, give = self._take(X, reset=False)
        return give(self.mixture_.predict_proba(self._placed(rows)).to(rows.dtype))

    def _placed(self, rows: Tensor) -> Tensor:
        return unit_rows(rows) if self.metric == "cosine" else rows


class RowsOnSphere(Rows):
    """Rows of length 1, of which mixtures are made whose means have length 1."""

    def maximize(self, statistics: Statistics) -> Mixture:
        """The mixture of `Rows` with means brought to length 1, and covariances about those."""
        found = super().maximize(statistics)
        means = F.normalize(found.means + self.origin) - self.origin
        gap = means - found.means  # (K, D)
        spread = {
            "full": lambda: gap[:, :, None] * gap[:, None],
            "tied": lambda: (found.weights * gap.T) @ gap,
            "diag": lambda: gap.square(),
            "spherical": lambda: gap.square().mean(1),
        }[self.kind]()
        return Mixture(self.kind, found.weights, means, found.covariances + spread)


class ClimbOnSphere(Climb):
    """A climb that may have gone down again: `densities` are those of the highest bound."""

    @property
    def bound(self) -> float:
        """The highest of the bounds."""
        return max(self.bounds, default=-math.inf)


class MixtureOnSphere(GaussianMixture):
    """A mixture of rows of length 1 whose means have length 1. The likelihood may fall: the best seen is kept."""

    def _rows(self, shard: Shard) -> Rows:
        return RowsOnSphere.of(shard, self.covariance_type, self.reg_covar)

    def _climb(self, rows: Rows, first: Densities, bound: float) -> Climb:
        best = densities = first
        bounds: list[float] = []
        while len(bounds) < self.max_iter:
            after, bound = rows.step(densities)
            if bound > max(bounds, default=-math.inf):
                best = densities
            bounds.append(bound)
            if len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < self.tol:
                return ClimbOnSphere(best, bounds, True)
            densities = after
        return ClimbOnSphere(best, bounds, False)
