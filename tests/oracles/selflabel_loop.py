"""Self-labelling (Van Gansbeke et al., ECCV 2020) in slow float64 loops over rows and clusters."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles.scan_loop import softmax_rows

Array = NDArray[np.float64]


def confident_labels_loop(weak: Array, threshold: float) -> dict[int, int]:
    """The label of each row whose largest probability is above the threshold."""
    chosen = {}
    for row, probabilities in enumerate(softmax_rows(weak)):
        if max(probabilities) > threshold:
            chosen[row] = int(np.argmax(probabilities))
    return chosen


def confident_cross_entropy_loop(weak: Array, strong: Array, threshold: float, balanced: bool) -> float:
    """Mean over chosen rows of -log of the label's probability; balanced: over clusters of their rows' means."""
    chosen, probabilities = confident_labels_loop(weak, threshold), softmax_rows(strong)
    losses: dict[int, list[float]] = {}
    for row, label in chosen.items():
        losses.setdefault(label if balanced else 0, []).append(-math.log(probabilities[row, label]))
    return sum(sum(own) / len(own) for own in losses.values()) / len(losses) if losses else 0.0
