"""GCC's contrast of images in a graph, and the graph's weights (Zhong et al., ICCV 2021), in slow float64 loops."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles.moco_loop import unit_rows

Array = NDArray[np.float64]


def graph_contrast_loop(
    first: Array, second: Array, neighbors: list[Array], weights: Array, temperature: float, variant: str
) -> float:
    """The mean over images i of -log of positives over a sum that `variant` says.

    first, second: (N, D) two views of any length. neighbors: m of (N, D), row i of each a neighbour of image i, its
    weight in weights (N, m). Without neighbours the sum is over all rows of both views, the positive one included, but
    for the row itself ("ref": with it). With neighbours it leaves out the own second view and the own neighbours
    ("prob": adds the positives), and the row itself ("ref": does not).
    """
    n_images, kinds = len(first), [unit_rows(rows) for rows in (first, second, *neighbors)]
    total = 0.0
    for i in range(n_images):
        positives = others = 0.0
        for kind, rows in enumerate(kinds):
            for j in range(n_images):
                length = weights[j, kind - 2] if kind >= 2 and variant == "ref" else 1.0
                near = math.exp(length * sum(a * b for a, b in zip(kinds[0][i], rows[j], strict=True)) / temperature)
                if i != j or (kind == 0 and variant == "ref"):
                    others += near
                if i == j and kind > 0:
                    positives += near * (weights[i, kind - 2] if kind >= 2 else 1.0)
        below = others + positives if variant == "prob" or not neighbors else others
        total += math.log(below) - math.log(positives)
    return total / n_images


def degrees_loop(neighbors: list[list[int]]) -> list[int]:
    """How many rows are a neighbour of each row, or have it as theirs, each counted once."""
    met: list[set[int]] = [set() for _ in neighbors]
    for row, others in enumerate(neighbors):
        for other in others:
            met[row].add(other)
            met[other].add(row)
    return [len(rows) for rows in met]
