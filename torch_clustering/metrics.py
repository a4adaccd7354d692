"""Scores of a clustering against known classes. Every one is computed in float64 from one table of counts.

Rows whose class is -1 (unlabelled) are dropped first. A cluster of -1 means "in no cluster": an error for the accuracy,
dropped by the other scores. Ids are any integers, and classes and clusters may differ in number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

MEANS: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: math.sqrt(a * b),
    "max": max,
    "min": min,
}


@dataclass(frozen=True)
class Contingency:
    """table (n_classes, n_clusters) int64 counts of rows; classes, clusters: sorted ids of its rows and its columns."""

    table: NDArray[np.int64]
    classes: NDArray[np.int64]
    clusters: NDArray[np.int64]

    def without_noise(self) -> "Contingency":
        """The table without the column of cluster -1."""
        kept = self.clusters != -1
        return Contingency(self.table[:, kept], self.classes, self.clusters[kept])


def contingency(labels_true: Any, labels_pred: Any) -> Contingency:
    """Count the rows of each class in each cluster; rows of class -1 are left out.

    Args:
        labels_true, labels_pred: (N,) integers, tensors on any device, arrays or lists.
    Raises:
        ValueError: different lengths, labels that are no integers, no row with a class.

    >>> contingency([0, 0, 1, -1], [5, 5, 7, 7]).table.tolist()
    [[2, 0], [0, 1]]
    """
    truth, pred = _integers(labels_true), _integers(labels_pred)
    if truth.shape != pred.shape:
        raise ValueError(f"{len(truth)} true labels against {len(pred)} predicted ones")
    known = truth != -1
    if not known.any():
        raise ValueError(f"none of {len(truth)} rows has a class")
    classes, of_class = np.unique(truth[known], return_inverse=True)
    clusters, of_cluster = np.unique(pred[known], return_inverse=True)
    counts = np.bincount(of_class * len(clusters) + of_cluster, minlength=len(classes) * len(clusters))
    return Contingency(counts.reshape(len(classes), len(clusters)), classes, clusters)


def cluster_to_class(labels_true: Any, labels_pred: Any) -> dict[int, int]:
    """The one-to-one map of clusters to classes that makes most rows right (Hungarian method).

    With more clusters than classes some clusters have no class, and are missing.

    >>> cluster_to_class([0, 0, 4, 4], [9, 9, 3, 9])
    {3: 4, 9: 0}
    """
    counts = contingency(labels_true, labels_pred).without_noise()
    rows, columns = linear_sum_assignment(counts.table, maximize=True)
    pairs = zip(counts.clusters[columns].tolist(), counts.classes[rows].tolist(), strict=True)
    return dict(sorted(pairs))


def clustering_accuracy(labels_true: Any, labels_pred: Any) -> float:
    """Share of rows that are right under the best one-to-one map of clusters to classes, in [0, 1].

    Clusters beyond the number of classes, and cluster -1, count as wrong.

    >>> clustering_accuracy([0, 0, 1, 1], [1, 1, 0, 2])
    0.75
    """
    counts = contingency(labels_true, labels_pred)
    matched = counts.without_noise().table
    return float(matched[linear_sum_assignment(matched, maximize=True)].sum() / counts.table.sum())


def normalized_mutual_info(
    labels_true: Any, labels_pred: Any, average: Literal["arithmetic", "geometric", "max", "min"] = "arithmetic"
) -> float:
    """Mutual information over the mean of both entropies, in [0, 1].

    `average` names the mean; papers before 2019 often took the geometric one.

    >>> normalized_mutual_info([0, 0, 1, 1], [7, 7, 3, 3])
    1.0
    """
    if average not in MEANS:
        raise ValueError(f"average={average!r} is none of {', '.join(MEANS)}")
    table = contingency(labels_true, labels_pred).without_noise().table
    joint = table / max(table.sum(), 1)
    of_class, of_cluster = joint.sum(1), joint.sum(0)
    entropies = _entropy(of_class), _entropy(of_cluster)
    if entropies == (0.0, 0.0):
        return 1.0
    filled = joint > 0
    information = float((joint[filled] * np.log(joint[filled] / np.outer(of_class, of_cluster)[filled])).sum())
    mean = MEANS[average](*entropies)
    return min(max(information, 0.0) / mean, 1.0) if mean > 0 else 0.0


def adjusted_rand(labels_true: Any, labels_pred: Any) -> float:
    """Rand index corrected for chance (Hubert & Arabie 1985), in [-0.5, 1]: 1 for equal partitions, 0 by chance.

    >>> adjusted_rand([0, 0, 1, 1], [7, 7, 3, 3])
    1.0
    """
    table = contingency(labels_true, labels_pred).without_noise().table.astype(np.float64)
    together, of_class, of_cluster = _pairs(table), _pairs(table.sum(1)), _pairs(table.sum(0))
    expected = of_class * of_cluster / max(_pairs(table.sum()), 1.0)
    most = (of_class + of_cluster) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def _integers(labels: Any) -> NDArray[np.int64]:
    values = torch.as_tensor(labels).detach().cpu()
    if values.is_floating_point() or values.ndim != 1:
        raise ValueError(f"labels must be (N,) integers, not {values.dtype} of shape {tuple(values.shape)}")
    return values.long().numpy()


def _entropy(shares: NDArray[np.float64]) -> float:
    """Entropy in nats of shares that sum to 1."""
    filled = shares[shares > 0]
    return float(abs((filled * np.log(filled)).sum()))


def _pairs(counts: NDArray[np.float64] | np.float64) -> float:
    """Number of pairs within groups of these sizes."""
    return float((counts * (counts - 1) / 2).sum())
