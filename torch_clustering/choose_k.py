"""How many clusters? For each K a fit and its scores without classes, and what they recommend."""

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering import table_scores
from torch_clustering._checks import make_shard, one_of, positive, refused_together, whole
from torch_clustering._collectives import Group, sum_over_ranks
from torch_clustering.counts import contingency, integers
from torch_clustering.gmm import GaussianMixture
from torch_clustering.grouped import row_draws
from torch_clustering.internal_scores import calinski_harabasz, davies_bouldin, silhouette
from torch_clustering.kmeans import KMeans
from torch_clustering.metrics import cluster_sizes

LOG = logging.getLogger(__name__)
CRITERIA = {"silhouette": max, "calinski_harabasz": max, "davies_bouldin": min, "bic": min, "stability": max}
WEAK = 0.25  # "no substantial structure" (Kaufman & Rousseeuw 1990)
SHARE = 0.8  # of the rows in a subsample
STABLE = 0.75  # mean Jaccard similarity of a cluster that is found again (Hennig 2007)


@dataclass(frozen=True)
class ScoresOfK:
    """What one K gives; see `choose_n_clusters`. NaN where a score was not asked for or is not defined."""

    n_clusters: int
    inertia: float
    silhouette: float
    calinski_harabasz: float
    davies_bouldin: float
    bic: float
    stability: float
    stable_clusters: float


@dataclass(frozen=True)
class ChoiceOfK:
    """The scores of each K, the K they recommend, why, and what speaks against it. `print` shows a table."""

    scores: list[ScoresOfK]
    n_clusters: int
    reason: str
    doubt: str

    def __str__(self) -> str:
        columns = list(ScoresOfK.__dataclass_fields__)
        names = [name for name in columns if not all(math.isnan(getattr(row, name)) for row in self.scores)]
        best = {name: _best(self.scores, name) for name in CRITERIA}
        width = {name: max(len(name), 10) for name in names}
        lines = [" ".join(f"{name:>{width[name]}} " for name in names).rstrip()]
        for row in self.scores:
            marks = ["*" if best.get(name) == row.n_clusters else " " for name in names]
            cells = [f"{getattr(row, name):>{width[name]}.5g}{mark}" for name, mark in zip(names, marks, strict=True)]
            lines.append(" ".join(cells).rstrip())
        return "\n".join([*lines, "* best of its column", f"K = {self.n_clusters}: {self.reason}", self.doubt])


def choose_n_clusters(
    x: Any,
    n_clusters: Iterable[int] = range(2, 51),
    *,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    n_init: int = 1,
    sample_size: int | None = 2000,
    n_subsamples: int = 10,
    covariance_type: Literal["full", "tied", "diag", "spherical"] | None = None,
    random_state: int = 0,
    group: Group | None = None,
) -> ChoiceOfK:
    """KMeans for each K, its scores without classes, and the K that most of them prefer. Collective with a group.

    | score | meaning |
    |---|---|
    | inertia | sum of squared distances to the centers; falls with K |
    | silhouette, calinski_harabasz, davies_bouldin | as in `internal_scores`; with "cosine" of rows at length 1 |
    | bic | Bayesian information criterion, less is better: of a Gaussian mixture, or of K-means itself |
    | stability | mean adjusted Rand index of the labels of all rows by KMeans of any two subsamples of 80 % |
    | stable_clusters | clusters found again: mean over subsamples of their best Jaccard similarity > 0.75 |

    Args:
        x: (n, D) this rank's rows; n may be 0.
        n_clusters: each between 2 and the number of rows less 1; of 80 % of the rows where there are subsamples.
        n_init: restarts of each fit.
        sample_size: rows whose silhouette is averaged; None: all, in O(N²) for "euclidean".
        n_subsamples: fits more per K, for its stability; 0 or 1: none.
        covariance_type: of the `GaussianMixture` whose BIC is taken. None: BIC of K-means as a mixture with one
            spherical variance and hard labels (Pelleg & Moore 2000), for which nothing more is fitted.
    Raises:
        ValueError: an impossible K, NaN or infinity; on every rank alike.

    >>> rows = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [9.0], [9.1], [9.2]]
    >>> choose_n_clusters(rows, range(2, 5), n_subsamples=0).n_clusters
    3
    """
    candidates = sorted(set(n_clusters))
    with refused_together(group):
        one_of("metric", metric, ("euclidean", "cosine"))
        whole("n_init", n_init)
        positive("n_subsamples", n_subsamples, zero=True)
    shard = make_shard(x, None, 1, group)
    if not candidates or candidates[0] < 2 or candidates[-1] >= shard.n_rows:
        raise ValueError(f"n_clusters={candidates}; each must be between 2 and {shard.n_rows - 1}, one below the rows")
    rows = F.normalize(shard.x) if metric == "cosine" else shard.x
    draws = [row_draws(shard.first, len(rows), (random_state, number)) for number in range(n_subsamples)]
    subsamples = [rows[torch.from_numpy(draw < SHARE).to(rows.device)] for draw in draws]
    drawn = [int(sum_over_ranks(torch.tensor([len(part)], device=rows.device), group)) for part in subsamples]

    def fit(count: int, part: Tensor) -> KMeans:
        return KMeans(count, metric=metric, n_init=n_init, random_state=random_state, group=group).fit(part)

    scores = []
    for count in candidates:
        model = fit(count, rows)
        labels, sizes = model.labels_, cluster_sizes(model.labels_, group=group)
        scored = 2 <= sizes["used"] < shard.n_rows
        sampled = len(drawn) > 1 and min(drawn) >= count
        others = [fit(count, part).predict(rows) for part in subsamples] if sampled else []
        stability, stable = _stability(labels, others, group)
        if covariance_type is None:
            bic = _bic_of_kmeans(model, shard.n_rows, group)
        else:
            bic = _bic_of_mixture(rows, count, covariance_type, shard.n_rows, random_state, group)
        row = ScoresOfK(
            n_clusters=count,
            inertia=model.inertia_,
            silhouette=silhouette(
                rows, labels, metric=metric, sample_size=sample_size, random_state=random_state, group=group
            )
            if scored
            else math.nan,
            calinski_harabasz=calinski_harabasz(rows, labels, group=group) if scored else math.nan,
            davies_bouldin=davies_bouldin(rows, labels, group=group) if scored else math.nan,
            bic=bic,
            stability=stability,
            stable_clusters=stable,
        )
        LOG.info("%s", row)
        scores.append(row)
    return _choice(scores)


def _stability(labels: Tensor, others: list[Tensor], group: Group | None) -> tuple[float, float]:
    """Mean adjusted Rand index of pairs of `others`, and how many clusters of `labels` they find again. Collective."""
    if not others:
        return math.nan, math.nan
    pairs = [table_scores.ari(contingency(one, two, group=group).table) for one, two in combinations(others, 2)]
    found = []
    for other in others:
        table = contingency(labels, other, group=group).table
        union = table.sum(1)[:, None] + table.sum(0) - table
        found.append((table / union).max(1))
    return float(np.mean(pairs)), float((np.mean(found, axis=0) > STABLE).sum())


def _bic_of_kmeans(model: KMeans, n_rows: int, group: Group | None) -> float:
    """-2 log-likelihood + parameters x ln N: hard labels, one variance of all features and clusters. Collective."""
    n_clusters, width = model.cluster_centers_.shape
    (ids,), _ = integers([model.labels_], group)
    sizes = sum_over_ranks(torch.bincount(ids, minlength=n_clusters), group).double()
    sizes = sizes[sizes > 0]
    scatter = model.inertia_ * (2 if model.metric == "cosine" else 1)  # 1 - cos is half a square
    free = width * (n_rows - n_clusters)
    variance = max(scatter / free, np.finfo(np.float64).tiny)
    likelihood = float((sizes * (sizes / n_rows).log()).sum())
    likelihood -= (n_rows * width * math.log(2 * math.pi * variance) + free) / 2
    return (n_clusters - 1 + n_clusters * width + 1) * math.log(n_rows) - 2 * likelihood


def _bic_of_mixture(
    rows: Tensor, count: int, covariance_type: Any, n_rows: int, random_state: int, group: Group | None
) -> float:
    """-2 log-likelihood + parameters x ln N of a Gaussian mixture fitted to the rows. Collective."""
    model = GaussianMixture(count, covariance_type=covariance_type, random_state=random_state, group=group).fit(rows)
    likelihood = float(sum_over_ranks(model.score_samples(rows).sum()[None], group))
    any_row = model.means_[:1]
    n_parameters = model.aic(any_row) / 2 + model.score(any_row)  # AIC = 2 parameters - 2 log-likelihood
    return n_parameters * math.log(n_rows) - 2 * likelihood


def _best(scores: list[ScoresOfK], name: str) -> int | None:
    """The K of the best value in the column `name`, the lowest among equals; None if it holds no number."""
    numbers = {row.n_clusters: getattr(row, name) for row in scores if not math.isnan(getattr(row, name))}
    return CRITERIA[name](numbers, key=lambda count: numbers[count]) if numbers else None


def _choice(scores: list[ScoresOfK]) -> ChoiceOfK:
    """The K with the most votes of the criteria; ties go to the greater silhouette."""
    votes = {name: best for name in CRITERIA if (best := _best(scores, name)) is not None}
    if not votes:
        return ChoiceOfK(scores, scores[0].n_clusters, "no score is defined", "doubt: the rows hold no clusters")
    support = Counter(votes.values())
    rows = {row.n_clusters: row for row in scores}
    chosen = max(support, key=lambda count: (support[count], rows[count].silhouette, -count))
    agreeing = [name for name, count in votes.items() if count == chosen]
    reason = f"best by {', '.join(agreeing)} ({len(agreeing)} of {len(votes)} criteria)"
    doubts = [f"{name} prefers {count}" for name, count in votes.items() if count != chosen]
    if rows[chosen].silhouette < WEAK:
        doubts.append(f"silhouette {rows[chosen].silhouette:.2f} < {WEAK}: little structure")
    if rows[chosen].stability < STABLE:
        doubts.append(f"stability {rows[chosen].stability:.2f} < {STABLE}: other rows would give other clusters")
    if len(scores) > 1 and chosen in (scores[0].n_clusters, scores[-1].n_clusters):
        doubts.append("the best K is the first or last one tried: widen the range")
    return ChoiceOfK(scores, chosen, reason, f"doubt: {'; '.join(doubts) or 'none of these scores objects'}")
