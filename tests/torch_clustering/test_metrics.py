"""Scores against scikit-learn's numbers, for any numbers of classes and clusters."""

import pytest
import torch
from torch import Tensor

from tests.torch_clustering.made import close, numbers
from torch_clustering import adjusted_rand, cluster_to_class, clustering_accuracy, contingency, normalized_mutual_info

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
    assert close(adjusted_rand(truth, pred), stored["ari"])


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


def test_two_million_rows_do_not_overflow_pair_counts() -> None:
    labels = torch.arange(2_000_003) % 3
    assert adjusted_rand(labels, labels) == 1.0


def test_impossible_labels_are_refused_with_their_numbers() -> None:
    with pytest.raises(ValueError, match="3 true labels against 2"):
        contingency([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match="none of 2 rows"):
        contingency([-1, -1], [0, 1])
    with pytest.raises(ValueError, match="float32"):
        contingency([0.5, 1.0], [0, 1])
    with pytest.raises(ValueError, match="'mean'.*geometric"):
        normalized_mutual_info([0, 1], [0, 1], "mean")
