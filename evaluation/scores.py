"""External scores of clusters: the only numbers here that need ground truth, and the table that shows them."""

from typing import Any

import torch
from torch import Tensor

from models.parts.centers import cluster
from models.state import ClusterState, FeatureShard
from torch_clustering import (
    adjusted_mutual_info,
    adjusted_rand,
    clustering_accuracy,
    normalized_mutual_info,
    purity,
)
from training.build import Run
from training.embed import embed_shard
from utils.clock import Clock


def external_scores(labels: Tensor, truth: Tensor) -> dict[str, float]:
    """ACC (Hungarian, also when K differs from the classes), NMI (arithmetic) and ARI of labels against truth.

    labels (N,), truth (N,) int64; rows of unknown truth (-1) are left out.
    """
    labels, truth = labels.cpu(), truth.cpu()
    return {
        "acc": float(clustering_accuracy(truth, labels)),
        "nmi": float(normalized_mutual_info(truth, labels)),
        "ari": float(adjusted_rand(truth, labels)),
    }


def scores_of_other_k(labels: Tensor, truth: Tensor, n_clusters: int) -> dict[str, float]:
    """AMI and purity, which say more where K is not the number of classes; empty where it is.

    Purity grows with K: it compares runs of one K alone.
    """
    labels, truth = labels.cpu(), truth.cpu()
    if n_clusters == len(truth[truth >= 0].unique()):
        return {}
    return {"ami": float(adjusted_mutual_info(truth, labels)), "purity": float(purity(truth, labels))}


def cluster_sizes(labels: Tensor, n_clusters: int) -> dict[str, int]:
    """How many of K clusters have a row, and the sizes of the smallest of all K and of the largest."""
    sizes = torch.bincount(labels[labels >= 0], minlength=n_clusters)
    return {"used": int((sizes > 0).sum()), "smallest": int(sizes.min()), "largest": int(sizes.max())}


def epoch_scores(run: Run, state: ClusterState | None, clock: Clock) -> dict[str, float]:
    """ACC, NMI and ARI between epochs; empty where the source has no ground truth. Collective: equal on all ranks."""
    truth = run.source.read_truth(None)
    if truth is None:
        return {}
    labels = scored_state(run, state, clock).labels
    assert labels is not None
    return external_scores(labels, truth)


def scored_state(run: Run, state: ClusterState | None, clock: Clock) -> ClusterState:
    """The state itself; where there is none yet (a warm-up), what an E-step would give, which training never sees.

    Collective.
    """
    if state is not None and state.labels is not None:
        return state
    return run.method.e_step(_shard(run, clock), None, clock)


def embedding_clusters(run: Run, n_clusters: int) -> tuple[Tensor, str]:
    """(N,) labels of the embedding by the E-step's algorithm, whatever the method's own read-out; and the name of it.

    Collective.
    """
    method = run.method
    state = cluster(_shard(run, run.clock), method.estep, n_clusters, method.estep.final_n_init)
    assert state.labels is not None
    return state.labels, {"kmeans": "KMeans", "gmm": "GMM"}[method.estep.algorithm]


def _shard(run: Run, clock: Clock) -> FeatureShard:
    precision = run.settings.optim.precision
    return embed_shard(
        run.method, run.feed.store, run.feed.views, clock, seed=run.settings.run.seed, precision=precision
    )


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as lines for a terminal: every number with its protocol beside it."""
    lines = [
        f"{result['data']}: {result['protocol']}; K = {result['n_clusters']}, epoch {result['epoch']:g}"
        f"{'' if result['finished'] else ' (not finished)'}, seed {result['seed']}"
    ]
    if result["scores"] is None:
        lines.append("no ground truth: clusters are not scored")
    else:
        others = [result[other] for other in ("embedding", "assigned") if result[other]] + result["baselines"]
        rows = [(row["name"], row["features"], row["scores"]) for row in [result, *others]]
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        names = [name for name in ("acc", "nmi", "ari", "ami", "purity") if name in result["scores"]]
        lines.append(f"{'':{wide[0]}}  {'features':{wide[1]}}" + "".join(f"{name.upper():>8}" for name in names))
        for name, features, scores in rows:
            numbers = "".join(f"{scores[key]:8.4f}" for key in names if key in scores)
            lines.append(f"{name:{wide[0]}}  {features:{wide[1]}}{numbers}")
    if result["knn"] is not None:
        knn = result["knn"]
        lines.append(
            f"kNN accuracy {knn['accuracy']:.4f}: {knn['features']}, {knn['protocol']}, "
            f"k = {knn['neighbors']}, temperature {knn['temperature']:g}"
        )
    if result["linear"] is not None:
        linear = result["linear"]
        lines.append(
            f"linear probe {linear['accuracy']:.4f}: {linear['features']}, {linear['protocol']}, "
            f"L2 {linear['l2']:g}, best {linear['chosen']}"
        )
    if result["retrieval"] is not None:
        found = result["retrieval"]
        recall = ", ".join(f"{name} {value:.4f}" for name, value in found.items() if name.startswith("recall"))
        lines.append(f"retrieval: {recall}, mAP {found['map']:.4f}: {found['features']}, {found['protocol']}")
    sizes = result["clusters"]
    used = f"{sizes['used']} of {result['n_clusters']} clusters used"
    lines.append(f"{used}, {sizes['smallest']:,} to {sizes['largest']:,} images each")
    return "\n".join(lines)
