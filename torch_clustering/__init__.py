"""KMeans, Gaussian mixtures and clustering scores for tensors, on one process or sharded over ranks."""

from torch_clustering._checks import ConvergenceWarning
from torch_clustering.gmm import GaussianMixture
from torch_clustering.kmeans import KMeans
from torch_clustering.metrics import (
    adjusted_rand,
    cluster_to_class,
    clustering_accuracy,
    contingency,
    normalized_mutual_info,
)

__all__ = [
    "ConvergenceWarning",
    "GaussianMixture",
    "KMeans",
    "adjusted_rand",
    "cluster_to_class",
    "clustering_accuracy",
    "contingency",
    "normalized_mutual_info",
]
