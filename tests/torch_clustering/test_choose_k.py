"""Scores over a range of K and the K they recommend; merging of too many clusters."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.cluster.hierarchy import dendrogram, is_valid_linkage, linkage
from sklearn import metrics as oracle
from sklearn.mixture import GaussianMixture as OracleMixture
from torch import Tensor

from tests.ranks import run_ranks
from tests.torch_clustering.made import close
from torch_clustering.choose_k import ChoiceOfK, ScoresOfK, _choice, _stability, choose_n_clusters
from torch_clustering.kmeans import KMeans
from torch_clustering.merging import merge_clusters


def blobs(n_rows: int = 211, n_blobs: int = 5) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    centers = 9 * torch.randn(n_blobs, 3, generator=draws)
    return centers[torch.arange(n_rows) % n_blobs] + torch.randn(n_rows, 3, generator=draws)


def test_the_number_of_blobs_is_recommended_with_all_scores() -> None:
    x = blobs()
    choice = choose_n_clusters(x, range(3, 8), n_subsamples=3, sample_size=None)
    assert choice.n_clusters == 5 and [row.n_clusters for row in choice.scores] == [3, 4, 5, 6, 7]
    row, model = choice.scores[2], KMeans(5, n_init=1).fit(x)
    assert row.inertia == model.inertia_ and row.stability > 0.95 and row.stable_clusters == 5
    assert close(row.silhouette, oracle.silhouette_score(x.double(), model.labels_))
    assert close(row.calinski_harabasz, oracle.calinski_harabasz_score(x.double(), model.labels_))
    assert close(row.davies_bouldin, oracle.davies_bouldin_score(x.double(), model.labels_))
    assert "silhouette" in choice.reason and choice.scores[4].stable_clusters < 7
    lines = str(choice).splitlines()
    assert len(lines) == 9 and lines[0].split()[0] == "n_clusters" and lines[3].split()[0] == "5"
    assert "K = 5: best by" in lines[7] and lines[8].startswith("doubt: ")


def test_bic_of_kmeans_is_that_of_its_spherical_mixture() -> None:
    x = blobs()
    (row,) = choose_n_clusters(x, [5], n_subsamples=0).scores
    model = KMeans(5, n_init=1).fit(x)
    variance = model.inertia_ / (3 * (211 - 5))
    normal = torch.distributions.Normal(model.cluster_centers_[model.labels_].double(), variance**0.5)
    shares = model.labels_.bincount().double()[model.labels_] / 211
    likelihood = float(normal.log_prob(x.double()).sum() + shares.log().sum())
    assert close(row.bic, -2 * likelihood + (4 + 15 + 1) * math.log(211), 1e-6)


def test_bic_of_a_mixture_is_scikit_learns() -> None:
    x = blobs(307, 3)
    choice = choose_n_clusters(x, range(2, 5), n_subsamples=0, covariance_type="diag")
    expected = OracleMixture(3, covariance_type="diag", random_state=0).fit(x.double()).bic(x.double())
    assert choice.n_clusters == 3 and choice.scores[1].bic == pytest.approx(expected, rel=1e-3)


def test_the_sphere_is_scored_on_the_sphere() -> None:
    draws = torch.Generator().manual_seed(1)
    x = blobs() * (0.1 + 10 * torch.rand(211, 1, generator=draws))
    (row,) = choose_n_clusters(x.numpy(), [5], metric="cosine", n_subsamples=0, sample_size=None).scores
    unit = torch.nn.functional.normalize(x)
    labels = KMeans(5, metric="cosine", n_init=1).fit(unit).labels_
    assert close(row.silhouette, oracle.silhouette_score(unit.double(), labels, metric="cosine"), 1e-6)
    assert close(row.davies_bouldin, oracle.davies_bouldin_score(unit.double(), labels), 1e-6)
    on_rows = choose_n_clusters(unit, [5], n_subsamples=0).scores[0]  # its centers are means, near those of length 1
    assert row.bic == pytest.approx(on_rows.bic, abs=40) and row.bic > on_rows.bic


def test_a_cluster_is_stable_where_it_is_found_again_and_nothing_else() -> None:
    labels, other = torch.tensor([0, 0, 0, 1, 1, 1, 2]), torch.tensor([4, 4, 4, 7, 7, 7, 7])
    assert _stability(labels, [other, other], None) == (1.0, 1.0)  # 3 of 4 rows are not above 0.75
    assert _stability(labels, [labels, labels], None) == (1.0, 3.0)
    assert close(_stability(labels, [labels, other], None)[0], oracle.adjusted_rand_score(labels, other))


def scores(n_clusters: int, *numbers: float) -> ScoresOfK:
    return ScoresOfK(n_clusters, 1.0, *numbers, stable_clusters=0.0)


def test_most_criteria_decide_and_the_others_are_doubts() -> None:
    nan = math.nan
    rows = [scores(2, 0.5, 10, 0.9, -5, nan), scores(3, 0.2, 30, 0.1, -7, nan), scores(4, 0.1, 20, 0.2, -9, nan)]
    choice = _choice(rows)
    assert choice.n_clusters == 3 and choice.reason == "best by calinski_harabasz, davies_bouldin (2 of 4 criteria)"
    assert "silhouette prefers 2" in choice.doubt and "bic prefers 4" in choice.doubt
    assert "silhouette 0.20 < 0.25: little structure" in choice.doubt
    assert "stability" not in str(choice)
    edge = _choice([scores(2, 0.5, 10, 0.9, 5, 0.6), scores(3, 0.4, 3, 1.1, 9, 0.5)])
    assert edge.n_clusters == 2 and "widen the range" in edge.doubt and "other rows" in edge.doubt


def test_rows_without_clusters_have_no_scores() -> None:
    with pytest.warns(UserWarning, match="1 of 2 clusters have rows|distinct rows"):
        choice = choose_n_clusters(np.ones((7, 2)), [2], n_subsamples=0)
    assert math.isnan(choice.scores[0].silhouette) and isinstance(choice, ChoiceOfK)


def test_an_impossible_number_of_clusters_is_refused() -> None:
    for wrong in ([1, 2], [7], []):
        with pytest.raises(ValueError, match="each must be between 2 and 6"):
            choose_n_clusters(blobs(7), wrong)
    with pytest.raises(ValueError, match="'dot' is none of"):
        choose_n_clusters(blobs(7), [2], metric="dot")


def choose_on_shard(rank: int, world: int) -> list[Any]:
    group = dist.group.WORLD if world > 1 else None
    part = slice(None) if world == 1 else [slice(0, 23), slice(23, None)][rank]
    found = choose_n_clusters(
        blobs()[part], [4, 5], n_subsamples=2, sample_size=50, covariance_type="spherical", group=group
    )
    return [list(vars(row).values()) for row in found.scores] + [[found.n_clusters]]


def test_ranks_choose_from_the_rows_of_all() -> None:
    alone = choose_on_shard(0, 1)
    for found in run_ranks(2, choose_on_shard):
        assert all(close(one, two, 1e-6) for one, two in zip(found, alone, strict=True))


@pytest.mark.parametrize("kind", ["ward", "average", "complete", "single"])
def test_the_tree_of_equal_weights_is_scipys(kind: str) -> None:
    centers = np.random.default_rng(5).normal(size=(23, 3))
    tree, new_ids = merge_clusters(centers, None, 5, linkage=kind)
    assert is_valid_linkage(tree) and close(tree, linkage(centers, kind))
    assert len(dendrogram(tree, no_plot=True)["leaves"]) == 23
    _, first = np.unique(new_ids, return_index=True)
    assert new_ids.dtype == np.int64 and len(first) == 5 and (np.diff(first) > 0).all()


@pytest.mark.parametrize("kind", ["ward", "average"])
def test_weights_count_as_so_many_rows(kind: str) -> None:
    draws = np.random.default_rng(5)
    centers, weights = draws.normal(size=(11, 3)), draws.integers(1, 6, 11)
    heights = merge_clusters(centers, weights, 3, linkage=kind).tree[:, 2]
    assert close(heights, linkage(centers.repeat(weights, 0), kind)[-10:, 2])


def test_over_clusters_are_merged_to_the_blobs() -> None:
    x = blobs()
    model = KMeans(23, n_init=1).fit(x)
    merged = merge_clusters(model.cluster_centers_, model.labels_.bincount(minlength=23), 5).new_ids[model.labels_]
    assert oracle.adjusted_rand_score(torch.arange(211) % 5, merged) == 1


def test_a_cluster_without_rows_joins_the_nearest_one() -> None:
    centers = torch.tensor([[0.0], [9.0], [8.9], [0.3]])
    assert merge_clusters(centers, [7, 7, 0, 0], 2).new_ids.tolist() == [0, 1, 1, 0]
    assert merge_clusters(centers, [0, 0, 0, 0], 2).new_ids.tolist() == [0, 1, 1, 0]
    assert merge_clusters(centers[:1], None, 1).new_ids.tolist() == [0]
    with pytest.raises(ValueError, match="4 clusters can not be merged into 5"):
        merge_clusters(centers, None, 5)
