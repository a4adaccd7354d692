"""BYOL's alignment (Grill et al., NeurIPS 2020) and the target's update in slow float64 loops over rows."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def byol_loop(predictions: Array, projections: Array) -> float:
    """One direction: the mean over rows of 2 - 2 cos(prediction, projection); 0 when they agree, 4 when opposed.

    predictions, projections: (N, D), any length; a length counts as 1e-12 at least.
    """
    total = 0.0
    for row in range(len(predictions)):
        product = first = second = 0.0
        for column in range(predictions.shape[1]):
            product += predictions[row, column] * projections[row, column]
            first += predictions[row, column] ** 2
            second += projections[row, column] ** 2
        total += 2 - 2 * product / (max(math.sqrt(first), 1e-12) * max(math.sqrt(second), 1e-12))
    return total / len(predictions)


def symmetric_byol_loop(predictions: list[Array], projections: list[Array]) -> float:
    """The mean of both directions: each view's predictions against the other view's target projections."""
    first, second = predictions
    target_first, target_second = projections
    return (byol_loop(first, target_second) + byol_loop(second, target_first)) / 2


def ema_loop(target: Array, online: Array, momentum: float) -> Array:
    """The target after one update: momentum * target + (1 - momentum) * online, number by number."""
    updated = np.empty_like(target)
    for place in np.ndindex(target.shape):
        updated[place] = momentum * target[place] + (1 - momentum) * online[place]
    return updated
