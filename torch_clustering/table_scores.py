"""Scores of one table of counts, rows of the data in class c and cluster k. All in float64 and in nats.

A table is (n_classes, n_clusters) int64 without empty rows and columns. Limit cases are scikit-learn's.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]
Average = Literal["arithmetic", "geometric", "max", "min"]

MEANS: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: math.sqrt(a * b),
    "max": max,
    "min": min,
}
TAIL = 100.0  # twice the exponent of the mass left out of an expectation: e^-50


def mean_of(average: str) -> Callable[[float, float], float]:
    """The mean of two entropies that `average` names; ValueError with the choices for another name."""
    if average not in MEANS:
        raise ValueError(f"average={average!r} is none of {', '.join(MEANS)}")
    return MEANS[average]


def entropies(table: Table) -> tuple[float, float]:
    """Entropy of the classes and of the clusters."""
    return _entropy(table.sum(1)), _entropy(table.sum(0))


def mutual_info(table: Table) -> float:
    """Mutual information of classes and clusters, >= 0."""
    joint = table / max(table.sum(), 1)
    filled = joint > 0
    independent = np.outer(joint.sum(1), joint.sum(0))[filled]
    return max(float((joint[filled] * np.log(joint[filled] / independent)).sum()), 0.0)


def nmi(table: Table, average: str) -> float:
    """Mutual information over a mean of both entropies, in [0, 1]; 1 when both are 0."""
    of_classes, of_clusters = entropies(table)
    mean = mean_of(average)(of_classes, of_clusters)
    if of_classes == of_clusters == 0:
        return 1.0
    return min(mutual_info(table) / mean, 1.0) if mean > 0 else 0.0


def ami(table: Table, average: str) -> float:
    """Mutual information above its expectation, over the mean entropy above it; 0 by chance, at most 1."""
    mean = mean_of(average)(*entropies(table))
    if min(table.shape) <= 1:
        return float(table.shape[0] == table.shape[1])
    expected = expected_mutual_info(table.sum(1), table.sum(0))
    above, most = mutual_info(table) - expected, mean - expected
    return above / most if most > 1e-12 else 1.0  # no information is left that chance does not give


def expected_mutual_info(class_sizes: Table, cluster_sizes: Table) -> float:
    """Mean mutual information of random tables with these sums of rows and columns (Vinh, Epps & Bailey 2010).

    A cell is hypergeometric. Its probabilities follow from the ratios of neighbours and are divided by their sum: no
    factorials, which cancel for many rows. Values beyond Bernstein's bound of 1e-21 are left out, and equal sizes
    share their work, so that a table of 1000 x 1000 takes about a second at most.
    """
    total = int(class_sizes.sum())
    (rows, n_rows), (columns, n_columns) = (
        np.unique(sizes, return_counts=True) for sizes in (class_sizes, cluster_sizes)
    )
    if len(rows) > len(columns):
        rows, n_rows, columns, n_columns = columns, n_columns, rows, n_rows
    return sum(
        int(count) * float(n_columns @ _expected_cells(int(row), columns, total))
        for row, count in zip(rows, n_rows, strict=True)
    )


def homogeneity(table: Table) -> float:
    """Share of the classes' entropy that the clusters explain, in [0, 1]: 1 when each cluster holds one class."""
    entropy = entropies(table)[0]
    return min(mutual_info(table) / entropy, 1.0) if entropy > 0 else 1.0


def completeness(table: Table) -> float:
    """Share of the clusters' entropy that the classes explain, in [0, 1]: 1 when no class is spread over clusters."""
    return homogeneity(table.T)


def ari(table: Table) -> float:
    """Rand index corrected for chance, in [-0.5, 1]."""
    together, of_class, of_cluster = _pairs(table), _pairs(table.sum(1)), _pairs(table.sum(0))
    expected = of_class * of_cluster / max(_pairs(table.sum()), 1.0)
    most = (of_class + of_cluster) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def fmi(table: Table) -> float:
    """Geometric mean of precision and recall of pairs put together, in [0, 1]."""
    together, of_class, of_cluster = _pairs(table), _pairs(table.sum(1)), _pairs(table.sum(0))
    return math.sqrt(together / of_class) * math.sqrt(together / of_cluster) if together else 0.0


def _entropy(sizes: Table) -> float:
    shares = sizes[sizes > 0] / max(sizes.sum(), 1)
    return float(abs((shares * np.log(shares)).sum()))


def _pairs(counts: Table) -> float:
    """Number of pairs within groups of these sizes."""
    large = np.asarray(counts, dtype=np.float64)  # products of pairs pass 2^63
    return float((large * (large - 1) / 2).sum())


def _expected_cells(row: int, columns: Table, total: int) -> NDArray[np.float64]:
    """(n_columns,) expected term of the mutual information of the cell of a class of `row` rows with each column."""
    mean = row * columns / total
    above = (TAIL / 3 + np.sqrt((TAIL / 3) ** 2 + 4 * TAIL * mean)) / 2
    first = np.maximum(np.maximum(row + columns - total, 0), np.floor(mean - np.sqrt(TAIL * mean)))[:, None]
    last = np.minimum(np.minimum(row, columns), np.ceil(mean + above))[:, None]
    cell = first + np.arange(int((last - first).max()) + 1)  # (n_columns, width)
    outside = cell > last
    before = np.where(outside, last, cell)[:, 1:] - 1  # any valid cell: what lies outside is taken out below
    in_neither = np.maximum(total - row - columns[:, None] + before + 1, 1)
    ratio = (row - before) * (columns[:, None] - before) / ((before + 1) * in_neither)
    log_mass = np.concatenate([np.zeros_like(first), np.log(ratio).cumsum(1)], 1)
    log_mass[outside] = -np.inf
    mass = np.exp(log_mass - log_mass.max(1, keepdims=True))
    information = cell / total * np.log(np.maximum(cell, 1) * total / (row * columns[:, None]))
    return np.asarray((mass * information).sum(1) / mass.sum(1))
