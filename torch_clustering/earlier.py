"""The earlier library's names, with its arguments and return values, over the classes of this one.

n rows of one rank, N of all, D features, K clusters, R restarts, W ranks.
"""

import copy
import logging
import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from torch_clustering._centers import unit_rows
from torch_clustering._checks import Shard, as_rows, chunks, refused_together
from torch_clustering._collectives import Group, everyone, gather, home, rank
from torch_clustering.assign import own_squared_distances
from torch_clustering.engine import Clustering, Plan, best_of, first_centers, restarts, seen_from_mean
from torch_clustering.kmeans import KMeans, all_labels

logger = logging.getLogger(__name__)


class PyTorchKMeans(KMeans):
    """`KMeans` as the earlier library called it: `predict` returns a pair, `stats` tells of every restart.

    Args:
        metric, init, random_state, n_clusters, n_init, max_iter, tol: as in `KMeans`, in the earlier order; n_init
            stays 10.
        distributed: ranks of the default process group work together. Where every rank passes the same rows (the
            earlier usage, found by comparing checksums), each works on its share and gets the labels of all; else each
            passes its own rows and gets their labels. Which of the two it is is logged.
        verbose: log the inertia of each restart (level INFO, rank 0), where the earlier library printed.
        algorithm: as in `KMeans`.
        keep_stats: keep the labels of every restart, R x N numbers of 8 bytes.

    After `fit`, beside what `KMeans` has: stats, a dict of tensors in order of the restarts, which are equal on every
    rank: "state" (R, K, D) centers, "inertia" (R,) float64, and with `keep_stats` "label" (R, n) int64. For replicated
    rows each has a first axis of W ranks, as it was, though ranks no longer differ.

    >>> model = PyTorchKMeans(n_clusters=2, n_init=3)
    >>> labels = model.fit_predict(torch.tensor([[0.0], [1.0], [8.0], [9.0]]))
    >>> _, inertia = model.predict(torch.tensor([[0.0], [9.0]]))
    >>> labels.bincount().tolist(), float(inertia), model.stats["state"].shape
    ([2, 2], 0.5, torch.Size([3, 2, 1]))
    """

    stats: dict[str, Tensor]

    def __init__(
        self,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        init: Any = "k-means++",
        random_state: Any = 0,
        n_clusters: int = 8,
        n_init: int | Literal["auto"] = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        distributed: bool = False,
        verbose: bool = True,
        *,
        algorithm: Literal["auto", "lloyd", "elkan"] = "auto",
        keep_stats: bool = False,
    ) -> None:
        super().__init__(
            n_clusters,
            metric=metric,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            random_state=random_state,
            algorithm=algorithm,
            distributed=distributed,
        )
        self.verbose, self.keep_stats = verbose, keep_stats

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "PyTorchKMeans":
        """Cluster the rows of all ranks. Collective if `distributed`. X (n, D), y, sample_weight: as in `KMeans`."""
        self.layout = self._layout_of(X)
        return super().fit(X, sample_weight=sample_weight)

    @torch.no_grad()
    def predict(self, X: Any, cluster_centers_: Any = None) -> tuple[Any, Any]:
        """(n,) int64 labels and () float64 their inertia. Not collective. `KMeans.predict` returns labels ALONE.

        cluster_centers_: (K, D) centers to use instead of those of `fit`.
        """
        model = copy.copy(self)
        if cluster_centers_ is not None:
            given = as_rows(cluster_centers_)
            model.cluster_centers_ = unit_rows(given) if self.metric == "cosine" else given
        rows, centers, give = model._measurable(X)
        labels = model._labels(rows, centers)
        squares = own_squared_distances(rows, centers, labels)
        if self.metric == "cosine":
            squares = squares.where(rows.any(1), 0) / 2  # 1 - cos = |u - c|² / 2
        return give(labels), give(squares.sum())

    def initialize(self, X: Any, random_state: Any) -> Any:
        """(K, D) the centers that the first restart starts from with this seed. Collective if `distributed`."""
        start = FirstCenters(self.n_clusters, metric=self.metric, init=self.init, random_state=random_state)
        start.set_params(distributed=self.distributed, layout=self._layout_of(X))
        return start.fit(X).cluster_centers_

    def distributed_sync(self, tensor: Tensor) -> Tensor:
        """(W, ...): a tensor of equal shape from every rank, in rank order. Collective if `distributed`."""
        return gather(tensor, everyone() if self.distributed else None)

    def _layout_of(self, X: Any) -> Literal["sharded", "replicated"]:
        return "replicated" if self.distributed and is_replicated(X, everyone()) else "sharded"

    def _cluster(self, shard: Shard, plan: Plan) -> Clustering:
        found = restarts(shard, [plan])[0]
        scale = 0.5 if plan.spherical else 1.0  # 1 - cos = |u - c|² / 2
        self.stats = {
            "state": torch.stack([one.centers for one in found]),
            "inertia": torch.tensor([scale * one.inertia for one in found], dtype=torch.float64, device=shard.x.device),
        }
        replicated = self.layout == "replicated"
        if self.keep_stats:
            labels = [self._settled(shard.x, one.labels) for one in found]
            self.stats["label"] = torch.stack([all_labels(own, shard) for own in labels] if replicated else labels)
        if replicated:
            self.stats = {name: self.distributed_sync(stacked) for name, stacked in self.stats.items()}
        if self.verbose and rank(shard.group) == 0:
            for number, inertia in enumerate(self.stats["inertia"].flatten()[: len(found)].tolist()):
                logger.info("restart %d of %d: inertia %.6g", number + 1, len(found), inertia)
        return best_of(shard, found)


class FirstCenters(KMeans):
    """`KMeans` that stays where its first restart starts."""

    def _cluster(self, shard: Shard, plan: Plan) -> Clustering:
        rows, _ = seen_from_mean(shard)
        centers = first_centers(shard, rows, [replace(plan, n_init=1)])[0].to(shard.x.dtype)
        nowhere = torch.zeros(len(shard.x), dtype=torch.int64, device=shard.x.device)
        return Clustering(nowhere, centers, math.nan, 0, 0, plan.n_clusters)


def is_replicated(x: Any, group: Group) -> bool:
    """Whether all ranks have given the same rows, by their number and checksums; says so in the log. Collective."""
    with refused_together(group):
        rows = as_rows(x)
    facts = torch.zeros(4, dtype=torch.float64, device=rows.device)
    facts[:2] = torch.tensor(rows.shape)
    for part in chunks(len(rows), rows.shape[1], rows.device):
        facts[2] += rows[part].sum(dtype=torch.float64)
    for row in rows[:1].double():
        facts[3] = (row * torch.arange(1, len(row) + 1, device=rows.device)).sum()
    everywhere = gather(facts.to(home(group)), group)
    same = bool((everywhere == everywhere[0]).all())
    if rank(group) == 0:
        logger.info("%d ranks pass %s", len(everywhere), "the same rows: each works on a share" if same else "own rows")
    return same
