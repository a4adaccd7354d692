"""Prototype scattering (Huang et al., TPAMI 2022) in slow float64 loops over rows and clusters."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def one_hot(labels: list[int], n_clusters: int) -> Array:
    """(rows, K) memberships of hard labels; a row labelled -1 belongs nowhere."""
    memberships = np.zeros((len(labels), n_clusters))
    for row, label in enumerate(labels):
        if label >= 0:
            memberships[row, label] = 1.0
    return memberships


def unit(vector: Array) -> Array:
    """The vector over its length, which counts as 1e-12 at least."""
    return vector / max(math.sqrt(sum(x * x for x in vector)), 1e-12)


def prototypes_loop(rows: Array, memberships: Array, past: Array | None, past_memberships: Array | None) -> Array:
    """(K, D) unit prototypes: the membership-weighted sum of the unit rows of batch and queue, normalised."""
    sums = np.zeros((memberships.shape[1], rows.shape[1]))
    for features, weights in ((rows, memberships), (past, past_memberships)):
        if features is None or weights is None:
            continue
        for row in range(len(features)):
            for cluster in range(len(sums)):
                sums[cluster] += weights[row, cluster] * unit(features[row])
    return np.stack([unit(total) for total in sums])


def prototype_scattering_loop(
    online: Array,
    target: Array,
    memberships: Array,
    temperature: float,
    queue: Array | None = None,
    queue_memberships: Array | None = None,
) -> float:
    """One direction of the loss: the mean over present clusters c of -a_cc + log(e^{a_cc} + sum over others e^{b_cd}).

    a_cc = online prototype . target prototype / temperature, b_cd = online . online / temperature. The sum runs over
    the other *present* clusters: those whose total membership, batch and queue, exceeds 0.5.

    online, target: (N, D) projections, any length. memberships: (N, K), one-hot or soft. queue: (Q, D) past target
    rows, queue_memberships (Q, K); they join the prototypes of both sides.
    """
    mass = memberships.sum(0) + (0 if queue_memberships is None else queue_memberships.sum(0))
    present = [cluster for cluster in range(memberships.shape[1]) if mass[cluster] > 0.5]
    prototypes = prototypes_loop(online, memberships, queue, queue_memberships)
    targets = prototypes_loop(target, memberships, queue, queue_memberships)
    total = 0.0
    for cluster in present:
        positive = float(prototypes[cluster] @ targets[cluster]) / temperature
        below = math.exp(positive)
        for other in present:
            if other != cluster:
                below += math.exp(float(prototypes[cluster] @ prototypes[other]) / temperature)
        total += math.log(below) - positive
    return total / len(present)
