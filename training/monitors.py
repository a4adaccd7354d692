"""Label-free signs of health: spread and rank of the features, sizes and churn of the clusters."""

import math

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.state import ClusterState
from utils import distributed

TINY = 1e-24  # sums of squares below this are rounding


@torch.no_grad()
def feature_health(features: Tensor) -> dict[str, float]:
    """Spread of the L2-normalised rows of all ranks, from D x D statistics alone. Collective.

    features: (B, D). feature_std: mean over columns of the standard deviation, times sqrt(D): about 1, collapsed 0.
    rankme: exp of the entropy of the singular values (Garrido et al. 2023): at most D, collapsed 1. participation:
    (sum of the covariance's eigenvalues)² / sum of their squares: at most D, collapsed 0.
    """
    rows = F.normalize(features.double(), dim=1)
    width = rows.shape[1]
    packed = torch.cat([(rows.T @ rows).flatten(), rows.sum(0), rows.new_tensor([len(rows)])])
    distributed.reduce_sum_(packed)
    gram, total, count = packed[: width * width].view(width, width), packed[width * width : -1], packed[-1]
    covariance = (gram - torch.outer(total, total) / count) / (count - 1)
    variance = covariance.diagonal().clamp_min(0)
    squared = float(covariance.square().sum())  # the sum of the eigenvalues' squares
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum()
    share = share[share > 0]
    return {
        "feature_std": float(variance.sqrt().mean()) * math.sqrt(width),
        "rankme": float(torch.exp(-(share * share.log()).sum())),
        "participation": float(variance.sum()) ** 2 / squared if squared > TINY else 0.0,
    }


@torch.no_grad()
def view_health(features: Tensor) -> dict[str, float]:
    """How near an image's two views lie, and how evenly images fill the sphere (Wang and Isola 2020). Collective.

    features: (B, 2, D), L2-normalised here. view_distance: mean |z1 - z2|², small is good. uniformity: log of the
    mean over pairs of images of exp(-2 |zi - zj|²) of the first views: negative, collapsed 0.
    """
    first, second = F.normalize(features.double(), dim=2).unbind(1)
    apart = (first - second).square().sum(1)
    total, count = distributed.reduce_sum_(torch.stack([apart.sum(), apart.new_tensor(len(apart))]))
    pairs = torch.pdist(distributed.gather_rows(first))
    return {
        "view_distance": float(total / count),
        "uniformity": float(torch.exp(-2 * pairs.square()).mean().log()),
    }


def cluster_health(state: ClusterState, previous: ClusterState | None) -> dict[str, float]:
    """Sizes of the clusters and the share of rows that moved since the previous E-step, after matching the clusters.

    churn is 1 where there is no previous E-step with as many clusters. Equal on every rank.
    """
    assert state.labels is not None and state.centers is not None
    n_clusters = len(state.centers)
    sizes = torch.bincount(state.labels[state.labels >= 0], minlength=n_clusters)
    share = sizes[sizes > 0].double() / sizes.sum()
    health = {
        "largest": float(sizes.max()),
        "smallest": float(sizes.min()),
        "empty": float((sizes == 0).sum()),
        "entropy": float(-(share * share.log()).sum()) / math.log(max(2, n_clusters)),
    }
    if previous is not None and previous.labels is not None and previous.centers is not None:
        both = (state.labels >= 0) & (previous.labels >= 0)
        pairs = previous.labels[both] * n_clusters + state.labels[both]
        table = torch.bincount(pairs, minlength=len(previous.centers) * n_clusters).view(-1, n_clusters).cpu().numpy()
        kept = table[linear_sum_assignment(table, maximize=True)].sum()
        health["churn"] = 1 - float(kept) / max(1, len(pairs))
    return health
