"""KMeans by mini-batches, for rows that come as a stream or are too many for whole passes."""

import math
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._centers import CenterModel, on_sphere
from torch_clustering._checks import Shard, one_of, positive, to_tensor, whole
from torch_clustering._collectives import Group, everyone, gather, rank, sum_over_ranks
from torch_clustering._estimator import Give, shared_seed
from torch_clustering.assign import nearest, own_squared_distances
from torch_clustering.engine import Plan, cluster, seen_from_mean
from torch_clustering.kmeans import SEEDINGS, checked_init
from torch_clustering.seeding import fetch_rows
from torch_clustering.totals import update_totals_


class MiniBatchKMeans(CenterModel):
    """k-means that moves its centers after each batch of rows (Sculley 2010); not exact, in return for fewer reads.

    A center is the running mean of the rows it was given. On several ranks the batch is what all of them have of it.

    Args:
        n_clusters: K >= 1.
        metric: "euclidean", or "cosine": rows and centers are brought to length 1.
        init: as in `KMeans`; names and functions start from a sample, and make one pass over it.
        max_iter: how often `fit` reads as many rows as there are, at most.
        batch_size: rows of a batch of `fit`, of all ranks together.
        tol: `fit` stops when a batch moves all centers together by a square of at most `tol` times the mean variance
            of the features; 0 for never.
        max_no_improvement: `fit` stops after so many batches without a new least smoothed inertia; None for never.
        init_size: rows of the sample to start from; None for 3 batches, at least 3 K.
        n_init: starts, of which the one of least inertia in the sample is kept; "auto": 3 for "random" and functions,
            else 1.
        reassignment_ratio: clusters that saw less than this share of the largest cluster's weight are given random
            rows of the batch, every 10 K rows or when one is empty.
        random_state, distributed, group: as in `KMeans`.

    After `fit`: labels_ of own rows and inertia_ of all under the last centers, n_iter_ (`max_iter`'s unit); after
    `partial_fit` they are those of the batch. cluster_centers_ (K, D) in the dtype of the first rows; counts_ (K,)
    float64: the weight each cluster saw; n_steps_: batches.

    >>> model = MiniBatchKMeans(2, init=[[0.0], [9.0]])
    >>> for batch in ([[1.0], [8.0]], [[2.0], [10.0]]):
    ...     model = model.partial_fit(batch)
    >>> model.cluster_centers_.tolist()
    [[1.5], [9.0]]
    """

    inertia_: float
    n_iter_: int
    n_steps_: int
    counts_: Any

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        init: Any = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: int | Literal["auto"] = "auto",
        reassignment_ratio: float = 0.01,
        random_state: Any = 0,
        distributed: bool = False,
        group: Group | None = None,
    ) -> None:
        self.n_clusters, self.metric, self.init, self.max_iter = n_clusters, metric, init, max_iter
        self.batch_size, self.tol, self.max_no_improvement = batch_size, tol, max_no_improvement
        self.init_size, self.n_init, self.reassignment_ratio = init_size, n_init, reassignment_ratio
        self.random_state, self.distributed, self.group = random_state, distributed, group

    @torch.no_grad()
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from batches drawn from the rows of all ranks, alike for any split. Collective: all ranks must call.

        X (n, D), y and sample_weight (n,): as in `KMeans.fit`; the same errors.
        """
        shard, give = self._begin(X, sample_weight, self.n_clusters, reset=True)
        n_rows, size = shard.n_rows, min(self.batch_size, shard.n_rows)
        draws = self._draws(0)
        wanted = self.init_size or max(3 * size, 3 * self.n_clusters)
        sample = take(shard, draws.choice(n_rows, min(wanted, n_rows), replace=False))
        centers = self._first_centers(sample if sample.n_rows >= self.n_clusters else shard, give)
        self._forget(centers)
        tolerance = self.tol * seen_from_mean(shard)[1] if self.tol > 0 else -1.0
        patience = Patience(min(1.0, 2 * size / (n_rows + 1)), self.max_no_improvement)
        for step in range(1, max(1, self.max_iter * n_rows // size) + 1):
            self.n_steps_ = step
            batch = take(shard, draws.integers(n_rows, size=size))
            before, (centers, inertia) = centers, self._step(batch, centers, draws)
            shift = float((centers - before).square().sum())
            # the first batch tells of the start, not of progress
            if step > 1 and (shift <= tolerance or patience.is_over(inertia)):
                break
        self.n_iter_ = math.ceil(self.n_steps_ * size / n_rows)
        return self._finish(shard, centers.to(shard.x.dtype), give)

    @torch.no_grad()
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from one batch, the rows of all ranks together. Collective: all ranks must call.

        Args:
            X: (n, D) this rank's rows of the batch; n may be 0. The first batch needs K rows over all ranks.
            y: not read.
            sample_weight: (n,) weights >= 0, None for 1 each.
        """
        begins = not hasattr(self, "cluster_centers_")
        shard, give = self._begin(X, sample_weight, self.n_clusters if begins else 1, reset=begins)
        if begins:
            self.n_steps_, self.n_iter_ = 0, 0
            centers, dtype = self._first_centers(shard, give), shard.x.dtype
            self._forget(centers)
        else:
            learnt = to_tensor(self.cluster_centers_).to(shard.x.device)
            centers, dtype = learnt.double(), learnt.dtype
            self.counts_ = to_tensor(self.counts_).to(shard.x.device)
        self.n_steps_, self.n_iter_ = self.n_steps_ + 1, self.n_iter_ + 1
        everything = take(shard, np.arange(shard.n_rows))
        centers, _ = self._step(everything, centers, self._draws(self.n_steps_))
        return self._finish(shard, centers.to(dtype), give)

    def _begin(self, X: Any, sample_weight: Any, least: int, *, reset: bool) -> tuple[Shard, Give]:
        """The rows in their place, after all checks. Collective."""
        self._check_settings()
        group = everyone() if self.distributed and self.group is None else self.group
        shard, give = self._take_shard(X, sample_weight, least, group, reset=reset)
        if reset:
            self._seed = shared_seed(self.random_state, group)
        return on_sphere(shard) if self.metric == "cosine" else shard, give

    def _first_centers(self, sample: Shard, give: Give) -> Tensor:
        """(K, D) float64: given, or the best of `n_init` starts after one pass over the sample. Collective."""
        init = checked_init(self.init, (self.n_clusters, sample.x.shape[1]), sample, give)
        spherical = self.metric == "cosine"
        if isinstance(init, Tensor):
            return F.normalize(init) if spherical else init
        n_init = self.n_init if self.n_init != "auto" else 3 if init == "random" or callable(init) else 1
        plan = Plan(self.n_clusters, init, n_init, max_iter=1, tol=0.0, seed=self._seed, spherical=spherical)
        return cluster(sample, plan).centers.double()

    def _forget(self, centers: Tensor) -> None:
        self.counts_, self._rows_since_reassignment = centers.new_zeros(len(centers)), 0

    def _step(self, batch: Shard, centers: Tensor, draws: np.random.Generator) -> tuple[Tensor, float]:
        """(K, D) float64 centers moved by the batch, and the mean inertia of its rows before. Collective."""
        totals, inertia = batch_totals(batch, centers)
        sums, weight = totals[:, :-2], totals[:, -2]
        self.counts_ = self.counts_ + weight
        rate = torch.where(weight > 0, 1 / self.counts_, 0)
        centers = centers + (sums - centers * weight[:, None]) * rate[:, None]
        if self.metric == "cosine":
            centers = F.normalize(centers)
        self._rows_since_reassignment += batch.n_rows
        if self._rows_since_reassignment >= 10 * self.n_clusters or bool((self.counts_ == 0).any()):
            self._rows_since_reassignment = 0
            reassign_(centers, self.counts_, batch, self.reassignment_ratio, draws)
        return centers, inertia

    def _finish(self, shard: Shard, centers: Tensor, give: Give) -> Self:
        labels = self._labels(shard.x, centers.double())
        inertia = self._inertia(shard.x, shard.weights, labels, centers.double())
        self.inertia_ = float(sum_over_ranks(centers.new_tensor([inertia], dtype=torch.float64), shard.group))
        self.labels_, self.cluster_centers_, self.counts_ = give(labels), give(centers), give(self.counts_)
        return self

    def _draws(self, step: int) -> np.random.Generator:
        """Random numbers of one call, apart from those of the restarts."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, step, 1))))

    def _check_settings(self) -> None:
        for name in ("n_clusters", "max_iter", "batch_size"):
            whole(name, getattr(self, name))
        for name, unset in (("max_no_improvement", None), ("init_size", None), ("n_init", "auto")):
            if getattr(self, name) != unset:
                whole(name, getattr(self, name))
        positive("tol", self.tol, zero=True)
        positive("reassignment_ratio", self.reassignment_ratio, zero=True)
        one_of("metric", self.metric, ("euclidean", "cosine"))
        if isinstance(self.init, str):
            one_of("init", self.init, SEEDINGS)


class Patience:
    """When batches have brought no new least exponentially smoothed inertia for too long."""

    def __init__(self, rate: float, limit: int | None) -> None:
        self.rate, self.limit = rate, limit
        self.smoothed, self.least, self.waited = math.nan, math.inf, 0

    def is_over(self, inertia: float) -> bool:
        """Whether `limit` batches, this one included, brought none."""
        before = inertia if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = before + self.rate * (inertia - before)
        self.waited = 0 if self.smoothed < self.least else self.waited + 1
        self.least = min(self.least, self.smoothed)
        return self.limit is not None and self.waited >= self.limit


def take(shard: Shard, rows: np.ndarray) -> Shard:
    """The rows of these global ids that have weight, in the order of their ids. Collective."""
    own = torch.from_numpy(np.sort(rows)).to(shard.x.device) - shard.first
    own = own[(own >= 0) & (own < len(shard.x))]
    own = own[shard.weights[own] > 0]
    sizes = gather(torch.tensor(len(own), device=own.device), shard.group).tolist()
    return Shard(shard.x[own], shard.weights[own], sum(sizes[: rank(shard.group)]), sum(sizes), shard.group)


def batch_totals(batch: Shard, centers: Tensor) -> tuple[Tensor, float]:
    """(K, D + 2) float64 totals of the clusters of the batch (see `totals`), and its mean inertia. Collective."""
    labels = nearest(batch.x, centers)
    totals = centers.new_zeros((len(centers), centers.shape[1] + 2))
    update_totals_([totals], batch, [torch.full_like(labels, -1)], [labels])
    inertia = (batch.weights * own_squared_distances(batch.x, centers, labels)).sum()
    summed = sum_over_ranks(torch.cat([totals.flatten(), inertia[None]]), batch.group)
    totals = summed[:-1].view_as(totals)
    return totals, float(summed[-1] / totals[:, -2].sum())


def reassign_(centers: Tensor, counts: Tensor, batch: Shard, ratio: float, draws: np.random.Generator) -> None:
    """Move rarely chosen centers to random rows of the batch, at most half of them, in place. Collective.

    Their counts become the least of the others, so that they do not move again at once.
    """
    n_few = min(int((counts < ratio * counts.max()).sum()), batch.n_rows // 2)
    if n_few == 0:
        return
    order = counts.argsort(stable=True)
    few, others = order[:n_few], order[n_few:]
    centers[few] = fetch_rows(batch, draws.choice(batch.n_rows, n_few, replace=False).tolist()).double()
    counts[few] = counts[others].min()
