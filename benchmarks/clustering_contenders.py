"""The contenders of the clustering benchmark behind one form: a function of rows that returns what it found."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

OURS, OURS_DENSE = "torch_clustering", "torch_clustering dense"
SKLEARN, ELKAN, FAISS = "scikit-learn lloyd", "scikit-learn elkan", "faiss"
SKLEARN_IN_PLACE = "scikit-learn copy_x=False"


@dataclass
class Fit:
    """What a fit returned: passes (None where the library does not tell) and centres."""

    n_iter: int | None
    inertia: float
    centers: Any
    labels: Any


@dataclass
class Task:
    """One k-means task, the same for every contender. start: (K, D) first centres, or None for n_init k-means++."""

    n_clusters: int
    start: np.ndarray | None = None
    n_init: int = 1
    max_iter: int = 300
    tol: float = 1e-4
    seed: int = 0


def kmeans(name: str) -> Callable[[np.ndarray, Task], Fit]:
    """The k-means of a contender."""
    return {
        OURS: lambda x, task: ours(x, task, "auto"),
        OURS_DENSE: lambda x, task: ours(x, task, "lloyd"),
        SKLEARN: lambda x, task: sklearn(x, task, "lloyd"),
        SKLEARN_IN_PLACE: lambda x, task: sklearn(x, task, "lloyd", copy_x=False),
        ELKAN: lambda x, task: sklearn(x, task, "elkan"),
        FAISS: faiss,
    }[name]


def ours(x: np.ndarray, task: Task, algorithm: str) -> Fit:
    """This library, given a tensor that shares the rows' memory."""
    from torch_clustering import KMeans

    settings: dict[str, Any] = {"algorithm": algorithm}
    if "algorithm" not in inspect.signature(KMeans).parameters:  # a version before the bounds: dense alone
        settings = {}
        if algorithm != "auto":
            raise NotImplementedError("this KMeans has no algorithm=")
    init = "k-means++" if task.start is None else torch.from_numpy(task.start)
    model = KMeans(
        task.n_clusters,
        init=init,
        n_init=task.n_init,
        max_iter=task.max_iter,
        tol=task.tol,
        random_state=task.seed,
        **settings,
    ).fit(torch.from_numpy(x))
    return Fit(model.n_iter_, model.inertia_, np.asarray(model.cluster_centers_), model.labels_)


def sklearn(x: np.ndarray, task: Task, algorithm: str, copy_x: bool = True) -> Fit:
    """scikit-learn."""
    from sklearn.cluster import KMeans

    model = KMeans(
        task.n_clusters,
        init="k-means++" if task.start is None else task.start,
        n_init=task.n_init,
        max_iter=task.max_iter,
        tol=task.tol,
        random_state=task.seed,
        algorithm=algorithm,
        copy_x=copy_x,
    ).fit(x)
    return Fit(model.n_iter_, model.inertia_, model.cluster_centers_, model.labels_)


def faiss(x: np.ndarray, task: Task) -> Fit:
    """faiss's flat k-means on all rows; it knows no convergence test and no k-means++."""
    try:
        import faiss as library
    except ImportError:
        raise RuntimeError("not installed") from None
    library.omp_set_num_threads(1)
    model: Any = library.Kmeans(
        x.shape[1],
        task.n_clusters,
        niter=task.max_iter,
        nredo=task.n_init,
        seed=task.seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    model.train(x, init_centroids=task.start)
    return Fit(None, float(model.obj[-1]), model.centroids, None)


def seeds(name: str) -> Callable[[np.ndarray, int, int, int], Any]:
    """The greedy k-means++ of a contender: rows, K, number of restarts, seed -> (K, D) centres of each restart."""
    return {OURS: our_seeds, SKLEARN: sklearn_seeds}[name]


def mixture(name: str) -> Callable[[np.ndarray, np.ndarray, str, int], float]:
    """The Gaussian mixture of a contender: rows, first means, covariance type, passes -> lower bound."""
    return {OURS: our_mixture, SKLEARN: sklearn_mixture}[name]


def our_seeds(x: np.ndarray, n_clusters: int, restarts: int, seed: int) -> Any:
    """(R, K, D) or a list of (K, D) first centres of R restarts by this library's greedy k-means++."""
    from torch_clustering import assign, seeding
    from torch_clustering._checks import make_shard

    shard = make_shard(torch.from_numpy(x), None, n_clusters, None)
    draws = [seeding.generator(seed, restart) for restart in range(restarts)]
    draw: Any = seeding.kmeans_plus_plus
    if "rows" not in inspect.signature(draw).parameters:  # a version before restarts shared passes
        return [draw(shard, n_clusters, generator) for generator in draws]
    return draw(shard, assign.Rows.about(shard.x, shard.x.mean(0)), [n_clusters] * restarts, draws)


def sklearn_seeds(x: np.ndarray, n_clusters: int, restarts: int, seed: int) -> Any:
    """The same by scikit-learn."""
    from sklearn.cluster import kmeans_plusplus

    return [kmeans_plusplus(x, n_clusters, random_state=seed + restart)[0] for restart in range(restarts)]


def our_mixture(x: np.ndarray, means: np.ndarray, kind: str, max_iter: int) -> float:
    """Lower bound after `max_iter` EM passes of this library from unit covariances around `means`."""
    from torch_clustering import GaussianMixture

    settings: dict[str, Any] = {"covariance_type": kind, "max_iter": max_iter, "tol": 1e-30}
    if "means_init" in inspect.signature(GaussianMixture).parameters:
        settings |= mixture_start(means, kind)
    else:
        settings["init"] = torch.eye(len(means), dtype=torch.float64)[torch.arange(len(x)) % len(means)]
    return float(GaussianMixture(len(means), **settings).fit(torch.from_numpy(x)).lower_bound_)


def sklearn_mixture(x: np.ndarray, means: np.ndarray, kind: str, max_iter: int) -> float:
    """The same by scikit-learn."""
    from sklearn.mixture import GaussianMixture

    settings = {"init_params": "random_from_data", **mixture_start(means, kind)}
    model = GaussianMixture(len(means), covariance_type=kind, max_iter=max_iter, tol=1e-30, **settings)
    return float(model.fit(x).lower_bound_)


def mixture_start(means: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Equal weights, the given means, unit precisions."""
    n_components, width = means.shape
    unit = np.ones((n_components, width), means.dtype)
    return {
        "weights_init": np.full(n_components, 1 / n_components, means.dtype),
        "means_init": means,
        "precisions_init": unit[:, :, None] * np.eye(width, dtype=means.dtype) if kind == "full" else unit,
    }
