"""KMeans with scikit-learn's names and rules, on one process or on rows sharded over ranks."""

from typing import Any, Literal

import torch
from torch import Tensor

from torch_clustering._checks import Shard, as_rows, check_features, make_shard, positive, warn
from torch_clustering._collectives import Group, sum_over_ranks
from torch_clustering.assign import DIRECT, nearest
from torch_clustering.engine import Plan, cluster


class KMeans:
    """Lloyd's k-means after greedy k-means++, equal on any number of ranks.

    Args:
        n_clusters: K >= 1, at most the number of rows of all ranks.
        metric: "euclidean", or "cosine": rows and centers are brought to length 1 (spherical k-means).
        init: "k-means++"; "random" (K different rows); or (K, D) centers, the same on every rank.
        n_init: restarts, of which the one of least inertia is kept. One if `init` gives the centers.
        max_iter: passes at most.
        tol: stop when the squared movement of all centers is at most `tol` times the mean variance of the features.
        random_state: seed >= 0 of a generator on the CPU; the global generators are neither read nor moved.
        group: the ranks that share the rows, each passing its own block, of any number of rows; the blocks follow
            each other in rank order. None: this process has all rows.

    After `fit`: labels_ (n,) int64 of this rank's rows; cluster_centers_ (K, D) in the rows' dtype; inertia_: sum of w
    times the squared distance ("cosine": of w (1 - cos)) over all ranks; n_iter_ and n_relocated_ (empty clusters that
    were given a far row) of the kept restart.

    A row of zeros has no direction: with "cosine" it gets label 0, influences nothing, and is missing in the inertia.

    >>> model = KMeans(2).fit([[0.0, 0.0], [0.0, 2.0], [9.0, 0.0], [9.0, 2.0]])
    >>> sorted(model.cluster_centers_.tolist()), model.inertia_
    ([[0.0, 1.0], [9.0, 1.0]], 4.0)
    """

    labels_: Tensor
    cluster_centers_: Tensor
    inertia_: float
    n_iter_: int
    n_relocated_: int

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int = 0,
        group: Group | None = None,
    ) -> None:
        self.n_clusters, self.metric, self.init, self.n_init = n_clusters, metric, init, n_init
        self.max_iter, self.tol, self.random_state, self.group = max_iter, tol, random_state, group

    @torch.no_grad()
    def fit(self, x: Any, sample_weight: Any = None) -> "KMeans":
        """Cluster the rows of all ranks. Collective: all ranks must call.

        Args:
            x: (n, D) this rank's rows, tensor or array; float64 is computed as such, all else as float32. n may be 0.
            sample_weight: (n,) weights >= 0, None for 1 each. A row of weight 0 gets a label and influences nothing.
        Returns:
            self. A ConvergenceWarning tells when fewer than K clusters have rows.
        Raises:
            ValueError: fewer rows than clusters, NaN or infinity, impossible settings; on every rank alike.
        """
        self._check_settings()
        shard = make_shard(x, sample_weight, self.n_clusters, self.group)
        if self.metric == "cosine":
            shard = _on_sphere(shard)
        plan = Plan(
            n_clusters=self.n_clusters,
            init=self.init,
            n_init=self.n_init if isinstance(self.init, str) else 1,
            max_iter=self.max_iter,
            tol=self.tol,
            seed=self.random_state,
            spherical=self.metric == "cosine",
        )
        best = cluster(shard, plan)
        if best.n_used < self.n_clusters:
            warn(f"{best.n_used} of {self.n_clusters} clusters have rows; the rows may have fewer distinct values")
        self.labels_, self.cluster_centers_ = self._settle_zero_rows(shard.x, best.labels), best.centers
        self.inertia_ = best.inertia / 2 if self.metric == "cosine" else best.inertia  # 1 - cos = |u - c|² / 2
        self.n_iter_, self.n_relocated_ = best.n_iter, best.n_relocated
        return self

    @torch.no_grad()
    def predict(self, x: Any) -> Tensor:
        """(n,) int64: the nearest center of each row, the lowest index among equals. Not collective."""
        x = self._prepare(x)
        return self._settle_zero_rows(x, nearest(x, self.cluster_centers_.to(x.device, torch.float64)))

    @torch.no_grad()
    def transform(self, x: Any) -> Tensor:
        """(n, K) distance of each row to each center, not squared; with "cosine" 1 - cos in [0, 2]. Not collective."""
        x = self._prepare(x)
        distances = torch.cdist(x, self.cluster_centers_.to(x), compute_mode=DIRECT)
        return distances.square() / 2 if self.metric == "cosine" else distances

    def _prepare(self, x: Any) -> Tensor:
        x = check_features(as_rows(x), self.cluster_centers_.shape[1])
        return _unit(x) if self.metric == "cosine" else x

    def _settle_zero_rows(self, x: Tensor, labels: Tensor) -> Tensor:
        return labels.masked_fill_(~x.any(1), 0) if self.metric == "cosine" else labels

    def _check_settings(self) -> None:
        for name in ("n_clusters", "n_init", "max_iter"):
            positive(name, getattr(self, name))
        positive("tol", self.tol, zero=True)
        positive("random_state", self.random_state, zero=True)
        if self.metric not in ("euclidean", "cosine"):
            raise ValueError(f"metric={self.metric!r} is neither 'euclidean' nor 'cosine'")
        if isinstance(self.init, str) and self.init not in ("k-means++", "random"):
            raise ValueError(f"init={self.init!r} is neither 'k-means++' nor 'random' nor a (K, D) tensor")


def _on_sphere(shard: Shard) -> Shard:
    """The rows at length 1; rows of zeros stay and lose their weight. Collective: all ranks warn, or none."""
    unit = _unit(shard.x)
    directed = unit.any(1)
    n_zero = int(sum_over_ranks((~directed).sum(), shard.group))
    if n_zero == shard.n_rows:
        raise ValueError(f"all {n_zero} rows are 0 and have no direction")
    if n_zero:
        warn(f"{n_zero} of {shard.n_rows} rows are 0 and have no direction: label 0, no influence")
    return Shard(unit, shard.weights * directed, shard.first, shard.n_rows, shard.group)


def _unit(x: Tensor) -> Tensor:
    """Rows at length 1; rows of zeros stay."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(length > 0, x / length, 0)
