"""The cluster side of contrastive clustering (Li et al., AAAI 2021) in slow float64 loops over clusters and rows."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cluster_contrast_loop(first: Array, second: Array, temperature: float) -> float:
    """The mean over the 2K clusters of -log of the share that a cluster's column in the other view has.

    The share is among the columns of both views but the cluster's own, by e^(cos / t). first, second: (N, K)
    probabilities; a column's length counts as 1e-8 at least.
    """
    n_rows, n_clusters = first.shape
    columns = [first[:, k] for k in range(n_clusters)] + [second[:, k] for k in range(n_clusters)]
    lengths = []
    for column in columns:
        lengths.append(max(math.sqrt(sum(float(x) ** 2 for x in column)), 1e-8))
    total = 0.0
    for a in range(2 * n_clusters):
        below = positive = 0.0
        for b in range(2 * n_clusters):
            if b == a:
                continue
            product = sum(columns[a][row] * columns[b][row] for row in range(n_rows))
            weight = math.exp(product / (lengths[a] * lengths[b]) / temperature)
            below += weight
            if abs(a - b) == n_clusters:
                positive = weight
        total += math.log(below / positive)
    return total / (2 * n_clusters)


def negative_entropy_loop(first: Array, second: Array) -> float:
    """Over both views, log K + the sum over clusters of share log share; a cluster without any share adds nothing."""
    total = 0.0
    for probabilities in (first, second):
        n_rows, n_clusters = probabilities.shape
        total += math.log(n_clusters)
        for cluster in range(n_clusters):
            share = sum(float(probabilities[row, cluster]) for row in range(n_rows)) / n_rows
            total += share * math.log(share) if share > 0 else 0.0
    return total
