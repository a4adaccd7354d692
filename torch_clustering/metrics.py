"""Scores of a clustering against known classes. Every one is computed in float64 from one table of counts.

Rows whose class is -1 (unlabelled) are dropped first. A cluster of -1 means "in no cluster": an error for accuracy,
recall and purity; the other scores drop these rows, or take them as one more cluster with noise="cluster". Ids are any
integers, and classes and clusters may differ in number. Padding rows must be taken out before, by their global ids.

With `group` each rank passes the labels of its own rows, any number, and all ranks get the scores of all rows: tables
add up. Then a function is collective: all ranks must call it.
"""

import math
from typing import Any

import numpy as np
import torch

from torch_clustering import table_scores
from torch_clustering._collectives import Group, sum_over_ranks
from torch_clustering.counts import Contingency, Noise, contingency, integers, places
from torch_clustering.table_scores import Average


def cluster_to_class(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> dict[int, int]:
    """The one-to-one map of clusters to classes that makes most rows right (Hungarian method).

    With more clusters than classes some clusters have no class, and are missing.

    >>> cluster_to_class([0, 0, 4, 4], [9, 9, 3, 9])
    {3: 4, 9: 0}
    """
    return contingency(labels_true, labels_pred, group=group).best_map()


def fit_mapping(
    labels_true: Any, labels_pred: Any, *, many_to_one: bool = True, group: Group | None = None
) -> dict[int, int]:
    """A map of clusters to classes learnt from training rows, to be judged on others by `mapped_accuracy`.

    many_to_one: each cluster takes its most frequent class, as over-clustering does; else as `cluster_to_class`.

    >>> fit_mapping([0, 0, 4, 4], [9, 9, 3, 2])
    {2: 4, 3: 4, 9: 0}
    """
    counts = contingency(labels_true, labels_pred, group=group)
    return counts.majority_map() if many_to_one else counts.best_map()


def mapped_accuracy(
    labels_true: Any, labels_pred: Any, mapping: dict[int, int], *, group: Group | None = None
) -> float:
    """Share of rows that `mapping`, cluster -> class, makes right; a cluster that it lacks is wrong.

    >>> mapped_accuracy([0, 4, 4, 0], [9, 3, 5, 3], {3: 4, 9: 0})
    0.5
    """
    counts = contingency(labels_true, labels_pred, group=group)
    return counts.share_right(mapping)


def clustering_accuracy(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> float:
    """Share of rows that are right under the best one-to-one map of clusters to classes, in [0, 1].

    Clusters beyond the number of classes, and cluster -1, count as wrong.

    >>> clustering_accuracy([0, 0, 1, 1], [1, 1, 0, 2])
    0.75
    """
    counts = contingency(labels_true, labels_pred, group=group)
    return counts.share_right(counts.best_map())


def class_recall(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> dict[int, float]:
    """Share of each class's rows that are right under the best one-to-one map; 0 for a class without cluster.

    Their mean is the balanced accuracy.

    >>> class_recall([0, 0, 1, 1], [1, 1, 0, 2])
    {0: 1.0, 1: 0.5}
    """
    counts = contingency(labels_true, labels_pred, group=group)
    recall = counts.right(counts.best_map()) / counts.table.sum(1)
    return dict(zip(counts.classes.tolist(), recall.tolist(), strict=True))


def confusion_matrix(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> Contingency:
    """The table with each matched cluster on the diagonal: its column stands at the place of its class's row.

    Classes without cluster are the last rows, clusters without class and then -1 the last columns.

    >>> confusion_matrix([0, 0, 1, 1], [8, 8, 5, 7]).clusters.tolist()
    [8, 5, 7]
    """
    return contingency(labels_true, labels_pred, group=group).aligned()


def purity(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> float:
    """Share of rows whose class is the most frequent one of their cluster; rises with the number of clusters.

    >>> purity([0, 0, 1, 1], [1, 1, 0, 2])
    1.0
    """
    counts = contingency(labels_true, labels_pred, group=group)
    return counts.share_right(counts.majority_map())


def inverse_purity(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> float:
    """Share of rows whose cluster is the most frequent one of their class; falls with the number of clusters.

    >>> inverse_purity([0, 0, 1, 1], [1, 1, 0, 2])
    0.75
    """
    counts = contingency(labels_true, labels_pred, group=group)
    return float(counts.without_noise().table.max(1, initial=0).sum() / counts.table.sum())


def normalized_mutual_info(
    labels_true: Any,
    labels_pred: Any,
    average: Average = "arithmetic",
    *,
    noise: Noise = "drop",
    group: Group | None = None,
) -> float:
    """Mutual information over the mean of both entropies, in [0, 1].

    `average` names the mean; papers before 2019 often took the geometric one.

    >>> normalized_mutual_info([0, 0, 1, 1], [7, 7, 3, 3])
    1.0
    """
    table_scores.mean_of(average)
    return table_scores.nmi(contingency(labels_true, labels_pred, group=group).paired(noise), average)


def adjusted_mutual_info(
    labels_true: Any,
    labels_pred: Any,
    average: Average = "arithmetic",
    *,
    noise: Noise = "drop",
    group: Group | None = None,
) -> float:
    """Mutual information corrected for chance (Vinh, Epps & Bailey 2010), at most 1: 0 for random clusters.

    To be preferred to the normalised one where clusters and classes differ in number.

    >>> adjusted_mutual_info([0, 0, 1, 1], [7, 7, 3, 3])
    1.0
    """
    table_scores.mean_of(average)
    return table_scores.ami(contingency(labels_true, labels_pred, group=group).paired(noise), average)


def homogeneity(labels_true: Any, labels_pred: Any, *, noise: Noise = "drop", group: Group | None = None) -> float:
    """Share of the classes' entropy that the clusters explain, in [0, 1]: 1 when each cluster holds one class.

    >>> homogeneity([0, 0, 1, 1], [1, 1, 0, 2])
    1.0
    """
    return table_scores.homogeneity(contingency(labels_true, labels_pred, group=group).paired(noise))


def completeness(labels_true: Any, labels_pred: Any, *, noise: Noise = "drop", group: Group | None = None) -> float:
    """Share of the clusters' entropy that the classes explain, in [0, 1]: 1 when no class is spread over clusters.

    Its harmonic mean with homogeneity, the V-measure, is the arithmetic `normalized_mutual_info`.

    >>> completeness([0, 0, 1, 1], [5, 5, 5, 5])
    1.0
    """
    return table_scores.completeness(contingency(labels_true, labels_pred, group=group).paired(noise))


def adjusted_rand(labels_true: Any, labels_pred: Any, *, noise: Noise = "drop", group: Group | None = None) -> float:
    """Rand index corrected for chance (Hubert & Arabie 1985), in [-0.5, 1]: 1 for equal partitions, 0 by chance.

    >>> adjusted_rand([0, 0, 1, 1], [7, 7, 3, 3])
    1.0
    """
    return table_scores.ari(contingency(labels_true, labels_pred, group=group).paired(noise))


def fowlkes_mallows(labels_true: Any, labels_pred: Any, *, noise: Noise = "drop", group: Group | None = None) -> float:
    """Geometric mean of precision and recall of the pairs of rows put together, in [0, 1]; not the F-measure.

    >>> fowlkes_mallows([0, 0, 1, 1], [7, 7, 3, 3])
    1.0
    """
    return table_scores.fmi(contingency(labels_true, labels_pred, group=group).paired(noise))


def cluster_sizes(labels_pred: Any, n_clusters: int | None = None, *, group: Group | None = None) -> dict[str, Any]:
    """What the sizes of clusters say; rows of cluster -1 are left out.

    used: clusters that have rows; smallest, largest, median: rows of a cluster, of all `n_clusters` (None: of the used
    ones); entropy: that of the sizes over ln K, 1 for equal sizes; collapsed: used < 0.9 K or largest > 10 N / K.

    >>> sizes = cluster_sizes([4, 4, 4, 9], n_clusters=3)
    >>> sizes["used"], sizes["smallest"], sizes["largest"], sizes["median"], sizes["collapsed"]
    (2, 0, 3, 1.0, True)
    """
    (pred,), _ = integers([labels_pred], group)
    clusters, place = places(pred[pred != -1], group)
    sizes = sum_over_ranks(torch.bincount(place, minlength=len(clusters)), group).cpu().numpy()
    used, total = len(sizes), int(sizes.sum())
    count = used if n_clusters is None else n_clusters
    if count < used:
        raise ValueError(f"{used} clusters have rows, n_clusters={n_clusters}")
    sizes = np.pad(sizes, (0, max(count, 1) - used))
    return {
        "used": used,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "median": float(np.median(sizes)),
        "entropy": table_scores.entropies(sizes[None])[1] / math.log(count) if count > 1 else 1.0,
        "collapsed": used < 0.9 * count or int(sizes.max()) * count > 10 * total,
    }
