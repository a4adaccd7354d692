"""Many scores in one call, their confidence intervals, and the comparison of two clusterings."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.stats import binomtest

from tests.ranks import run_ranks
from tests.torch_clustering.made import close, numbers
from torch_clustering.evaluate import FACTS, NUMBERS, bootstrap_scores, evaluate_clustering, mcnemar, top_k_accuracy

I = torch.arange(120)  # noqa: E741 the stored formulas call it i
TRUTH, PRED = torch.where(I % 10 == 0, -1, I % 4), (I + I // 7) % 4
NAMES = {
    "nmi": "nmi_arithmetic",
    "nmi_geometric": "nmi_geometric",
    "nmi_max": "nmi_max",
    "nmi_min": "nmi_min",
    "ami": "ami_arithmetic",
    "hom": "homogeneity",
    "com": "completeness",
    "v": "v_measure",
    "ari": "ari",
    "f": "fmi",
    "acc": "acc_hungarian",
    "balanced_acc": "balanced_acc",
    "purity": "acc_majority_many_to_one(=purity)",
    "inv_purity": "inverse_purity",
    "recall": "per_class_recall_hungarian",
    "confusion": "confusion_rows_classes_cols_clusters",
    "coverage": "coverage",
}


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.int])
def test_every_key_equals_its_stored_number_for_tensors_arrays_and_lists(kind: object) -> None:
    stored = numbers("metrics")["label_minus_one"]
    found = evaluate_clustering(kind(TRUTH), kind(PRED), [*NUMBERS, *FACTS], phase="val")
    assert set(found) == {f"val_{key}" for key in (*NUMBERS, *FACTS)}
    for key, name in NAMES.items():
        assert close(found[f"val_{key}"], stored[name]), key
    assert found["val_mapping"] == {int(cluster): label for cluster, label in stored["cluster_to_class"].items()}
    assert found["val_n_clusters_used"] == found["val_sizes"]["used"] == 4 and found["val_clustered"] == 1


def test_the_earlier_call_gives_the_earlier_keys() -> None:
    assert list(evaluate_clustering(TRUTH, PRED)) == ["train_nmi", "train_acc", "train_ari"]
    assert list(evaluate_clustering(TRUTH.numpy(), PRED.numpy(), "f", "test")) == ["test_f"]


def test_rows_in_no_cluster_are_dropped_or_one_cluster() -> None:
    stored, pred = numbers("metrics")["cluster_minus_one"], torch.where(I % 8 == 0, -1, PRED)
    for noise, name in (("drop", "dropped"), ("cluster", "as_own_cluster")):
        found = evaluate_clustering(TRUTH, pred, ("nmi", "ari", "f", "acc"), noise=noise)
        expected = [stored[name]["nmi_arithmetic"], stored[name]["ari"], stored[name]["fmi"], stored["acc_noise_wrong"]]
        assert close(list(found.values()), expected)


def test_a_given_map_is_used_for_accuracy_and_recall() -> None:
    keys = ("acc", "recall", "balanced_acc", "mapping")
    found = evaluate_clustering([0, 0, 1, 1], [5, 6, 7, 8], keys, mapping={5: 0, 6: 0, 8: 1})
    assert list(found.values()) == [0.75, [1.0, 0.5], 0.75, {5: 0, 6: 0, 8: 1}]


def test_an_unknown_key_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'nmj' is none of nmi, .*sizes"):
        evaluate_clustering(TRUTH, PRED, ("acc", "nmj"))
    with pytest.raises(ValueError, match="'recall' is none of"):
        bootstrap_scores(TRUTH, PRED, "recall")


def test_intervals_equal_those_of_rows_drawn_with_replacement() -> None:
    truth, pred = np.arange(307) % 3, (np.arange(307) % 3 + (np.arange(307) % 5 == 0)) % 3
    found = bootstrap_scores(truth, pred, ("acc", "nmi"), n_draws=400)
    draws, resampled = np.random.default_rng(1), []
    for _ in range(400):
        rows = draws.integers(0, 307, 307)
        sample = evaluate_clustering(truth[rows], pred[rows], ("acc", "nmi"), mapping={0: 0, 1: 1, 2: 2})
        resampled.append(list(sample.values()))
    lows, highs = np.quantile(resampled, [0.025, 0.975], axis=0)
    for low, high, interval in zip(lows, highs, found.values(), strict=True):
        assert interval.low < interval.score < interval.high
        assert abs(interval.low - low) < 0.02 and abs(interval.high - high) < 0.02
    assert bootstrap_scores(truth, pred, ("acc", "nmi"), n_draws=400) == found


def test_a_map_fitted_to_each_draw_is_never_worse() -> None:
    fixed, refit = (bootstrap_scores(TRUTH, PRED, "acc", n_draws=100, refit=refit)["acc"] for refit in (False, True))
    assert refit.score == fixed.score and refit.low > fixed.low and refit.high > fixed.high


def test_mcnemar_counts_rows_that_one_clustering_alone_has_right() -> None:
    truth = torch.arange(60) % 3
    first, second = (truth + 1) % 3, truth.clone()
    first[:5], second[40:53] = truth[:5], (truth[40:53] + 1) % 3
    first[41] = 9  # a cluster without class holds no right row, nor one without class
    unlabelled = torch.where(torch.arange(60) == 41, -1, truth)
    assert mcnemar(unlabelled, first, second) == (12, 5, pytest.approx(binomtest(5, 17).pvalue))
    assert mcnemar(truth, truth, truth) == (0, 0, 1.0)


def test_the_class_may_be_that_of_the_second_cluster() -> None:
    draws = torch.Generator().manual_seed(2)
    truth = torch.arange(211) % 5
    posterior = (torch.nn.functional.one_hot((truth + 2) % 5, 5) + 0.7 * torch.rand(211, 5, generator=draws)).softmax(1)
    posterior[::3] = posterior[::3].roll(1, 1)
    order = posterior.argsort(1, descending=True)
    for k in (1, 2, 5):
        expected = float(((order[:, :k] + 3) % 5 == truth[:, None]).any(1).double()[1:].mean())
        assert close(top_k_accuracy(torch.cat([-torch.ones(1).long(), truth[1:]]), posterior, k), expected)
    assert top_k_accuracy(truth, posterior, 1) == evaluate_clustering(truth, posterior.argmax(1))["train_acc"]
    with pytest.raises(ValueError, match="5 clusters of 2 classes"):
        top_k_accuracy(truth % 2, posterior)


def evaluate_shard(rank: int, world: int) -> list[object]:
    group = dist.group.WORLD if world > 1 else None
    part = slice(None) if world == 1 else [slice(0, 29), slice(29, None)][rank]
    own, other = (TRUTH[part], PRED[part]), (I // 40)[part]
    interval = bootstrap_scores(*own, "ari", n_draws=10, group=group)
    found = evaluate_clustering(*own, [*NUMBERS, *FACTS], group=group)
    return [found | {"train_confusion": found["train_confusion"].tolist()}, interval, mcnemar(*own, other, group=group)]


def test_ranks_evaluate_the_rows_of_all() -> None:
    alone = evaluate_shard(0, 1)
    assert all(found == alone for found in run_ranks(2, evaluate_shard))
