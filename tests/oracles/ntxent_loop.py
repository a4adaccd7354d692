"""NT-Xent (Chen et al., ICML 2020) in slow float64 loops over pairs of rows."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(first: Array, second: Array) -> float:
    """Cosine of two vectors; a length counts as 1e-12 at least."""
    product = below_first = below_second = 0.0
    for x, y in zip(first, second, strict=True):
        product += x * y
        below_first += x * x
        below_second += y * y
    return product / (max(math.sqrt(below_first), 1e-12) * max(math.sqrt(below_second), 1e-12))


def anchor_loop(rows: Array, anchor: int, temperature: float) -> float:
    """-log of the share that the other view of `anchor` has among all rows but `anchor` itself, by e^(cos / t).

    rows: (2N, D), row i and row i + N are the two views of one image.
    """
    n_images = len(rows) // 2
    positive = cosine(rows[anchor], rows[(anchor + n_images) % (2 * n_images)]) / temperature
    below = 0.0
    for other in range(len(rows)):
        if other != anchor:
            below += math.exp(cosine(rows[anchor], rows[other]) / temperature)
    return math.log(below) - positive


def nt_xent_loop(first: Array, second: Array, temperature: float, anchors: list[int] | None = None) -> float:
    """The mean over `anchors`, rows of [first; second] (all by default). first, second: (N, D), any length."""
    rows = np.concatenate([first, second])
    chosen = list(range(len(rows))) if anchors is None else anchors
    return sum(anchor_loop(rows, anchor, temperature) for anchor in chosen) / len(chosen)
