"""What several runs share: which differ in seeds alone, and the mean and spread of what they score."""

from typing import Any

import pytest

from evaluation.several_runs import numbers_of, same_but_seeds, spread
from evaluation.transfer import Question
from tests.runs import tiny_settings


def result(acc: float, **more: Any) -> dict[str, Any]:
    """An evaluation.json, as far as it is read here."""
    return {"scores": {"acc": acc}, "baselines": [], **more}


def test_every_score_of_a_run_has_a_name_of_its_own() -> None:
    def row(features: str, acc: float) -> dict[str, Any]:
        return {"name": "KMeans", "features": features, "scores": {"acc": acc}}

    retrieval = {"recall@1": 0.375, "map": 0.0625, "features": "projection", "protocol": "9 queries"}
    found = numbers_of(
        {
            "scores": {"acc": 0.5}, "embedding": row("projection", 0.25), "assigned": row("own", 1.0), "linear": None,
            "baselines": [row("pixels", 0.125)], "knn": {"accuracy": 0.75, "neighbors": 5}, "retrieval": retrieval,
        }
    )  # fmt: skip
    assert found == {
        "clusters: acc": 0.5, "KMeans, projection: acc": 0.25, "KMeans, own: acc": 1.0, "KMeans, pixels: acc": 0.125,
        "knn: accuracy": 0.75, "retrieval: recall@1": 0.375, "retrieval: map": 0.0625,
    }  # fmt: skip


def test_a_run_without_ground_truth_has_no_numbers() -> None:
    nothing = {"knn": None, "linear": None, "retrieval": None, "embedding": None, "assigned": None}
    assert numbers_of({"scores": None, "baselines": [], **nothing}) == {}
    assert spread([{"scores": None, "baselines": []}] * 2) == {}


def test_spread_is_over_runs_of_what_all_of_them_have() -> None:
    table = spread([result(0.5, knn={"accuracy": 0.5}), result(0.75), result(1.0)])
    assert table == {"clusters: acc": {"mean": 0.75, "deviation": pytest.approx(0.25)}}


def test_runs_that_differ_in_seed_name_and_log_alone_are_one_group() -> None:
    changes: list[dict[str, Any]] = [
        {"run__seed": 1}, {"run__seed": 2, "optim__epochs": 7},
        {"run__seed": 3, "run__name": "c", "log__every_steps": 9}, {"run__seed": 4, "optim__epochs": 7},
        {"run__seed": 5, "optim__learning_rate": 0.3},
    ]  # fmt: skip
    settings = [tiny_settings("simclr", **change) for change in changes]
    assert same_but_seeds([Question(each, each, False) for each in settings]) == [[0, 2], [1, 3]]
