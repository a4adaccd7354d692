"""What a model of K centers does with rows: name the nearest, measure distances, score. n rows, D features."""

from typing import Any, Literal, Self

import torch
from torch import Tensor

from torch_clustering._checks import Shard, chunks, row_weights, to_tensor, warn
from torch_clustering._collectives import sum_over_ranks
from torch_clustering._estimator import ClassNamePrefixFeaturesOutMixin, ClusterMixin, Estimator, TransformerMixin
from torch_clustering.assign import DIRECT, nearest, own_squared_distances


class CenterModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, Estimator):
    """Base of the k-means: what follows from `cluster_centers_` (K, D) and `metric`."""

    metric: Literal["euclidean", "cosine"]
    cluster_centers_: Any
    labels_: Any

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the centers."""
        raise NotImplementedError

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """(n,) int64: `fit`, then labels_. Collective, as `fit` is."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """(n, K): `fit`, then `transform` of the same rows. Collective, as `fit` is."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    @torch.no_grad()
    def predict(self, X: Any) -> Any:
        """(n,) int64: the nearest center of each row, the lowest index among equals. Not collective.

        X (n, D): tensor or array, of either precision whatever was fitted; n may be 0. Labels alone are returned, no
        pair with the inertia.
        """
        rows, centers, give = self._measurable(X)
        return give(self._labels(rows, centers))

    @torch.no_grad()
    def transform(self, X: Any) -> Any:
        """(n, K) distance of each row to each center, not squared; with "cosine" 1 - cos in [0, 2]. Not collective."""
        rows, centers, give = self._measurable(X)
        distances = torch.cdist(rows, centers.to(rows.dtype), compute_mode=DIRECT)
        return give(distances.square_().div_(2) if self.metric == "cosine" else distances)

    @torch.no_grad()
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of the rows under the centers: 0 is best. Not collective: of the rows given here."""
        rows, centers, _ = self._measurable(X)
        return -self._inertia(rows, row_weights(sample_weight, rows), self._labels(rows, centers), centers)

    def _measurable(self, X: Any) -> tuple[Tensor, Tensor, Any]:
        """Rows (n, D), at length 1 with "cosine"; centers (K, D) float64 on their device; the way back."""
        self._check_fitted()
        rows, give = self._take(X, reset=False)
        centers = to_tensor(self.cluster_centers_).to(rows.device, torch.float64)
        return unit_rows(rows) if self.metric == "cosine" else rows, centers, give

    def _labels(self, rows: Tensor, centers: Tensor) -> Tensor:
        return self._settled(rows, nearest(rows, centers))

    def _settled(self, rows: Tensor, labels: Tensor) -> Tensor:
        """`labels` int64, of which those of rows without direction are 0."""
        labels = labels.long()
        return labels.masked_fill_(~has_direction(rows), 0) if self.metric == "cosine" else labels

    def _inertia(self, rows: Tensor, weights: Tensor, labels: Tensor, centers: Tensor) -> float:
        """Of these rows alone; those without direction count as nothing."""
        weights = weights * has_direction(rows) if self.metric == "cosine" else weights
        inertia = float((weights * own_squared_distances(rows, centers, labels)).sum())
        return self._reported(inertia)

    def _reported(self, inertia: float) -> float:
        """The inertia as `metric` speaks of it, from squared distances: 1 - cos = |u - c|² / 2."""
        return inertia / 2 if self.metric == "cosine" else inertia

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def unit_rows(x: Tensor) -> Tensor:
    """Rows at length 1, rows of zeros as they are; `x` itself, not a copy, if that holds already up to rounding."""
    lengths = x.new_empty((len(x), 1))
    for part in chunks(len(x), x.shape[1], x.device):
        exact = torch.linalg.vector_norm(x[part], dim=1, keepdim=True, dtype=torch.float64)
        # decided row by row, so that the split into ranks does not matter
        done = ((exact - 1).abs() <= 4 * torch.finfo(x.dtype).eps) | (exact == 0)
        lengths[part] = exact.masked_fill_(done, 1)
    return x if bool((lengths == 1).all()) else x / lengths


def has_direction(x: Tensor) -> Tensor:
    """(n,) bool: rows that are not 0; without a mask of the size of `x`."""
    found = torch.empty(len(x), dtype=torch.bool, device=x.device)
    for part in chunks(len(x), x.shape[1], x.device):
        found[part] = x[part].any(1)
    return found


def on_sphere(shard: Shard) -> Shard:
    """The rows at length 1; rows of zeros stay and lose their weight. Collective: all ranks warn, or none."""
    unit = unit_rows(shard.x)
    directed = has_direction(unit)
    lost = (~directed).sum()
    weights = shard.weights * directed if int(lost) else shard.weights
    n_zero, n_heavy = sum_over_ranks(torch.stack([lost, weights.count_nonzero()]), shard.group).tolist()
    if n_heavy == 0:
        raise ValueError(f"no row has both a direction and weight: {n_zero} of {shard.n_rows} rows are 0")
    if n_zero:
        warn(f"{n_zero} of {shard.n_rows} rows are 0 and have no direction: label 0, no influence")
    return Shard(unit, weights, shard.first, shard.n_rows, shard.group)
