"""InfoNCE with a queue (He et al., CVPR 2020) and the writing of that queue in slow float64 loops over rows."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit_rows(rows: Array) -> Array:
    """Each row over its length, which counts as 1e-12 at least."""
    found = np.empty_like(rows)
    for row in range(len(rows)):
        length = math.sqrt(sum(x * x for x in rows[row]))
        found[row] = rows[row] / max(length, 1e-12)
    return found


def info_nce_loop(queries: Array, keys: Array, queue: Array, temperature: float) -> float:
    """The mean over rows of -log of the share of the own key among it and all rows of the queue, by e^(cos / t).

    queries, keys: (B, D) of any length. queue: (Q, D), all of it written and normalised.
    """
    queries, keys = unit_rows(queries), unit_rows(keys)
    total = 0.0
    for row in range(len(queries)):
        positive = sum(a * b for a, b in zip(queries[row], keys[row], strict=True)) / temperature
        below = math.exp(positive)
        for past in queue:
            below += math.exp(sum(a * b for a, b in zip(queries[row], past, strict=True)) / temperature)
        total += math.log(below) - positive
    return total / len(queries)


def queue_loop(queue: Array, pointer: int, keys: Array) -> tuple[Array, int]:
    """The queue and the place of its oldest row after `keys` (B, D) were written one by one, each normalised."""
    queue = queue.copy()
    for key in unit_rows(keys):
        queue[pointer] = key
        pointer = (pointer + 1) % len(queue)
    return queue, pointer
