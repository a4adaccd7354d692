"""The E-step's KMeans when it goes on from the centers of the E-step before."""

import pytest
import torch
from torch import Tensor

from models.parts.centers import EStepConfig, cluster, kmeans_states
from models.state import ClusterState, FeatureShard
from tests.ranks import run_ranks

K, WARM = 5, EStepConfig(warm_start=True)


def shard_of(rows: Tensor, n_rows: int | None = None, seed: int = 3) -> FeatureShard:
    return FeatureShard(torch.arange(len(rows)), rows, n_rows or len(rows), seed)


def blobs(spread: float = 0.05) -> Tensor:
    """(300, 8) around five axes, 60 each, one after the other."""
    noise = torch.randn(300, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.eye(K, 8, dtype=torch.float64).repeat_interleave(60, 0) + spread * noise


def test_clusters_keep_their_numbers_where_the_features_stay() -> None:
    shard, order = shard_of(blobs()), torch.tensor([3, 0, 4, 1, 2])
    cold = cluster(shard, EStepConfig(), K, 4)
    assert cold.labels is not None and cold.centers is not None
    before = ClusterState(centers=cold.centers[order])
    warm = cluster(shard, WARM, K, 1, before)
    assert torch.equal(warm.labels, order.argsort()[cold.labels])  # type: ignore[arg-type]
    assert torch.equal(cluster(shard, EStepConfig(), K, 4, before).labels, cold.labels)  # type: ignore[arg-type]


def test_a_warm_start_that_leads_nowhere_is_not_kept() -> None:
    shard = shard_of(blobs())
    rows = shard.features
    two_in_one_blob = ClusterState(centers=torch.stack([*rows[:2], rows[60] + rows[120], *rows[180::60]]))
    stuck, cold = cluster(shard, WARM, K, 1, two_in_one_blob), cluster(shard, EStepConfig(), K, 3)
    assert stuck.extra["spread"] > 2 * cold.extra["spread"]
    assert cluster(shard, WARM, K, 4, two_in_one_blob).extra["spread"] == cold.extra["spread"]


@pytest.mark.parametrize("centers", [None, torch.eye(4, 8), torch.eye(5)])
def test_without_centers_of_its_shape_it_starts_as_often_as_at_the_end(centers: Tensor | None) -> None:
    shard = shard_of(blobs(0.5))
    warm = cluster(shard, WARM, K, 1, ClusterState(centers=centers))
    cold, last = cluster(shard, WARM, K, 1), cluster(shard, EStepConfig(), K, WARM.final_n_init)
    assert torch.equal(warm.labels, last.labels) and torch.equal(cold.labels, last.labels)  # type: ignore[arg-type]


def test_each_level_goes_on_from_its_own() -> None:
    shard, order = shard_of(blobs(0.5)), torch.arange(12).flip(0)
    scored, fine = kmeans_states(shard, EStepConfig(), [K, 12], 2)
    assert fine.labels is not None and fine.centers is not None
    before = ClusterState(centers=scored.centers, levels=(ClusterState(centers=fine.centers[order]),))
    again, finer = kmeans_states(shard, WARM, [K, 12], 1, before)
    assert torch.equal(again.labels, scored.labels)  # type: ignore[arg-type]
    assert torch.equal(finer.labels, order[fine.labels])  # type: ignore[arg-type]


def warm_of_rank(rank: int, world: int) -> tuple[Tensor, Tensor]:
    rows = blobs(0.5)
    edges = [0, 40, 300] if world == 2 else [0, 300]  # ranks of different sizes
    before = ClusterState(centers=rows[::60] + 0.3)
    state = cluster(shard_of(rows[edges[rank] : edges[rank + 1]], 300), WARM, K, 2, before)
    assert state.labels is not None and state.centers is not None
    return state.labels, state.centers


def test_two_ranks_reach_what_one_does() -> None:
    labels, centers = warm_of_rank(0, 1)
    for its_labels, its_centers in run_ranks(2, warm_of_rank):
        assert torch.equal(its_labels, labels)
        torch.testing.assert_close(its_centers, centers, rtol=0, atol=1e-12)
