"""PICA's loss (Huang et al., CVPR 2020) in slow float64 loops over clusters and rows."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def similarities_loop(originals: Array, changed: list[Array]) -> list[list[float]]:
    """Cosine of each cluster's column in the originals with each cluster's column in the changed images.

    originals: (N, K) probabilities, repeated above one another once for each of `changed`, (N, K) too. A column's
    length counts as 1e-12 at least.
    """
    first, second = np.concatenate([originals] * len(changed)), np.concatenate(changed)
    table = []
    for k in range(first.shape[1]):
        line = []
        for other in range(first.shape[1]):
            product = below_first = below_second = 0.0
            for row in range(len(first)):
                product += first[row, k] * second[row, other]
                below_first += first[row, k] ** 2
                below_second += second[row, other] ** 2
            line.append(product / (max(math.sqrt(below_first), 1e-12) * max(math.sqrt(below_second), 1e-12)))
        table.append(line)
    return table


def confidence_loop(originals: Array, changed: list[Array]) -> float:
    """The mean over clusters of -log of the share of the own column among the changed images', by e^cos."""
    table = similarities_loop(originals, changed)
    total = 0.0
    for k, line in enumerate(table):
        total += math.log(sum(math.exp(cosine) for cosine in line)) - line[k]
    return total / len(table)


def balance_loop(originals: Array) -> float:
    """log K + the sum over clusters of share log share; a cluster without any share adds nothing."""
    n_rows, n_clusters = originals.shape
    total = math.log(n_clusters)
    for cluster in range(n_clusters):
        share = sum(float(originals[row, cluster]) for row in range(n_rows)) / n_rows
        total += share * math.log(share) if share > 0 else 0.0
    return total
