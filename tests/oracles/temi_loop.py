"""TEMI's loss (Adaloglou et al., BMVC 2023) in slow float64 loops over heads, views, rows and clusters."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax_loop(logits: Array, temperature: float) -> Array:
    """Along the last axis."""
    found = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape[:-1]):
        weights = [math.exp(float(x) / temperature) for x in logits[place]]
        found[place] = [weight / sum(weights) for weight in weights]
    return found


def prior_loop(prior: Array, teacher: Array, momentum: float) -> Array:
    """The moving average of each head's cluster shares. teacher: (H, 2, N, K) probabilities; prior: (H, K)."""
    n_heads, n_views, n_rows, n_clusters = teacher.shape
    found = np.zeros_like(prior)
    for head in range(n_heads):
        for k in range(n_clusters):
            share = sum(teacher[head, view, row, k] for view in range(n_views) for row in range(n_rows))
            found[head, k] = momentum * prior[head, k] + (1 - momentum) * share / (n_views * n_rows)
    return found


def agreement_loop(teacher: Array) -> list[float]:
    """Of each row the chance that all heads' teachers, taken in turn, give both views one cluster."""
    n_heads, _, n_rows, n_clusters = teacher.shape
    found = []
    for row in range(n_rows):
        total = 0.0
        for head in range(n_heads):
            for k in range(n_clusters):
                total += teacher[head, 0, row, k] * teacher[head, 1, row, k]
        found.append(total / n_heads)
    return found


def temi_loop(student: Array, teacher: Array, prior: Array, beta: float) -> list[float]:
    """The loss of each head. student, teacher: (H, 2, N, K) probabilities; prior: (H, K), after its update."""
    n_heads, _, n_rows, n_clusters = student.shape
    weights = agreement_loop(teacher)
    losses = []
    for head in range(n_heads):
        total = 0.0
        for view in (0, 1):
            for row in range(n_rows):
                inside = 0.0
                for k in range(n_clusters):
                    both = student[head, view, row, k] * teacher[head, 1 - view, row, k]
                    inside += both**beta / prior[head, k]
                total -= weights[row] * math.log(inside)
        losses.append(total / (2 * n_rows))
    return losses
