"""Where the rows lie on the page's map: t-SNE of the sample, the other rows beside their nearest in it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.progress import Progress
from torch_clustering import nearest_neighbors

TINY = 100  # rows; of fewer t-SNE makes no neighbourhoods
PERPLEXITY = 30
EXAGGERATED, SETTLING, TOLD_EVERY = 125, 250, 25  # iterations; more of them changed little
MANY = 5_000  # rows from which interpolation is faster than the tree
ANCHORS = 3  # nearest of the sample that a row outside it is placed by


def lay_out(features: Tensor, seed: int) -> tuple[NDArray[np.float64], str]:
    """(M, 2) places of the sample's rows, and how they were found: "t-SNE", or "PCA" with the reason.

    features: (M, D) at length 1, on the CPU.
    """
    flat = principal_plane(features)
    if len(features) < TINY:
        return flat, f"PCA (t-SNE needs {TINY} images)"
    try:
        import openTSNE
    except ImportError:
        return flat, "PCA (for t-SNE: pip install openTSNE)"
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.initialization import rescale
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    perplexity = min(PERPLEXITY, (len(features) - 1) // 3)
    apart, rows = nearest_neighbors(features, 3 * perplexity)
    known = PrecomputedNeighbors(rows.numpy(), apart.double().numpy())
    affinities = PerplexityBasedNN(knn_index=known, perplexity=perplexity, n_jobs=1)
    progress = Progress("map, t-SNE iterations", EXAGGERATED + SETTLING)

    def tell(iteration: int, error: float, embedding: object) -> None:
        progress.add(TOLD_EVERY)

    # the library would spread equal starts apart by global chance: it is done here, by the run's seed
    start = rescale(flat + np.random.default_rng(seed).normal(0, 1e-4 * flat.std() + 1e-12, flat.shape))
    places = openTSNE.TSNEEmbedding(
        start,
        affinities,
        negative_gradient_method="fft" if len(features) > MANY else "bh",
        n_jobs=1,
        callbacks=tell,
        callbacks_every_iters=TOLD_EVERY,
    )
    places.optimize(EXAGGERATED, exaggeration=12, momentum=0.8, inplace=True)
    places.optimize(SETTLING, momentum=0.8, inplace=True)
    return np.asarray(places), "t-SNE"


def principal_plane(features: Tensor) -> NDArray[np.float64]:
    """(M, 2) the rows on their first two principal axes; zeros where there are not as many."""
    centred = features.double() - features.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # an eigenvector's sign is anyone's
    flat = centred @ axes
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1])).numpy()


def place_all(
    places: NDArray[np.float64], shown: Tensor, sample: Tensor, neighbors: Tensor, seed: int
) -> NDArray[np.uint16]:
    """(S, 2) uint16, one scale for both axes, of all shown rows.

    Rows of the sample lie at their own `places` (M, 2); each other at the middle (median) of its three nearest in the
    sample, `neighbors` (S, k), and a little aside by chance, so that it covers none of them.
    """
    everyone = np.empty((len(shown), 2))
    inside = torch.isin(shown, sample, assume_unique=True).numpy()
    everyone[inside] = places
    if not inside.all():
        near = neighbors[torch.from_numpy(~inside), :ANCHORS].numpy()
        spread = np.linalg.norm(places[neighbors[torch.from_numpy(inside), 0].numpy()] - places, axis=1)
        aside = np.random.default_rng(seed).normal(0, 0.8 * np.median(spread), (len(near), 2))
        everyone[~inside] = np.median(places[near], axis=1) + aside
    low, high = everyone.min(0), everyone.max(0)
    scale = 65535 / max(float((high - low).max()), 1e-12)
    return ((everyone - (low + high) / 2) * scale + 32767.5).round().clip(0, 65535).astype(np.uint16)
