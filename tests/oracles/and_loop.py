"""AND's loss, entropies, neighbours and memory bank (Huang et al., ICML 2019) in slow float64 loops over rows."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles.moco_loop import unit_rows

Array = NDArray[np.float64]


def shares_loop(feature: Array, bank: Array, temperature: float) -> list[float]:
    """The probability of each entry of the bank, by e^(product / t)."""
    powers = [math.exp(sum(a * b for a, b in zip(feature, entry, strict=True)) / temperature) for entry in bank]
    total = sum(powers)
    return [power / total for power in powers]


def neighborhood_loop(
    features: Array, bank: Array, neighborhoods: list[list[int]], temperature: float
) -> tuple[float, Array]:
    """The mean over rows of -log of their neighbourhood's share, and its gradient with respect to `features` (B, D).

    neighborhoods: of each row, the places in the bank, the own one among them.
    """
    loss, gradient = 0.0, np.zeros_like(features)
    for row, feature in enumerate(features):
        shares = shares_loop(feature, bank, temperature)
        inside = sum(shares[place] for place in neighborhoods[row])
        loss -= math.log(inside) / len(features)
        for place, entry in enumerate(bank):
            wanted = shares[place] / inside if place in neighborhoods[row] else 0.0
            gradient[row] += (shares[place] - wanted) * entry / temperature / len(features)
    return loss, gradient


def entropies_loop(features: Array, temperature: float) -> list[float]:
    """Of each row, the entropy of its shares among all rows, itself one of them."""
    rows = unit_rows(features)
    found = []
    for row in rows:
        found.append(-sum(share * math.log(share) for share in shares_loop(row, rows, temperature) if share > 0))
    return found


def neighborhoods_loop(
    features: Array, temperature: float, n_anchors: int, n_neighbors: int
) -> tuple[list[int], dict[int, list[int]]]:
    """The anchors, ascending, and the rows nearest to each of them, nearest first; ties to the lowest row."""
    rows, numbers = unit_rows(features), range(len(features))
    entropies = entropies_loop(features, temperature)
    anchors = sorted(sorted(numbers, key=lambda row: entropies[row])[:n_anchors])
    nearest = {}
    for anchor in anchors:
        apart = {row: -sum(a * b for a, b in zip(rows[anchor], rows[row], strict=True)) for row in numbers}
        nearest[anchor] = sorted((row for row in numbers if row != anchor), key=lambda row: apart[row])[:n_neighbors]
    return anchors, nearest


def bank_loop(bank: Array, rows: list[int], features: Array, momentum: float) -> Array:
    """The bank after the features of `rows`, each normalised, were mixed into their entries."""
    bank = bank.copy()
    for row, feature in zip(rows, unit_rows(features), strict=True):
        bank[row] = unit_rows((momentum * bank[row] + (1 - momentum) * feature)[None])[0]
    return bank
