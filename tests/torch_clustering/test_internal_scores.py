"""Scores without classes against scikit-learn's, for any split of the rows over ranks."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from tests.ranks import run_ranks
from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import internal_scores
from torch_clustering.internal_scores import calinski_harabasz, davies_bouldin, silhouette, silhouette_samples

I = torch.arange(60)  # noqa: E741 the stored formulas call it i
LABELS = [I % 4, I // 15, torch.where(I == 0, 9, I % 4)]


@pytest.mark.parametrize("number", range(3))
def test_scores_equal_the_stored_ones(number: int) -> None:
    stored, x, labels = numbers("metrics")["internal"]["cases"][number], made_rows(60, 5), LABELS[number]
    assert close(silhouette(x, labels), stored["silhouette_mean"])
    assert close(silhouette_samples(x, labels)[:5], stored["silhouette_samples_0_4"])
    assert close(silhouette(x, labels, metric="cosine"), stored["silhouette_cosine_mean"])
    assert close(calinski_harabasz(x, labels), stored["calinski_harabasz"])
    assert close(davies_bouldin(x, labels), stored["davies_bouldin"])


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    st.integers(4, 90),
    st.sampled_from([1, 3, 7]),
    st.integers(2, 8),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([0.0, 100.0]),
    st.integers(0, 9),
)
def test_scores_of_any_rows_equal_scikit_learns(
    n_rows: int, width: int, n_labels: int, dtype: str, offset: float, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    x = (draws.normal(size=(n_rows, width)) + offset).astype(dtype)
    x[1] = x[0]
    labels = np.r_[0, 1, draws.integers(0, min(n_labels, n_rows - 1), n_rows - 2)] * 3 - 8
    wide = x.astype(np.float64)
    for metric in ("euclidean", "sqeuclidean", "cosine"):
        samples = silhouette_samples(x, labels, metric=metric)
        assert isinstance(samples, np.ndarray) and samples.dtype == np.float64
        assert close(samples, oracle.silhouette_samples(wide, labels, metric=metric), 1e-6)
        assert close(silhouette(x, labels, metric=metric), samples.mean())
    assert close(calinski_harabasz(x, labels), oracle.calinski_harabasz_score(wide, labels))
    # scikit-learn's products cancel far from the origin
    assert close(davies_bouldin(x, labels), oracle.davies_bouldin_score(wide - wide.mean(0), labels), 1e-7)


def test_rows_in_no_cluster_are_left_out() -> None:
    x, labels = made_rows(60, 5), torch.where(I % 7 == 0, -1, I % 3)
    kept = labels >= 0
    samples = silhouette_samples(x, labels)
    assert samples[~kept].isnan().all() and torch.equal(samples[kept], silhouette_samples(x[kept], labels[kept]))
    for score in (silhouette, calinski_harabasz, davies_bouldin):
        assert score(x, labels) == score(x[kept], labels[kept])


def test_rows_of_zeros_have_cosine_distance_one() -> None:
    x = made_rows(60, 5).numpy()
    x[:3] = 0
    expected = oracle.silhouette_samples(x, LABELS[0].numpy(), metric="cosine")
    assert close(silhouette_samples(x, LABELS[0], metric="cosine"), expected)


def test_limit_cases_are_scikit_learns() -> None:
    corners = np.array([[0.0, 1.0], [4.0, 0.1]]).repeat(5, 0)
    labels = np.arange(10) // 5
    assert calinski_harabasz(corners, labels) == silhouette(corners, labels) == 1.0
    assert close(davies_bouldin(corners, labels), 0)
    mixed = np.array([1, 2, 3, 4, 5] * 2) % 2  # both clusters have rows in both corners
    crossed = np.r_[corners[:2], corners[5:7], corners[:2], corners[5:7]]
    assert davies_bouldin(crossed, [0, 0, 0, 0, 1, 1, 1, 1]) == 0.0
    assert silhouette(np.ones((10, 3)), mixed) == 0.0


def test_a_row_is_at_no_distance_from_itself() -> None:
    x, labels = made_rows(41, 7), torch.arange(41) % 13
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    expected = oracle.silhouette_samples(distances.numpy(), labels.numpy(), metric="precomputed")
    assert close(silhouette_samples(x, labels), expected, 1e-12)


def test_means_that_differ_by_rounding_only_coincide() -> None:
    values = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)
    x = torch.cat([values.repeat(5), values.flip(0), values[:2].new_full((2,), 5)])[:, None]
    labels = [0] * 15 + [1] * 3 + [2] * 2
    # each of two clusters that coincide counts against the third alone, whose rows are equal
    assert close(davies_bouldin(x, labels), 0.2 / 3 / (5 - 0.2))


def test_a_sample_estimates_the_mean_without_bias() -> None:
    x, labels = made_rows(600, 5), torch.arange(600) % 4 * (torch.arange(600) % 7 > 0)
    exact = silhouette(x, labels)
    estimates = [silhouette(x, labels, sample_size=60, random_state=seed) for seed in range(30)]
    error = np.std(estimates)
    assert 0.001 < error < 0.05 and abs(np.mean(estimates) - exact) < 3 * error / 30**0.5
    assert silhouette(x, labels, sample_size=60) == estimates[0]
    assert silhouette(x, labels, sample_size=600) == silhouette(x, labels, sample_size=10**6) == exact
    assert -1 < silhouette(x, labels, sample_size=1) < 1  # one row of each cluster


def test_blocks_smaller_than_the_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = made_rows(331, 5), torch.arange(331) % 5
    whole = silhouette_samples(x, labels)
    monkeypatch.setattr(internal_scores, "QUERIES", 17)
    monkeypatch.setattr("torch_clustering._checks.CHUNK_BYTES", 1 << 9)
    assert close(silhouette_samples(x, labels), whole)
    assert close(silhouette_samples(x.numpy(), labels), oracle.silhouette_samples(x.numpy(), labels.numpy()))


def test_impossible_clusters_are_refused_with_their_numbers() -> None:
    x = made_rows(5, 3)
    for score in (silhouette, calinski_harabasz, davies_bouldin):
        with pytest.raises(ValueError, match="1 clusters of 5 rows"):
            score(x, [0] * 5)
        with pytest.raises(ValueError, match="5 clusters of 5 rows"):
            score(x, range(5))
        with pytest.raises(ValueError, match="5 rows against 4 labels"):
            score(x, [0, 1, 0, 1])
        with pytest.raises(ValueError, match="NaN"):
            score(x / 0, [0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="'manhattan' is none of"):
        silhouette(x, [0, 1, 0, 1, 0], metric="manhattan")


ENDS = {1: [0, 199], 2: [0, 150, 199], 4: [0, 3, 3, 101, 199]}


def score_shard(rank: int, world: int) -> list[Any]:
    group = dist.group.WORLD if world > 1 else None
    labels = torch.where(torch.arange(199) % 11 == 0, -1, (torch.arange(199) * 7) % 5)
    part = slice(ENDS[world][rank], ENDS[world][rank + 1])
    x, labels = made_rows(199, 7).float()[part], labels[part]
    with pytest.raises(ValueError, match="rows against 9 labels"):
        silhouette(x, labels if rank < world - 1 else torch.arange(9), group=group)
    scores = [score(x, labels, group=group) for score in (silhouette, calinski_harabasz, davies_bouldin)]
    for metric in ("sqeuclidean", "cosine"):
        scores.append(silhouette(x, labels, metric=metric, group=group))
    scores.append(silhouette(x, labels, sample_size=31, group=group))
    return [scores, silhouette_samples(x, labels, group=group)]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_score_the_rows_of_all(world: int) -> None:
    scores, samples = score_shard(0, 1)
    parts = run_ranks(world, score_shard)
    for found, _ in parts:
        assert close(found, scores) and found == parts[0][0]
    torch.testing.assert_close(torch.cat([own for _, own in parts]), samples, equal_nan=True, rtol=1e-9, atol=1e-9)
