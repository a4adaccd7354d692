"""The table of counts of classes and clusters, from labels on one process or sharded over ranks, and its maps.

n rows of one rank, N of all. Tables of ranks add up, so that every score of a table is exact on shards.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from torch_clustering._checks import refused_together
from torch_clustering._collectives import Group, gather, home, sum_over_ranks
from torch_clustering.table_scores import Table

Noise = Literal["drop", "cluster"]


@dataclass(frozen=True)
class Contingency:
    """table (n_classes, n_clusters) int64 counts of rows; classes, clusters: ids of its rows and its columns.

    n_unlabelled: rows of class -1, which are not in the table.
    """

    table: Table
    classes: Table
    clusters: Table
    n_unlabelled: int = 0

    def without_noise(self) -> "Contingency":
        """The table without the column of cluster -1, and without classes that had rows only there."""
        kept = self.clusters != -1
        return Contingency(self.table[:, kept], self.classes, self.clusters[kept], self.n_unlabelled).filled()

    def filled(self) -> "Contingency":
        """The table without rows and columns of zeros."""
        rows, columns = self.table.any(1), self.table.any(0)
        return Contingency(self.table[rows][:, columns], self.classes[rows], self.clusters[columns], self.n_unlabelled)

    def aligned(self) -> "Contingency":
        """The table with each matched cluster's column at the place of its class's row.

        Classes without cluster are the last rows, clusters without class and then -1 the last columns.
        """
        class_of = self.best_map()
        rows = np.argsort(~np.isin(self.classes, list(class_of.values())), kind="stable")
        place = {label: place for place, label in enumerate(self.classes[rows].tolist())}
        last = len(rows)
        order = [place[class_of[k]] if k in class_of else last + (k == -1) for k in self.clusters.tolist()]
        columns = np.argsort(order, kind="stable")
        return Contingency(self.table[rows][:, columns], self.classes[rows], self.clusters[columns], self.n_unlabelled)

    def paired(self, noise: Noise) -> Table:
        """The table of scores that know no errors: rows in no cluster dropped, or as one more cluster."""
        if noise not in ("drop", "cluster"):
            raise ValueError(f"noise={noise!r} is neither 'drop' nor 'cluster'")
        return self.table if noise == "cluster" else self.without_noise().table

    def right(self, mapping: dict[int, int]) -> Table:
        """(n_classes,) rows of each class that `mapping`, cluster -> class, puts there."""
        row_of = {label: row for row, label in enumerate(self.classes.tolist())}
        right = np.zeros(len(self.classes), dtype=np.int64)
        for column, cluster in enumerate(self.clusters.tolist()):
            row = row_of.get(mapping[cluster]) if cluster in mapping else None
            if row is not None:
                right[row] += self.table[row, column]
        return right

    def share_right(self, mapping: dict[int, int]) -> float:
        """Share of all rows in the table that `mapping`, cluster -> class, makes right."""
        return float(self.right(mapping).sum() / self.table.sum())

    def best_map(self) -> dict[int, int]:
        """The one-to-one map of clusters to classes that makes most rows right (Hungarian method)."""
        counts = self.without_noise()
        rows, columns = linear_sum_assignment(counts.table, maximize=True)
        return dict(sorted(zip(counts.clusters[columns].tolist(), counts.classes[rows].tolist(), strict=True)))

    def majority_map(self) -> dict[int, int]:
        """Each cluster's most frequent class, the lowest id among equals."""
        counts = self.without_noise()
        rows = counts.table.argmax(0) if counts.table.size else np.zeros(0, dtype=np.int64)
        return dict(zip(counts.clusters.tolist(), counts.classes[rows].tolist(), strict=True))


def contingency(labels_true: Any, labels_pred: Any, *, group: Group | None = None) -> Contingency:
    """Count the rows of each class in each cluster; rows of class -1 are left out.

    Args:
        labels_true, labels_pred: (N,) integers, tensors on any device, arrays or lists.
    Raises:
        ValueError: different lengths, labels that are no integers, no row with a class; on every rank alike.

    >>> contingency([0, 0, 1, -1], [5, 5, 7, 7]).table.tolist()
    [[2, 0], [0, 1]]
    """
    (truth, pred), n_rows = integers([labels_true, labels_pred], group)
    known = truth != -1
    n_known = int(sum_over_ranks(known.sum(), group))
    if n_known == 0:
        raise ValueError(f"none of {n_rows} rows has a class")
    classes, of_class = places(truth[known], group)
    clusters, of_cluster = places(pred[known], group)
    counts = torch.bincount(of_class * len(clusters) + of_cluster, minlength=len(classes) * len(clusters))
    table = sum_over_ranks(counts, group).view(len(classes), len(clusters))
    return Contingency(table.cpu().numpy(), classes.cpu().numpy(), clusters.cpu().numpy(), n_rows - n_known)


def places(ids: Tensor, group: Group | None) -> tuple[Tensor, Tensor]:
    """Sorted distinct ids of all ranks, and (n,) the place of each own id among them. Collective."""
    own, place = _distinct(ids)
    sizes = gather(own.new_tensor([len(own)]), group)[:, 0].tolist()
    padded = own.new_zeros(max(1, *sizes))
    padded[: len(own)] = own
    blocks = gather(padded, group)
    everywhere = torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)]).unique()
    return everywhere, torch.searchsorted(everywhere, own)[place]


def integers(labels: list[Any], group: Group | None) -> tuple[list[Tensor], int]:
    """Several labels of the same rows as (n,) int64 tensors, and N. What is wrong on one rank is raised on all."""
    with refused_together(group):
        values = [_integers(one) for one in labels]
        if len({len(one) for one in values}) > 1:
            raise ValueError(f"{len(values[0])} true labels against {len(values[1])} predicted ones")
    device = next((one.device for one in values if one.is_cuda), torch.device(home(group)))
    values = [one.to(device) for one in values]
    return values, int(gather(values[0].new_tensor([len(values[0])]), group).sum())


def _integers(labels: Any) -> Tensor:
    values = torch.as_tensor(labels if isinstance(labels, Tensor) else np.array(labels)).detach()
    whole = not (values.is_floating_point() or values.is_complex()) or values.shape == (0,)  # [] has no integers
    if values.ndim != 1 or not whole:
        raise ValueError(f"labels must be (N,) integers, not {values.dtype} of shape {tuple(values.shape)}")
    return values.long()


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct ids, and the place of each id among them."""
    if len(ids) == 0:
        return ids, ids
    low, high = (int(end) for end in ids.aminmax())
    if high - low > 4 * len(ids):
        return ids.unique(return_inverse=True)
    # counting takes a tenth of the time of sorting
    used = torch.bincount(ids - low) > 0
    return used.nonzero()[:, 0] + low, (used.cumsum(0) - 1)[ids - low]
