"""Scores against scikit-learn's numbers, for any numbers of classes and clusters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as oracle
from torch import Tensor

from tests.ranks import run_ranks
from tests.torch_clustering.made import close, numbers
from torch_clustering.metrics import (
    adjusted_mutual_info,
    adjusted_rand,
    class_recall,
    cluster_sizes,
    cluster_to_class,
    clustering_accuracy,
    completeness,
    confusion_matrix,
    contingency,
    fit_mapping,
    fowlkes_mallows,
    homogeneity,
    inverse_purity,
    mapped_accuracy,
    normalized_mutual_info,
    purity,
)
from torch_clustering.table_scores import expected_mutual_info, mutual_info

NUMBERS = numbers("metrics")
I = torch.arange(120)  # noqa: E741 the stored formulas call it i
ROTATED = (I + I // 7) % 4
LABELS: dict[str, tuple[Tensor, Tensor]] = {
    "K = classes": (I % 4, ROTATED),
    "K > classes": (I % 3, (I * I // 5) % 7),
    "K < classes": (I % 6, ((I % 6) // 3) ^ (I % 5 == 0).long()),
    "ids not contiguous": (10 * (I % 3), 100 + 3 * ((I + I // 9) % 3)),
    "perfect, permuted": (I % 5, (3 * (I % 5) + 1) % 5),
    "80% right": (I % 4, (I + (I % 5 == 0)) % 4),
    "over-clustering, informative: K=8, 4 classes": (I % 4, 2 * ((I + (I % 6 == 0)) % 4) + (I % 3 == 0)),
    "one empty cluster id: ids 0,1,3": (I % 4, torch.tensor([0, 1, 3, 3])[(I + (I % 7 == 0)) % 4]),
    "single cluster": (I % 4, 0 * I),
    "single class and single cluster": (0 * I, 0 * I),
    "every row its own cluster": (I % 4, I),
    "imbalanced": (torch.where(I < 90, 0, 1 + I % 3), (I // 15) % 4),
}
SCORES = {
    adjusted_rand: "ari",
    adjusted_mutual_info: "ami_arithmetic",
    fowlkes_mallows: "fmi",
    homogeneity: "homogeneity",
    completeness: "completeness",
    purity: "acc_majority_many_to_one(=purity)",
    inverse_purity: "inverse_purity",
}
UNLABELLED = torch.where(I % 10 == 0, -1, I % 4)


@pytest.mark.parametrize("case", NUMBERS["cases"], ids=lambda case: case["name"])
def test_scores_equal_the_stored_ones(case: dict) -> None:
    check(case, *LABELS[case["name"]])


def test_rows_without_a_class_are_dropped() -> None:
    check(NUMBERS["label_minus_one"], UNLABELLED, ROTATED)


def check(stored: dict, truth: Tensor, pred: Tensor) -> None:
    if "confusion_rows_classes_cols_clusters" in stored:
        assert contingency(truth, pred).table.tolist() == stored["confusion_rows_classes_cols_clusters"]
    assert close(clustering_accuracy(truth, pred), stored["acc_hungarian"])
    for average in ("arithmetic", "geometric", "max", "min"):
        assert close(normalized_mutual_info(truth, pred, average), stored[f"nmi_{average}"])
    for score, name in SCORES.items():
        assert close(score(truth, pred), stored[name]), name
    recall = class_recall(truth, pred)
    best = stored["per_class_recall_hungarian"]  # of several best maps another may have been taken
    assert list(recall) == truth[truth >= 0].unique().tolist() and len(recall) == len(best)
    if stored["cluster_to_class"] == {str(cluster): label for cluster, label in cluster_to_class(truth, pred).items()}:
        assert close(list(recall.values()), best) and close(np.mean(list(recall.values())), stored["balanced_acc"])
    assert close(mutual_info(contingency(truth, pred).table), stored["mi_nats"])


def test_the_map_of_clusters_is_one_to_one_and_best() -> None:
    for case in NUMBERS["cases"]:
        truth, pred = LABELS[case["name"]]
        mapping = cluster_to_class(truth, pred)
        mapped = torch.tensor([mapping.get(cluster, -9) for cluster in pred.tolist()])
        right = int((mapped == truth).sum())
        assert len(set(mapping.values())) == len(mapping) == len(case["cluster_to_class"])
        assert close(right / 120, case["acc_hungarian"])


def test_the_map_without_ties_equals_the_stored_one() -> None:
    for name in ("ids not contiguous", "perfect, permuted", "80% right"):
        stored = next(case for case in NUMBERS["cases"] if case["name"] == name)["cluster_to_class"]
        assert cluster_to_class(*LABELS[name]) == {int(cluster): label for cluster, label in stored.items()}


def test_rows_in_no_cluster_are_wrong_for_accuracy_and_dropped_elsewhere() -> None:
    stored, pred = NUMBERS["cluster_minus_one"], torch.where(I % 8 == 0, -1, ROTATED)
    truth = UNLABELLED
    assert close(clustering_accuracy(truth, pred), stored["acc_noise_wrong"])
    assert close(normalized_mutual_info(truth, pred), stored["dropped"]["nmi_arithmetic"])
    assert close(adjusted_rand(truth, pred), stored["dropped"]["ari"])
    assert close(fowlkes_mallows(truth, pred), stored["dropped"]["fmi"])
    own = stored["as_own_cluster"]
    assert close(normalized_mutual_info(truth, pred, noise="cluster"), own["nmi_arithmetic"])
    assert close(adjusted_rand(truth, pred, noise="cluster"), own["ari"])
    assert close(fowlkes_mallows(truth, pred, noise="cluster"), own["fmi"])
    assert max(clustering_accuracy([0, 1], [-1, -1]), purity([0, 1], [-1, -1]), inverse_purity([0, 1], [-1, -1])) == 0


IDS = st.integers(-5, 5).filter(lambda one: one != -1)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(IDS, st.one_of(IDS, st.just(10**12))), min_size=1, max_size=40),
    st.sampled_from(["max", "geometric"]),
)
def test_scores_of_any_labels_equal_scikit_learns(pairs: list[tuple[int, int]], average: str) -> None:
    truth, pred = np.array(pairs).T
    table = oracle.cluster.contingency_matrix(truth, pred)
    assert (contingency(truth, pred).table == table).all()
    assert close(normalized_mutual_info(truth, pred, average), nmi_of(truth, pred, average))
    assert close(adjusted_mutual_info(truth, pred, average), ami_of(truth, pred, average))
    assert close(adjusted_rand(truth, pred), oracle.adjusted_rand_score(truth, pred))
    assert close(fowlkes_mallows(truth, pred), oracle.fowlkes_mallows_score(truth, pred))
    found = [homogeneity(truth, pred), completeness(truth, pred), normalized_mutual_info(truth, pred)]
    assert close(found, oracle.homogeneity_completeness_v_measure(truth, pred))
    assert close(clustering_accuracy(truth, pred), table[linear_sum_assignment(-table)].sum() / len(truth))
    assert close(purity(truth, pred), table.max(0).sum() / len(truth))
    assert close(inverse_purity(truth, pred), table.max(1).sum() / len(truth))


def nmi_of(truth: np.ndarray, pred: np.ndarray, average: str) -> float:
    return oracle.normalized_mutual_info_score(truth, pred, average_method=average)


def ami_of(truth: np.ndarray, pred: np.ndarray, average: str) -> float:
    if max(len(np.unique(truth)), len(np.unique(pred))) == len(truth) > 1 and average != "max":
        return adjusted_mutual_info(truth, pred, average)  # expected = least entropy: scikit-learn divides roundings
    return oracle.adjusted_mutual_info_score(truth, pred, average_method=average)


def test_the_expected_information_of_large_tables_equals_scikit_learns() -> None:
    draws = np.random.default_rng(3)
    truth, pred = draws.integers(0, 7, 5003) ** 2, draws.integers(0, 13, 5003)
    table = oracle.cluster.contingency_matrix(truth, pred, sparse=True)
    sizes = np.bincount(np.unique(truth, return_inverse=True)[1]), np.bincount(pred)
    assert close(expected_mutual_info(*sizes), oracle.cluster.expected_mutual_information(table, 5003))


def test_a_dominant_class_and_cluster_keep_their_expectation() -> None:
    truth, pred = torch.arange(3001) % 97 == 0, torch.arange(3001) % 89 == 0
    expected = oracle.adjusted_mutual_info_score(truth.numpy(), pred.numpy())
    assert close(adjusted_mutual_info(truth, pred), expected, 1e-7)


def test_rows_that_are_all_alone_agree_fully() -> None:
    assert adjusted_mutual_info([0, 1, 2, 3, 4], [2, 0, 1, 4, 3]) == 1.0


def test_a_map_learnt_on_training_rows_is_judged_on_others() -> None:
    truth, pred = [0, 0, 0, 7, 7, 7], [3, 3, 4, 9, 9, 9]
    assert fit_mapping(truth, pred) == {3: 0, 4: 0, 9: 7}
    assert fit_mapping(truth, pred, many_to_one=False) == cluster_to_class(truth, pred) == {3: 0, 9: 7}
    assert mapped_accuracy([0, 7, 7, -1, 0], [4, 9, 5, 3, -1], fit_mapping(truth, pred)) == 0.5


def test_the_confusion_matrix_has_matched_clusters_on_its_diagonal() -> None:
    more = confusion_matrix([0, 0, 1, 1, 2, 2, 2], [6, 6, 5, -1, 8, 8, 7])
    assert more.clusters.tolist() == [6, 5, 8, 7, -1] and more.classes.tolist() == [0, 1, 2]
    assert more.table.tolist() == [[2, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 2, 1, 0]]
    fewer = confusion_matrix([0, 1, 1, 2, 2, 2], [4, 4, 4, 3, 3, 3])
    assert fewer.clusters.tolist() == [4, 3] and fewer.classes.tolist() == [1, 2, 0]
    assert fewer.table.tolist() == [[2, 0], [0, 3], [1, 0]]


def test_a_collapse_is_seen_in_the_sizes() -> None:
    equal = cluster_sizes([5, 5, 9, 9, -1])
    assert (equal["used"], equal["median"], equal["collapsed"]) == (2, 2.0, False) and close(equal["entropy"], 1)
    assert cluster_sizes([0] * 50 + list(range(1, 23)))["collapsed"]
    with pytest.raises(ValueError, match="3 clusters have rows, n_clusters=2"):
        cluster_sizes([0, 1, 2], 2)


def scores_of_shard(rank: int, world: int) -> list[object]:
    import torch.distributed as dist

    group = dist.group.WORLD if world > 1 else None
    truth, pred = UNLABELLED, torch.where(I % 8 == 0, -1, 100 * ((I + I // 7) % 4) * (I // 29))
    own = {
        1: slice(None),
        2: [slice(0, 83), slice(83, None)][rank],
        3: [slice(0, 0), slice(0, 7), slice(7, None)][rank],
    }
    part = own[world]
    counts = contingency(truth[part], pred[part], group=group)
    with pytest.raises(ValueError, match="float" if world == 1 else f"rank {world - 1} of {world}: labels.*float"):
        contingency(truth[part], pred[part].double() if rank == world - 1 else pred[part], group=group)
    with pytest.raises(ValueError, match="none of 120 rows"):
        contingency(torch.full_like(truth, -1)[part], pred[part], group=group)
    facts = [counts.table.tolist(), counts.classes.tolist(), counts.clusters.tolist(), counts.n_unlabelled]
    return [*facts, cluster_sizes(pred[part], group=group), adjusted_rand(truth[part], pred[part], group=group)]


def test_ranks_score_the_rows_of_all() -> None:
    alone = scores_of_shard(0, 1)
    assert all(found == alone for found in run_ranks(2, scores_of_shard))


def test_two_million_rows_do_not_overflow_pair_counts() -> None:
    labels = torch.arange(2_000_003) % 3
    assert adjusted_rand(labels, labels) == 1.0


def test_impossible_labels_are_refused_with_their_numbers() -> None:
    with pytest.raises(ValueError, match="3 true labels against 2"):
        contingency([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match="none of 2 rows"):
        contingency([-1, -1], [0, 1])
    with pytest.raises(ValueError, match="float64"):
        contingency([0.5, 1.0], [0, 1])
    with pytest.raises(ValueError, match="'mean'.*geometric"):
        normalized_mutual_info([0, 1], [0, 1], "mean")
    with pytest.raises(ValueError, match="'keep'.*'cluster'"):
        adjusted_rand([0, 1], [0, 1], noise="keep")
