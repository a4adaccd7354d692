"""SCAN (Van Gansbeke et al., ECCV 2020) in slow float64 loops over rows and clusters: its losses, its pretext task."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax_rows(logits: Array) -> Array:
    """Each row's exponentials over their sum."""
    rows = []
    for row in logits:
        weights = [math.exp(float(x) - float(row.max())) for x in row]
        rows.append([weight / sum(weights) for weight in weights])
    return np.array(rows)


def consistency_loop(probabilities: Array, pairs: list[tuple[int, int]], others: Array) -> float:
    """Mean over pairs (i, j) of -log of the chance that row i of the first and row j of `others` fall together."""
    total = 0.0
    for i, j in pairs:
        total -= math.log(sum(float(p) * float(q) for p, q in zip(probabilities[i], others[j], strict=True)))
    return total / len(pairs)


def entropy_loop(probabilities: Array) -> float:
    """Entropy of the mean row; a share counts as 1e-8 at least."""
    total = 0.0
    for cluster in range(probabilities.shape[1]):
        share = max(sum(float(p) for p in probabilities[:, cluster]) / len(probabilities), 1e-8)
        total -= share * math.log(share)
    return total


def scan_loop(logits: Array, neighbor_logits: Array, entropy_weight: float) -> tuple[float, float, float]:
    """Loss, consistency, entropy: row i of `neighbor_logits` is the neighbour of row i."""
    p, q = softmax_rows(logits), softmax_rows(neighbor_logits)
    consistency, entropy = consistency_loop(p, [(i, i) for i in range(len(p))], q), entropy_loop(p)
    return consistency - entropy_weight * entropy, consistency, entropy


def nearest_loop(features: Array, k: int, include_self: bool) -> list[list[int]]:
    """The k rows of largest cosine to each row, the row itself before them or left out; ties to the lowest row."""
    lists = []
    for i, row in enumerate(features):
        cosines = []
        for j, other in enumerate(features):
            lengths = math.sqrt(float(row @ row)) * math.sqrt(float(other @ other))
            cosines.append((-float(row @ other) / lengths, j))
        found = [j for _, j in sorted(cosines) if j != i][:k]
        lists.append([i, *found] if include_self else found)
    return lists


def one_directional_simclr_loop(first: Array, second: Array, temperature: float) -> float:
    """Mean over the rows of the first view of -log of the share of their own row in the second view.

    The share is by e^(cos / temperature), among all rows of both views but the row itself.
    """
    rows = [row / math.sqrt(float(row @ row)) for row in np.concatenate([first, second])]
    n_rows, total = len(first), 0.0
    for i in range(n_rows):
        weights = {j: math.exp(float(rows[i] @ rows[j]) / temperature) for j in range(2 * n_rows) if j != i}
        total -= math.log(weights[n_rows + i] / sum(weights.values()))
    return total / n_rows
