"""From too many clusters to fewer: the dendrogram of their centers."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cut_tree
from torch import Tensor

from torch_clustering._checks import as_rows, check_finite, one_of, row_weights, whole
from torch_clustering.assign import DIRECT

Linkage = Literal["ward", "average", "complete", "single"]


class Merging(NamedTuple):
    """tree (K - 1, 4) float64: linkage matrix of SciPy; new_ids (K,) int64: where each cluster went."""

    tree: NDArray[np.float64]
    new_ids: Any


def merge_clusters(centers: Any, weights: Any, n_clusters: int, *, linkage: Linkage = "ward") -> Merging:
    """The dendrogram of K centers, and the map of their clusters to `n_clusters` merged ones.

    Args:
        centers: (K, D) of an over-clustering.
        weights: (K,) rows of each cluster, None for equal ones. A cluster without rows joins the nearest one.
        n_clusters: at most K. New ids count from 0 in the order of the lowest old id in them.
        linkage: "ward" merges the pair that raises the inertia of all rows least, "average" takes the weighted mean
            of distances between clusters, "complete" the greatest, "single" the least. With equal weights the tree is
            that of `scipy.cluster.hierarchy.linkage`. O(K³).
    Returns:
        `Merging`; new_ids are a tensor for a tensor, so that `new_ids[labels]` are the merged labels of rows. The tree
        is an array for `scipy.cluster.hierarchy.dendrogram`; its last column counts old clusters.
    Raises:
        ValueError: n_clusters > K, NaN or infinity, negative weights.

    >>> merge_clusters([[0.0], [9.0], [1.0], [8.0]], [5, 5, 5, 5], 2).new_ids.tolist()
    [0, 1, 0, 1]
    """
    one_of("linkage", linkage, ("ward", "average", "complete", "single"))
    whole("n_clusters", n_clusters)
    rows = as_rows(centers)
    check_finite(rows)
    if n_clusters > len(rows):
        raise ValueError(f"{len(rows)} clusters can not be merged into {n_clusters}")
    points, sizes = rows.double(), row_weights(weights, rows)
    filled = sizes[sizes > 0]
    # a cluster without rows is light, not weightless: it would be at distance 0 from all
    sizes = sizes.clamp(min=1e-9 * float(filled.min())) if len(filled) else torch.ones_like(sizes)
    apart = torch.cdist(points, points, compute_mode=DIRECT)
    if linkage == "ward":
        apart = apart.square() * 2 / (1 / sizes[:, None] + 1 / sizes)
    tree = _tree(apart.fill_diagonal_(torch.inf).cpu().numpy(), sizes.cpu().numpy().copy(), linkage)
    new_ids = cut_tree(tree, n_clusters)[:, 0] if len(rows) > 1 else np.zeros(1, dtype=np.int64)
    return Merging(tree, torch.from_numpy(new_ids).to(centers.device) if isinstance(centers, Tensor) else new_ids)


def _tree(apart: NDArray[np.float64], sizes: NDArray[np.float64], linkage: Linkage) -> NDArray[np.float64]:
    """(K - 1, 4) merges of least distance, by the recurrence of Lance & Williams (1967). Its arguments are overwritten.

    apart (K, K): distances; for "ward" 2 w w' / (w + w') times their squares, the distance for weights of 1.
    """
    n_points = len(apart)
    names, members = np.arange(n_points), np.ones(n_points, dtype=np.int64)
    tree = np.zeros((n_points - 1, 4))
    for step in range(n_points - 1):
        one, two = sorted(divmod(int(apart.argmin()), n_points))
        distance, first, second = float(apart[one, two]), apart[one], apart[two]
        if linkage == "ward":
            gained = (sizes[one] + sizes) * first + (sizes[two] + sizes) * second - sizes * distance
            joined = gained / (sizes[one] + sizes[two] + sizes)
        elif linkage == "average":
            joined = (sizes[one] * first + sizes[two] * second) / (sizes[one] + sizes[two])
        else:
            joined = np.maximum(first, second) if linkage == "complete" else np.minimum(first, second)
        members[one] += members[two]
        height = np.sqrt(distance) if linkage == "ward" else distance
        tree[step] = [*sorted((names[one], names[two])), height, members[one]]
        apart[one] = apart[:, one] = joined
        apart[two] = apart[:, two] = apart[one, one] = np.inf
        sizes[one] += sizes[two]
        names[one] = n_points + step
    return tree
