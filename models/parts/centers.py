"""The default E-step: KMeans or a Gaussian mixture over all ranks' features, and what it makes of an image."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from models.state import ClusterState, FeatureShard
from torch_clustering import GaussianMixture, KMeans, kmeans_many
from utils import distributed
from utils.config import Section
from utils.errors import UserError

SPHERICAL_TEMPERATURE = 0.1


class EStepConfig(Section):
    """How the features of all images are clustered between epochs."""

    algorithm: Literal["kmeans", "gmm"] = Field("kmeans", description="kmeans: hard labels; gmm: responsibilities too")
    metric: Literal["spherical", "euclidean"] = Field(
        "spherical", description="kmeans on the sphere, or by squared distance"
    )
    covariance: Literal["full", "tied", "diag", "spherical"] = Field("diag", description="covariances of gmm")
    n_clusters: int | None = Field(None, ge=1, description="K; null: the number of classes of the data set")
    every_epochs: int | None = Field(
        None, ge=1, description="epochs from one E-step to the next; null: the method's own"
    )
    n_init: int = Field(3, ge=1, description="restarts of an E-step, in all (not per rank)")
    final_n_init: int = Field(10, ge=1, description="restarts of the last E-step, which is scored and saved")
    warm_start: bool = Field(
        False,
        description="kmeans: one of the restarts goes on from the centers of the E-step before; "
        "without any, as at first, there are final_n_init restarts",
    )
    max_iter: int = Field(300, ge=1, description="passes of KMeans or EM")
    tol: float = Field(1e-4, ge=0, description="scikit-learn's tolerance")


def cluster(
    shard: FeatureShard, config: EStepConfig, n_clusters: int, n_init: int, before: ClusterState | None = None
) -> ClusterState:
    """Cluster the L2-normalised rows of all ranks; the state is equal on every rank. Collective.

    before: what the E-step before gave. Only statistics (K x D), labels (N,) and, for gmm, responsibilities (N, K)
    travel.
    """
    if config.algorithm == "kmeans":
        return kmeans_states(shard, config, [n_clusters], n_init, before)[0]
    features = F.normalize(shard.features, dim=1)  # (n, D)
    mixture = GaussianMixture(n_clusters, covariance_type=config.covariance, **_options(shard, config, n_init))
    try:
        mixture.fit(features)
    except ValueError as error:  # a covariance that collapsed; the same on every rank
        raise UserError("estep.covariance", str(error), "try diag, or estep.algorithm=kmeans") from None
    responsibilities = distributed.gather_rows(mixture.predict_proba(features))  # (N, K) float64
    return ClusterState(
        labels=responsibilities.argmax(1),
        centers=mixture.means_,
        responsibilities=responsibilities,
        extra={"weights": mixture.weights_, "covariances": mixture.covariances_},
    )


def kmeans_states(
    shard: FeatureShard,
    config: EStepConfig,
    n_clusters: Sequence[int],
    n_init: int,
    before: ClusterState | None = None,
) -> list[ClusterState]:
    """KMeans of the L2-normalised rows of all ranks into each K, which share passes and messages. Collective.

    before: for a warm start the state of the E-step before, whose `levels` are of the second K on.
    Each state has labels, centers and, in `extra`, the mean squared distance of a row from its center as "spread".
    """
    features = F.normalize(shard.features, dim=1)  # (n, D)
    metric = "cosine" if config.metric == "spherical" else "euclidean"
    candidates: list[list[KMeans]] = []
    if config.warm_start:
        one = {"metric": metric, **_options(shard, config, 1)}
        starts = _centers_of(before, [(k, features.shape[1]) for k in n_clusters])
        if starts:
            candidates.append([KMeans(len(centers), init=centers, **one).fit(features) for centers in starts])
        n_init = n_init - 1 if starts else max(n_init, config.final_n_init)
    if n_init:
        candidates.append(kmeans_many(features, n_clusters, metric=metric, **_options(shard, config, n_init)))
    return [
        ClusterState(
            labels=distributed.gather_rows(kmeans.labels_),
            centers=kmeans.cluster_centers_,
            extra={"spread": features.new_tensor(kmeans.inertia_ / shard.n_rows)},
        )
        for kmeans in (min(found, key=lambda each: each.inertia_) for found in zip(*candidates, strict=True))
    ]


def _centers_of(state: ClusterState | None, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """The centers (K, D) of a state and of its levels; none where there are none of these shapes."""
    states = [] if state is None else [state, *state.levels]
    centers = [each.centers for each in states if each.centers is not None]
    return centers if [tuple(each.shape) for each in centers] == shapes else []


def _options(shard: FeatureShard, config: EStepConfig, n_init: int) -> dict[str, Any]:
    return {
        "max_iter": config.max_iter,
        "tol": config.tol,
        "n_init": n_init,
        "random_state": shard.seed,
        "group": distributed.everyone(),
    }


def head_clusters(shard: FeatureShard, n_clusters: int, head: int = 0) -> ClusterState:
    """Clusters by the most probable entry of a cluster head; the state is equal on every rank. Collective.

    centers: L2-normalised mean of each cluster's normalised rows, zero where a cluster has none.
    """
    assert shard.probabilities is not None
    labels = shard.probabilities[head].argmax(1)  # (n,)
    features = F.normalize(shard.features.double(), dim=1)
    sums = features.new_zeros(n_clusters, features.shape[1]).index_add_(0, labels, features)  # (K, D)
    centers = F.normalize(distributed.reduce_sum_(sums), dim=1).to(shard.features.dtype)
    return ClusterState(labels=distributed.gather_rows(labels), centers=centers)


def memberships(features: Tensor, state: ClusterState, config: EStepConfig) -> Tensor:
    """(B, K) float64 probabilities of the clusters of `state`; argmax is what the E-step says of the same features.

    softmax(cos / 0.1) on the sphere, softmax(-d² / (2 mean own d²)) for Euclidean KMeans, the posterior for gmm.
    """
    assert state.centers is not None
    features = F.normalize(features, dim=1)
    if config.algorithm == "gmm":
        mixture = GaussianMixture(len(state.centers), covariance_type=config.covariance)
        mixture.weights_, mixture.means_ = state.extra["weights"], state.centers
        mixture.covariances_ = state.extra["covariances"]
        return mixture.predict_proba(features)
    # in float64, as the labels were: where features lie close together, float32 products would name other clusters
    features, centers = features.double(), state.centers.double()
    if config.metric == "spherical":
        return torch.softmax(features @ centers.T / SPHERICAL_TEMPERATURE, dim=1)
    # differences first: a² + b² - 2ab cancels where features lie close together
    squared = torch.cdist(features, centers, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return torch.softmax(-squared / (2 * state.extra["spread"].clamp_min(torch.finfo(torch.float32).tiny)), dim=1)
