"""What the page says of the clusters: their sizes and contact sheets, how they relate, and what classes they hold."""

from typing import Any

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evaluation.report_rows import Rows

MOST_CELLS = 2_500  # of a confusion matrix that is shown
CLASSES_OF_CARD = 3


def describe_clusters(rows: Rows, truth: Tensor | None) -> list[dict[str, Any]]:
    """Of each of K clusters its size, mean confidence, commonest classes, and rows of its contact sheet if it has one.

    truth: (N,) int64, -1 = unknown, or None.
    """
    found = []
    for name in range(len(rows.means)):
        mine = (rows.cluster == name).nonzero()[:, 0]
        facts: dict[str, Any] = {"size": len(mine)}
        if len(mine):
            facts["confidence"] = float(rows.confidence[mine].mean())
        if truth is not None:
            known = truth[mine][truth[mine] >= 0]
            counts = torch.bincount(known).sort(descending=True, stable=True)
            best = zip(counts.indices.tolist(), counts.values.tolist(), strict=True)
            facts["classes"] = [pair for pair in list(best)[:CLASSES_OF_CARD] if pair[1]]
        if name in rows.strips:
            strip = rows.strips[name]
            facts["next"] = strip.next
            facts |= {kind: getattr(strip, kind).tolist() for kind in ("typical", "uncertain", "toward")}
        found.append(facts)
    return found


def relate(means: Tensor) -> dict[str, Any] | None:
    """The dendrogram of the clusters that have rows; None of fewer than two.

    means: (K, D) at length 1, zeros for an empty cluster. Average linkage of cosine distances. leaves: clusters in the
    order of the drawing; merges: (left, right, height) where 0 to L - 1 are places among the leaves and L + i is the
    i-th merge.
    """
    used = means.any(1).nonzero()[:, 0]
    if len(used) < 2:
        return None
    tree = linkage(means[used].double().numpy(), "average", metric="cosine", optimal_ordering=True)
    order = leaves_list(tree)
    place = np.concatenate([np.argsort(order), np.arange(len(used), 2 * len(used))])  # of leaf or merge
    merges = [[int(place[int(a)]), int(place[int(b)]), max(0.0, float(height))] for a, b, height, _ in tree]
    return {"leaves": used[torch.from_numpy(order.astype(np.int64))].tolist(), "merges": merges}


def confuse(cluster: Tensor, truth: Tensor | None, n_clusters: int) -> dict[str, Any] | None:
    """How many rows of each class are in each cluster, with the clusters in the order that fits the classes best.

    cluster, truth (N,) int64, -1 = none. counts: a list a class. Clusters beyond the one-to-one matching come last.
    None without classes; counts None where it would have more than 2,500 cells.
    """
    if truth is None or not bool((truth >= 0).any()):
        return None
    both = (cluster >= 0) & (truth >= 0)
    n_classes = int(truth.max()) + 1
    if n_classes * n_clusters > MOST_CELLS:
        return {"classes": n_classes, "clusters": list(range(n_clusters)), "counts": None}
    pairs = truth[both] * n_clusters + cluster[both]
    table = torch.bincount(pairs, minlength=n_classes * n_clusters).view(n_classes, n_clusters).numpy()
    classes, matched = linear_sum_assignment(table, maximize=True)
    order = matched[np.argsort(classes)].tolist()
    order += [name for name in range(n_clusters) if name not in set(order)]
    return {"classes": n_classes, "clusters": order, "counts": table[:, order].tolist()}
