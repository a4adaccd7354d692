"""Many scores of one clustering in one call, their confidence intervals, and the comparison of two clusterings."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr

from torch_clustering import table_scores
from torch_clustering._checks import as_rows
from torch_clustering._collectives import Group, sum_over_ranks
from torch_clustering.counts import Contingency, Noise, contingency, integers, places
from torch_clustering.metrics import cluster_sizes

PAIRED: dict[str, Callable[[table_scores.Table], float]] = {
    "nmi": lambda table: table_scores.nmi(table, "arithmetic"),
    "nmi_geometric": lambda table: table_scores.nmi(table, "geometric"),
    "nmi_max": lambda table: table_scores.nmi(table, "max"),
    "nmi_min": lambda table: table_scores.nmi(table, "min"),
    "ami": lambda table: table_scores.ami(table, "arithmetic"),
    "hom": table_scores.homogeneity,
    "com": table_scores.completeness,
    "v": lambda table: table_scores.nmi(table, "arithmetic"),
    "ari": table_scores.ari,
    "f": table_scores.fmi,
}
NUMBERS = (*PAIRED, "acc", "balanced_acc", "purity", "inv_purity")
FACTS = ("recall", "mapping", "confusion", "coverage", "clustered", "sizes", "n_clusters_used")


class Interval(NamedTuple):
    """A score of the rows at hand and the percentiles of its bootstrap distribution."""

    score: float
    low: float
    high: float


def evaluate_clustering(
    label: Any,
    pred: Any,
    eval_metric: str | Iterable[str] = ("nmi", "acc", "ari"),
    phase: str = "train",
    *,
    mapping: dict[int, int] | None = None,
    noise: Noise = "drop",
    group: Group | None = None,
) -> dict[str, Any]:
    """{f"{phase}_{key}": score} for each key of `eval_metric`, all from one table of counts. Collective with a group.

    | key | value |
    |---|---|
    | nmi, nmi_geometric, nmi_max, nmi_min, ami | mutual information over, or adjusted by, a mean of entropies |
    | hom, com, v | homogeneity, completeness, V-measure |
    | ari, f | adjusted Rand index; Fowlkes-Mallows index (not the F-measure) |
    | acc, recall, balanced_acc | under `mapping`: share of right rows; a list, one per class; its mean |
    | purity, inv_purity | many-to-one accuracy of clusters; of classes |
    | mapping, confusion | cluster -> class; counts with matched clusters on the diagonal, an array |
    | coverage, clustered | share of rows that have a class; of these, share that are in a cluster |
    | sizes, n_clusters_used | `cluster_sizes` of all rows; how many clusters have rows |

    Args:
        label, pred: (N,) integers. Rows of label -1 are dropped; pred -1 is in no cluster: wrong for acc, recall and
            purity, dropped by the rest, or one more cluster with noise="cluster".
        mapping: cluster -> class, learnt elsewhere (`fit_mapping`); None: the best one-to-one map of these rows.
    Raises:
        ValueError: an unknown key, labels as in `contingency`.

    >>> evaluate_clustering([0, 0, 1, 1], [5, 5, 3, 5], ["acc", "recall"], phase="val")
    {'val_acc': 0.75, 'val_recall': [1.0, 0.5]}
    """
    keys = _known(eval_metric, NUMBERS + FACTS)
    counts = contingency(label, pred, group=group)
    results = {key: _number(key, counts, mapping, noise) for key in keys if key in NUMBERS}
    if not set(keys).isdisjoint(FACTS):
        results |= _facts(counts, pred, mapping, group)
    return {f"{phase}_{key}": results[key] for key in keys}


def bootstrap_scores(
    label: Any,
    pred: Any,
    eval_metric: str | Iterable[str] = ("nmi", "acc", "ari"),
    *,
    n_draws: int = 1000,
    level: float = 0.95,
    random_state: int = 0,
    refit: bool = False,
    noise: Noise = "drop",
    group: Group | None = None,
) -> dict[str, Interval]:
    """{key: (score, low, high)}: how far each score would move with other rows of the same kind.

    Rows drawn with replacement are a multinomial draw of the table, so that its cost does not grow with N. It says
    nothing of the spread over seeds of the training. Collective with a group.

    Args:
        eval_metric: numbers among the keys of `evaluate_clustering`.
        level: share of the draws between low and high.
        refit: match clusters and classes anew in each draw; else the map of the rows at hand is kept for acc.

    >>> interval = bootstrap_scores([0, 1] * 50, [0, 1] * 45 + [1, 0] * 5, "acc")["acc"]
    >>> interval.score, 0.8 < interval.low < 0.9 < interval.high < 1
    (0.9, True)
    """
    keys = _known(eval_metric, NUMBERS)
    counts = contingency(label, pred, group=group)
    mapping = counts.best_map()
    filled = counts.table.nonzero()
    shares = counts.table[filled] / counts.table.sum()
    draws = np.random.Generator(np.random.Philox(random_state))
    drawn = np.empty((n_draws, len(keys)))
    for row in drawn:
        table = np.zeros_like(counts.table)
        table[filled] = draws.multinomial(counts.table.sum(), shares)
        sample = Contingency(table, counts.classes, counts.clusters).filled()
        row[:] = [_number(key, sample, None if refit else mapping, noise) for key in keys]
    lows, highs = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    scores = [_number(key, counts, mapping, noise) for key in keys]
    return {key: Interval(*bounds) for key, *bounds in zip(keys, scores, lows, highs, strict=True)}


def mcnemar(label: Any, first: Any, second: Any, *, group: Group | None = None) -> tuple[int, int, float]:
    """(rows only `first` has right, rows only `second` has right, p) of two clusterings of the same rows.

    Each is mapped to the classes by its own best map. p is that of the exact two-sided binomial test: the chance of a
    difference at least as large if both were right equally often. Collective with a group.

    >>> mcnemar([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1])
    (1, 0, 1.0)
    """
    (truth, *preds), _ = integers([label, first, second], group)
    right = []
    for pred in preds:
        class_of = contingency(truth, pred, group=group).best_map()
        clusters, place = places(pred, group)
        mapped = truth.new_tensor([class_of.get(cluster, -1) for cluster in clusters.tolist()])[place]
        right.append((mapped == truth) & (truth != -1))
    only_first = int(sum_over_ranks((right[0] & ~right[1]).sum(), group))
    only_second = int(sum_over_ranks((right[1] & ~right[0]).sum(), group))
    tail = bdtr(min(only_first, only_second), only_first + only_second, 0.5)
    return only_first, only_second, min(2 * float(tail), 1.0)


def top_k_accuracy(label: Any, probabilities: Any, k: int = 5, *, group: Group | None = None) -> float:
    """Share of rows whose class is that of one of their k most probable clusters. Collective with a group.

    probabilities: (N, K), of as many clusters as classes; each row's most probable cluster makes the one-to-one map.

    >>> top_k_accuracy([0, 0, 1, 2], [[0.9, 0.1, 0], [0.4, 0.6, 0], [0, 0.6, 0.4], [0, 0.4, 0.6]], k=2)
    1.0
    """
    posterior = as_rows(probabilities)
    (truth, pred), _ = integers([label, posterior.argmax(1)], group)
    counts = contingency(truth, pred, group=group)
    if posterior.shape[1] != len(counts.classes):
        raise ValueError(f"{posterior.shape[1]} clusters of {len(counts.classes)} classes: their numbers must be equal")
    mapping = counts.best_map()
    class_of = truth.new_tensor([mapping.get(cluster, -1) for cluster in range(posterior.shape[1])])
    right = (class_of[posterior.topk(k).indices] == truth[:, None]).any(1) & (truth != -1)
    return int(sum_over_ranks(right.sum(), group)) / int(counts.table.sum())


def _known(keys: str | Iterable[str], choices: tuple[str, ...]) -> list[str]:
    asked = [keys] if isinstance(keys, str) else list(keys)
    for key in asked:
        if key not in choices:
            raise ValueError(f"eval_metric: {key!r} is none of {', '.join(choices)}")
    return asked


def _number(key: str, counts: Contingency, mapping: dict[int, int] | None, noise: Noise) -> float:
    if key in PAIRED:
        return PAIRED[key](counts.paired(noise))
    if key == "inv_purity":
        return float(counts.without_noise().table.max(1, initial=0).sum() / counts.table.sum())
    if key == "purity":
        return counts.share_right(counts.majority_map())
    mapping = counts.best_map() if mapping is None else mapping
    return counts.share_right(mapping) if key == "acc" else float((counts.right(mapping) / counts.table.sum(1)).mean())


def _facts(counts: Contingency, pred: Any, mapping: dict[int, int] | None, group: Group | None) -> dict[str, Any]:
    total = int(counts.table.sum())
    mapping = counts.best_map() if mapping is None else mapping
    sizes = cluster_sizes(pred, group=group)
    return {
        "recall": (counts.right(mapping) / counts.table.sum(1)).tolist(),
        "mapping": mapping,
        "confusion": counts.aligned().table,
        "coverage": total / (total + counts.n_unlabelled),
        "clustered": int(counts.without_noise().table.sum()) / total,
        "sizes": sizes,
        "n_clusters_used": sizes["used"],
    }
