"""KMeans, Gaussian mixtures, neighbours and clustering scores for tensors, on one process or sharded over ranks."""

from torch_clustering._checks import ConvergenceWarning, NotFittedError
from torch_clustering.beta_mixture import BetaMixture1D
from torch_clustering.choose_k import ChoiceOfK, choose_n_clusters
from torch_clustering.counts import Contingency, contingency
from torch_clustering.earlier import PyTorchKMeans
from torch_clustering.earlier_mixture import PyTorchGaussianMixture
from torch_clustering.evaluate import bootstrap_scores, evaluate_clustering, mcnemar, top_k_accuracy
from torch_clustering.faiss_kmeans import FaissKMeans
from torch_clustering.gmm import GaussianMixture
from torch_clustering.internal_scores import calinski_harabasz, davies_bouldin, silhouette, silhouette_samples
from torch_clustering.kmeans import KMeans, kmeans_many
from torch_clustering.merging import Merging, merge_clusters
from torch_clustering.metrics import (
    adjusted_mutual_info,
    adjusted_rand,
    class_recall,
    cluster_sizes,
    cluster_to_class,
    clustering_accuracy,
    completeness,
    confusion_matrix,
    fit_mapping,
    fowlkes_mallows,
    homogeneity,
    inverse_purity,
    mapped_accuracy,
    normalized_mutual_info,
    purity,
)
from torch_clustering.minibatch import MiniBatchKMeans
from torch_clustering.neighbors import nearest_neighbors

__all__ = [
    "BetaMixture1D",
    "ChoiceOfK",
    "Contingency",
    "ConvergenceWarning",
    "FaissKMeans",
    "GaussianMixture",
    "KMeans",
    "Merging",
    "MiniBatchKMeans",
    "NotFittedError",
    "PyTorchGaussianMixture",
    "PyTorchKMeans",
    "adjusted_mutual_info",
    "adjusted_rand",
    "bootstrap_scores",
    "calinski_harabasz",
    "choose_n_clusters",
    "class_recall",
    "cluster_sizes",
    "cluster_to_class",
    "clustering_accuracy",
    "completeness",
    "confusion_matrix",
    "contingency",
    "davies_bouldin",
    "evaluate_clustering",
    "fit_mapping",
    "fowlkes_mallows",
    "homogeneity",
    "inverse_purity",
    "kmeans_many",
    "mapped_accuracy",
    "mcnemar",
    "merge_clusters",
    "nearest_neighbors",
    "normalized_mutual_info",
    "purity",
    "silhouette",
    "silhouette_samples",
    "top_k_accuracy",
]
