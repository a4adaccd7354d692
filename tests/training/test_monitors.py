"""Signs of health against published numbers and over ranks; warnings that come once."""

import pytest
import torch
import torch.nn.functional as F

from models.state import ClusterState
from tests.ranks import run_ranks
from tests.vectors import z
from training.alarms import Watch
from training.monitors import cluster_health, feature_health, view_health


def health_of_part(rank: int, world: int) -> dict[str, float]:
    return feature_health(z(8, 6, 0)[(slice(0, 3), slice(3, 8))[rank]])


def test_feature_health_equals_the_published_numbers_on_one_and_two_ranks() -> None:
    expected = {"feature_std": 1.06282333308, "rankme": 3.13319369888, "participation": 2.07824466644}
    assert feature_health(z(8, 6, 0)) == pytest.approx(expected, abs=1e-9)
    for health in run_ranks(2, health_of_part):
        assert health == pytest.approx(expected, abs=1e-9)


def views_of_part(rank: int, world: int) -> dict[str, float]:
    return view_health(torch.stack([z(8, 6, 0), z(8, 6, 1)], 1)[(slice(0, 3), slice(3, 8))[rank]])


def test_view_health_equals_the_published_numbers_on_one_and_two_ranks() -> None:
    expected = {"view_distance": 3.02790018542, "uniformity": -2.41805249219}
    assert view_health(torch.stack([z(8, 6, 0), z(8, 6, 1)], 1)) == pytest.approx(expected, abs=1e-9)
    for health in run_ranks(2, views_of_part):
        assert health == pytest.approx(expected, abs=1e-9)


def test_equal_rows_have_no_spread_and_rank_one() -> None:
    health = feature_health(F.normalize(torch.ones(8, 6), dim=1))
    assert health["feature_std"] == pytest.approx(0, abs=1e-6)
    assert health["rankme"] == pytest.approx(1, abs=1e-5)
    assert health["participation"] == 0


def state(labels: list[int], n_clusters: int) -> ClusterState:
    return ClusterState(labels=torch.tensor(labels), centers=torch.zeros(n_clusters, 2))


def test_churn_is_counted_after_matching_the_clusters() -> None:
    health = cluster_health(state([2, 2, 2, 0, 0, 1, 1], 3), state([0, 0, 0, 1, 1, 2, 1], 3))
    assert health["churn"] == pytest.approx(1 / 7)
    assert (health["largest"], health["smallest"], health["empty"]) == (3, 2, 0)


def test_empty_clusters_are_told_once_until_they_are_gone() -> None:
    watch, bad, good = Watch(), state([0, 0, 2, 2], 3), state([0, 1, 2, 2], 3)
    told = [list(watch.clusters(s, cluster_health(s, None))) for s in (bad, bad, good, bad)]
    assert told[0] == ["1 of 3 clusters are empty (sizes 0, 2, 2)"]
    assert [len(lines) for lines in told] == [1, 0, 0, 1]


def test_collapse_is_told_after_three_logs_in_a_row() -> None:
    watch, bad = Watch(), {"feature_std": 0.01, "rankme": 1.2}
    told = [list(watch.features(h)) for h in (bad, bad, {"feature_std": 1.0, "rankme": 9.0}, bad, bad, bad, bad)]
    assert [len(lines) for lines in told] == [0, 0, 0, 0, 0, 1, 0]
    assert "the features collapse: spread 0.010" in told[5][0]


def test_a_starving_loader_is_told_once_until_it_is_fed() -> None:
    told = [list(Watch().loader(waited)) for waited in (0.19, 0.21)]
    assert [len(lines) for lines in told] == [0, 1]
    assert told[1][0].startswith("21% of the time goes to waiting for images; data.store=cache, ")
    watch = Watch()
    assert [len(list(watch.loader(waited))) for waited in (0.5, 0.9, 0.1, 0.5)] == [1, 0, 0, 1]


def test_a_method_that_selects_no_image_is_told_once_until_it_selects_some() -> None:
    watch = Watch()
    told = [list(watch.selection(share)) for share in (0.01, 0.0, 0.0, 0.5, 0.0)]
    assert [len(lines) for lines in told] == [0, 1, 0, 0, 1]
    assert told[1][0].startswith("no image passes method.threshold, so nothing is learnt; lower it")
