"""PCL's concentrations and three forms of its prototype loss (Li et al., ICLR 2021) in slow float64 loops."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles.moco_loop import unit_rows

Array = NDArray[np.float64]


def means_loop(features: Array, labels: list[int], n_clusters: int) -> Array:
    """(K, D) mean of the rows of each cluster."""
    centers = np.zeros((n_clusters, features.shape[1]))
    for cluster in range(n_clusters):
        own = [features[row] for row, label in enumerate(labels) if label == cluster]
        for row in own:
            centers[cluster] += row / len(own)
    return centers


def extents_loop(features: Array, labels: list[int], centers: Array) -> list[float]:
    """Distances to the centre over n log(n + 10), cluster by cluster; the largest one for a cluster of one row."""
    extents: list[float | None] = []
    for cluster in range(len(centers)):
        distances = [math.dist(features[row], centers[cluster]) for row, label in enumerate(labels) if label == cluster]
        size = len(distances)
        extents.append(sum(distances) / (size * math.log(size + 10)) if size > 1 else None)
    largest = max(extent for extent in extents if extent is not None)
    return [largest if extent is None else extent for extent in extents]


def percentile_loop(values: list[float], percent: float) -> float:
    """On the line between the two neighbours in order of size."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def concentrations_loop(features: Array, labels: list[int], centers: Array, temperature: float) -> Array:
    """(K,) extents, clipped to their percentiles 10 and 90, scaled to the mean `temperature`."""
    extents = extents_loop(features, labels, centers)
    low, high = percentile_loop(extents, 10), percentile_loop(extents, 90)
    clipped = [min(max(extent, low), high) for extent in extents]
    mean = sum(clipped) / len(clipped)
    return np.array([temperature * extent / mean for extent in clipped])


def prototype_loop(
    queries: Array, labels: list[int], prototypes: Array, density: Array, form: str = "all", drawn: tuple[int, ...] = ()
) -> float:
    """The mean over rows of -log of the own prototype's share among the candidates, by e^(cos / density).

    form: "all" prototypes; "official": those of every row of the batch, repeats and all, and the drawn ones;
    "propos": the own one and the drawn ones.
    """
    total = 0.0
    for row, query in enumerate(unit_rows(queries)):
        score = [
            sum(a * b for a, b in zip(query, c, strict=True)) / d for c, d in zip(prototypes, density, strict=True)
        ]
        others = {
            "all": [cluster for cluster in range(len(prototypes)) if cluster != labels[row]],
            "official": [label for other, label in enumerate(labels) if other != row] + list(drawn),
            "propos": list(drawn),
        }[form]
        positive = score[labels[row]]
        total += math.log(math.exp(positive) + sum(math.exp(score[other]) for other in others)) - positive
    return total / len(queries)
