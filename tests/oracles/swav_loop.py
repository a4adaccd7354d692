"""SwAV's codes and loss (Caron et al., NeurIPS 2020) in slow float64 loops, the codes by exponentials as published."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles.moco_loop import unit_rows

Array = NDArray[np.float64]


def sinkhorn_loop(scores: Array, epsilon: float, iterations: int) -> Array:
    """(N, K): e^(scores / epsilon), scaled in turn to prototypes of 1 / K and rows of 1 / N, then rows to 1."""
    n_rows, n_prototypes = scores.shape
    table = [[math.exp(score / epsilon) for score in row] for row in scores]
    total = sum(sum(row) for row in table)
    table = [[value / total for value in row] for row in table]
    for _ in range(iterations):
        for prototype in range(n_prototypes):
            mass = sum(row[prototype] for row in table)
            for row in table:
                row[prototype] /= n_prototypes * mass
        for row in table:
            mass = sum(row)
            for prototype in range(n_prototypes):
                row[prototype] /= n_rows * mass
    return n_rows * np.array(table)


def pairs_loop(logits: list[Array], targets: list[Array], temperature: float) -> float:
    """Mean over targets of the mean over other crops of the mean over rows of -sum of target log softmax(logits)."""
    total = 0.0
    for own, target in enumerate(targets):
        for crop, scores in enumerate(logits):
            if crop == own:
                continue
            for row, values in enumerate(scores):
                below = math.log(sum(math.exp(value / temperature) for value in values))
                for target_value, value in zip(target[row], values, strict=True):
                    total -= target_value * (value / temperature - below) / len(scores)
    return total / (len(targets) * (len(logits) - 1))


def swav_loop(
    crops: list[Array],
    prototypes: Array,
    queues: list[Array] | None = None,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> float:
    """The loss of V crops (N, D) of any length; queues: past rows of the first two views, of length 1."""
    scores = [
        np.array([[sum(a * b for a, b in zip(row, c, strict=True)) for c in prototypes] for row in unit_rows(crop)])
        for crop in crops
    ]
    codes = []
    for view in (0, 1):
        past = queues[view] @ prototypes.T if queues else np.zeros((0, len(prototypes)))
        together = np.concatenate([past, scores[view]])
        codes.append(sinkhorn_loop(together, epsilon, iterations)[len(past) :])
    return pairs_loop(scores, codes, temperature)
