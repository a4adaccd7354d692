"""What KMeans makes of raw pixels and of their principal components: the numbers that learnt features have to beat."""

import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from torch import Tensor

from torch_clustering import KMeans
from training.build import Run
from utils import distributed
from utils.draws import derived_seed

FEW_INIT, MANY_INIT = 10, 3  # restarts: of few rows an unlucky start is the likelier, and costs nothing to mend
LARGEST_SIDE = 32
N_COMPONENTS = 50
MANY_ROWS, MANY_PIXELS = 20_000, 512  # beyond both: principal components
CHUNK_ROWS = 2_048
STRIPS = 8


def cluster_pixels(run: Run, n_clusters: int) -> list[tuple[Tensor, str]]:
    """KMeans on pixels and on their 50 principal components: of each (N,) labels of all rows and the features in words.

    A row is a vector of D = channels x height x width numbers, normalised as the network sees them; images larger than
    32 x 32 are averaged down to that. Components are not whitened. D <= 50 has no row of components, which would be the
    pixels turned; more than 20,000 rows of D > 512 have no row of pixels: components take a D x D covariance instead of
    all pixels in memory. Equal on every rank. Collective.
    """
    rows = run.store.shard(distributed.rank(), distributed.world())
    channels, height, width = run.views.output_shape
    features = "edges" if run.views.config.sobel else "pixels"
    if max(height, width) > LARGEST_SIDE:
        height = width = LARGEST_SIDE
        features += f" at {LARGEST_SIDE}x{LARGEST_SIDE}"
    n_pixels = channels * height * width
    found = []
    if run.source.n_rows <= MANY_ROWS or n_pixels <= MANY_PIXELS:
        points = torch.cat([pixel_rows(run, part) for part in rows.split(CHUNK_ROWS)])  # (n, D)
        found.append(_cluster(run, points, n_clusters, features))
    if n_pixels > N_COMPONENTS:
        basis = principal_components(run, rows, n_pixels)
        points = torch.cat([pixel_rows(run, part) @ basis for part in rows.split(CHUNK_ROWS)])  # (n, 50)
        found.append(_cluster(run, points, n_clusters, f"{features}, PCA-{N_COMPONENTS}"))
    return found


def _cluster(run: Run, points: Tensor, n_clusters: int, features: str) -> tuple[Tensor, str]:
    """(N,) labels, and the features with the number of restarts. Collective."""
    n_init = MANY_INIT if run.source.n_rows > MANY_ROWS else FEW_INIT
    seed = derived_seed(run.settings.run.seed, "pixel baseline")
    kmeans = KMeans(n_clusters, n_init=n_init, random_state=seed, group=distributed.everyone()).fit(points)
    return distributed.gather_rows(kmeans.labels_), f"{features}, {n_init} starts"


def pixel_rows(run: Run, rows: Tensor) -> Tensor:
    """(B, D) float32 on the device: the normalised pixels of rows (B,), large images averaged down."""
    images = run.views.clean(run.store.images(rows)).float()  # (B, C, H, W)
    if max(images.shape[-2:]) > LARGEST_SIDE:
        images = F.interpolate(images, (LARGEST_SIDE, LARGEST_SIDE), mode="area")
    return images.flatten(1)


def principal_components(run: Run, rows: Tensor, width: int) -> Tensor:
    """(D, 50) leading eigenvectors, in ascending order, of the covariance of all ranks' pixel rows. Collective.

    Exact up to float32 products: the whole D x D matrix, summed over chunks and ranks in float64. width: D.
    """
    gram = torch.zeros(width, width, dtype=torch.float64, device=run.device)
    total = torch.zeros(width, dtype=torch.float64, device=run.device)
    strip = -(-width // STRIPS)
    for part in rows.split(CHUNK_ROWS):
        pixels = pixel_rows(run, part)  # (B, D)
        total += pixels.sum(0, dtype=torch.float64)
        for first in range(0, width, strip):  # only what lies above the diagonal: nearly half the products
            gram[first : first + strip, first:] += pixels[:, first : first + strip].T @ pixels[:, first:]
    distributed.reduce_sum_(gram)
    mean = distributed.reduce_sum_(total) / run.source.n_rows
    basis = None
    if distributed.is_main():  # one decomposition for all: other machines may choose other signs
        covariance = (gram.triu() + gram.triu(1).T) / run.source.n_rows - torch.outer(mean, mean)
        leading = [width - N_COMPONENTS, width - 1]  # SciPy finds some eigenvectors alone, four times faster than all
        basis = torch.from_numpy(eigh(covariance.float().cpu().numpy(), subset_by_index=leading)[1])
    basis = distributed.broadcast_object(basis)
    assert basis is not None
    return basis.to(run.device)
