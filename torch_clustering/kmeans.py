"""KMeans with scikit-learn's names and rules, on one process or on rows sharded over ranks."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from torch_clustering._centers import CenterModel, on_sphere
from torch_clustering._checks import Shard, check_finite, one_of, positive, refused_together, to_tensor, warn, whole
from torch_clustering._collectives import Group, everyone, gather
from torch_clustering._estimator import Give, shared_seed
from torch_clustering.engine import Clustering, Plan, cluster, cluster_many

SEEDINGS = ("k-means++", "plain k-means++", "k-means||", "random")


class KMeans(CenterModel):
    """Lloyd's k-means after greedy k-means++, equal on any number of ranks.

    Args:
        n_clusters: K >= 1, at most the number of rows of all ranks.
        metric: "euclidean", or "cosine": rows and centers are brought to length 1 (spherical k-means).
        init: "k-means++" (greedy, as in scikit-learn); "plain k-means++" (one candidate a step); "k-means||" (Bahmani
            et al. 2012, few passes at large K); "random" (K different rows); (K, D) centers, the same on every rank;
            or a function of (rows, n_clusters, random_state=RandomState), called on every rank with its own rows, that
            gives the same centers on all.
        n_init: restarts, of which the one of least inertia is kept. "auto": 10 for "random" and a function, else 1.
            Given centers are one start, whatever is asked for.
        max_iter: passes at most.
        tol: stop when the squared movement of all centers is at most `tol` times the mean variance of the features.
        random_state: seed >= 0 of a generator on the CPU, None for another one each time, or a generator of NumPy
            (ranks use that of rank 0); the global generators are neither read nor moved.
        algorithm: "lloyd" scores every row against every center in each pass; "elkan" leaves out by bounds what can
            not change; "auto" picks. The result is the same.
        bounds_memory: bytes that bounds may take.
        warm_start: start from the centers of the `fit` before, if there are some of this shape.
        distributed: the rows are spread over the ranks of the default process group.
        group: the ranks that share the rows. None and not `distributed`: this process has all rows.
        layout: "sharded": each rank passes its own block of rows, any number of them; the blocks follow each other in
            rank order. "replicated": every rank passes all rows, works on its share of them and gets all labels.
        gather_labels: labels_ of the rows of all ranks on every rank, instead of those of the own rows.

    After `fit`: labels_ (n,) int64; cluster_centers_ (K, D) in the rows' dtype; inertia_: sum of w times the squared
    distance ("cosine": of w (1 - cos)) over all ranks; n_iter_ and n_relocated_ (empty clusters that were given a far
    row) of the kept restart. Labels and inertia belong to the returned centers. A tensor in gives tensors on its
    device, anything else NumPy arrays.

    A row of zeros has no direction: with "cosine" it gets label 0, influences nothing, and is missing in the inertia.

    >>> model = KMeans(2).fit([[0.0, 0.0], [0.0, 2.0], [9.0, 0.0], [9.0, 2.0]])
    >>> sorted(model.cluster_centers_.tolist()), model.inertia_
    ([[0.0, 1.0], [9.0, 1.0]], 4.0)
    """

    inertia_: float
    n_iter_: int
    n_relocated_: int

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        init: Any = "k-means++",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = 0,
        algorithm: Literal["auto", "lloyd", "elkan"] = "auto",
        bounds_memory: int = 2**30,
        warm_start: bool = False,
        distributed: bool = False,
        group: Group | None = None,
        layout: Literal["sharded", "replicated"] = "sharded",
        gather_labels: bool = False,
    ) -> None:
        self.n_clusters, self.metric, self.init, self.n_init = n_clusters, metric, init, n_init
        self.max_iter, self.tol, self.random_state = max_iter, tol, random_state
        self.algorithm, self.bounds_memory, self.warm_start = algorithm, bounds_memory, warm_start
        self.distributed, self.group, self.layout, self.gather_labels = distributed, group, layout, gather_labels

    @torch.no_grad()
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Cluster the rows of all ranks. Collective: all ranks must call.

        Args:
            X: (n, D) this rank's rows, tensor or array; float64 is computed as such, all else as float32. n may be 0.
            y: not read.
            sample_weight: (n,) weights >= 0, None for 1 each. A row of weight 0 gets a label and influences nothing.
        Returns:
            self. A ConvergenceWarning tells when fewer than K clusters have rows.
        Raises:
            ValueError: fewer rows than clusters, NaN or infinity, impossible settings; on every rank alike.
        """
        fit_together([self], X, sample_weight)
        return self

    def _plan(self, shard: Shard, give: Give) -> Plan:
        """What the engine is asked for. Collective."""
        init = self._start(shard, give)
        return Plan(
            n_clusters=self.n_clusters,
            init=init,
            n_init=1 if isinstance(init, Tensor) else self._restarts(),
            max_iter=self.max_iter,
            tol=self.tol,
            seed=shared_seed(self.random_state, shard.group),
            spherical=self.metric == "cosine",
            algorithm=self.algorithm,
            bounds_memory=self.bounds_memory,
        )

    def _cluster(self, shard: Shard, plan: Plan) -> Clustering:
        """The restart to keep. Collective."""
        return cluster(shard, plan)

    def _learn(self, shard: Shard, best: Clustering, give: Give) -> None:
        """Keep what `fit` is asked for. Collective."""
        if best.n_used < self.n_clusters:
            warn(f"{best.n_used} of {self.n_clusters} clusters have rows; the rows may have fewer distinct values")
        labels = self._settled(shard.x, best.labels)
        whole_labels = self.layout == "replicated" or self.gather_labels
        self.labels_ = give(all_labels(labels, shard) if whole_labels else labels)
        self.cluster_centers_ = give(best.centers)
        self.inertia_ = self._reported(best.inertia)
        self.n_iter_, self.n_relocated_ = best.n_iter, best.n_relocated

    def _start(self, shard: Shard, give: Give) -> Any:
        """What `Plan.init` is to be: a name, (K, D) float64 centers, or a function of (rows, K, seed). Collective."""
        shape = (self.n_clusters, shard.x.shape[1])
        if self.warm_start and np.shape(getattr(self, "cluster_centers_", ())) == shape:
            return to_tensor(self.cluster_centers_).to(shard.x.device, torch.float64)
        return checked_init(self.init, shape, shard, give)

    def _restarts(self) -> int:
        if self.n_init == "auto":
            return 10 if self.init == "random" or callable(self.init) else 1
        return self.n_init

    def _check_settings(self) -> None:
        whole("n_clusters", self.n_clusters)
        whole("max_iter", self.max_iter)
        if self.n_init != "auto":
            whole("n_init", self.n_init)
        positive("tol", self.tol, zero=True)
        positive("bounds_memory", self.bounds_memory, zero=True)
        one_of("metric", self.metric, ("euclidean", "cosine"))
        one_of("algorithm", self.algorithm, ("auto", "lloyd", "elkan"))
        one_of("layout", self.layout, ("sharded", "replicated"))
        if isinstance(self.init, str):
            one_of("init", self.init, SEEDINGS)


def kmeans_many(X: Any, n_clusters: Sequence[int], *, sample_weight: Any = None, **settings: Any) -> list[KMeans]:
    """A fitted `KMeans` for each K, as one by one, in less time: they share passes over the rows and messages.

    Args:
        X: (n, D) as in `KMeans.fit`.
        n_clusters: the K's.
        sample_weight: (n,) as in `KMeans.fit`.
        settings: of all of them, as `KMeans` takes them.
    Raises:
        ValueError: as `KMeans.fit` does; no K, or given centers, which have one K.

    >>> [model.inertia_ for model in kmeans_many([[0.0], [2.0], [8.0], [9.0]], [1, 2, 4])]
    [58.75, 2.5, 0.0]
    """
    init = settings.get("init", "k-means++")
    if not n_clusters or not isinstance(init, str):
        raise ValueError(f"n_clusters={list(n_clusters)} with init={init!r}: give some K and a name")
    models = [KMeans(k, **settings) for k in n_clusters]
    fit_together(models, X, sample_weight)
    return models


@torch.no_grad()
def fit_together(models: Sequence[KMeans], X: Any, sample_weight: Any) -> None:
    """Fit models that differ in n_clusters alone. Collective."""
    one = models[0]
    for model in models:
        model._check_settings()
    group = everyone() if one.distributed and one.group is None else one.group
    most = max(model.n_clusters for model in models)
    shard, give = one._take_shard(X, sample_weight, most, group, replicated=one.layout == "replicated")
    for model in models[1:]:
        model._take(X, reset=True)
    if one.metric == "cosine":
        shard = on_sphere(shard)
    plans = [model._plan(shard, give) for model in models]
    best = cluster_many(shard, plans) if len(models) > 1 else [one._cluster(shard, plans[0])]
    for model, found in zip(models, best, strict=True):
        model._learn(shard, found, give)


def checked_init(init: Any, shape: tuple[int, int], shard: Shard, give: Give) -> Any:
    """`init` as the engine takes it: a name, `shape` float64 centers, or a function of (rows, K, seed). Collective.

    Centers are looked at on all ranks together; so are those that a function will return.
    """
    if isinstance(init, str):
        return init

    def agreed(made: Any) -> Tensor:
        with refused_together(shard.group):
            centers = to_tensor(made()).to(shard.x.device, torch.float64)
            if centers.shape != shape:
                raise ValueError(f"init has shape {tuple(centers.shape)}; n_clusters and features ask for {shape}")
            check_finite(centers)
        everywhere = gather(centers, shard.group)
        if bool((everywhere != centers).any()):
            raise ValueError("init gave ranks different centers")
        return centers

    if callable(init):
        return lambda rows, n_clusters, seed: agreed(
            lambda: init(give(rows), n_clusters, random_state=np.random.RandomState(seed))
        )
    return agreed(lambda: init)


def all_labels(labels: Tensor, shard: Shard) -> Tensor:
    """(N,) labels of the rows of all ranks, from the (n,) of this one. Collective."""
    sizes = gather(torch.tensor([len(labels)], device=labels.device), shard.group).flatten().tolist()
    padded = labels.new_zeros(max(sizes))
    padded[: len(labels)] = labels
    return torch.cat([part[:size] for part, size in zip(gather(padded, shard.group), sizes, strict=True)])
