"""Results on 2 and 4 ranks equal those of one process, however the rows are split."""

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor

from tests.ranks import run_ranks
from torch_clustering import GaussianMixture, KMeans

# rows of each rank, in shares of N; the second split of each world leaves a rank without rows
SPLITS = {1: [[1.0]], 2: [[0.3, 1.0], [0.0, 1.0]], 4: [[0.05, 0.5, 0.6, 1.0], [0.4, 0.4, 0.41, 1.0]]}
MANY = [(world, split) for world in (2, 4) for split in range(2)]


def rows_of(name: str) -> Tensor:
    draws = torch.Generator().manual_seed(5)
    noise = torch.randn(509, 7, generator=draws)
    if name == "blobs":
        return 5 * torch.randn(11, 7, generator=draws)[torch.arange(509) % 11] + noise
    if name == "overlapping":
        return noise
    if name == "wide":
        return noise @ torch.randn(7, 131, generator=draws) + 0.1 * torch.randn(509, 131, generator=draws)
    if name == "digits":
        return torch.from_numpy(load_digits().data[:599])
    if name == "duplicates":
        return noise[:23].repeat(22, 1)[:503]
    return noise[:13]  # "as many as clusters"


def split(x: Tensor, rank: int, world: int, choice: int) -> Tensor:
    ends = [0, *(round(share * len(x)) for share in SPLITS[world][choice])]
    return x[ends[rank] : ends[rank + 1]]


def fit_kmeans(rank: int, world: int, choice: int, name: str, dtype: str, settings: dict[str, Any]) -> list[Any]:
    x = rows_of(name).to(getattr(torch, dtype))
    if settings.get("init") == "far":
        settings = {**settings, "init": torch.cat([x[:2], x[2:5] + 100])}  # three clusters start empty
    weight = 1 + torch.arange(len(x)) % 3 if settings.get("weighted") else None
    arguments = {key: value for key, value in settings.items() if key != "weighted"}
    model = KMeans(**arguments, group=dist.group.WORLD if world > 1 else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct rows than clusters
        own_weight = None if weight is None else split(weight, rank, world, choice)
        model.fit(split(x, rank, world, choice), sample_weight=own_weight)
    assert torch.equal(model.predict(split(x, rank, world, choice)), model.labels_)
    return [model.labels_, model.cluster_centers_, model.inertia_, model.n_iter_, model.n_relocated_]


CASES = [
    ("blobs", {"n_clusters": 11, "n_init": 2}),
    ("blobs", {"n_clusters": 5, "init": "far"}),
    ("blobs", {"n_clusters": 5, "init": "far", "metric": "cosine"}),
    ("overlapping", {"n_clusters": 11, "metric": "cosine", "n_init": 2}),
    ("overlapping", {"n_clusters": 11, "weighted": True, "random_state": 3}),
    ("overlapping", {"n_clusters": 11, "init": "random", "n_init": 3}),
    ("digits", {"n_clusters": 10, "n_init": 2}),
    ("digits", {"n_clusters": 10, "init": "k-means||", "algorithm": "elkan"}),
    ("wide", {"n_clusters": 67}),
    ("duplicates", {"n_clusters": 19}),
    ("duplicates", {"n_clusters": 29, "n_init": 2}),
    ("as many as clusters", {"n_clusters": 13}),
]


@pytest.mark.parametrize(
    ("world", "choice", "dtype"),
    [(2, 0, "float32"), (2, 1, "float32"), (2, 0, "float64"), (2, 1, "float64"), (4, 0, "float64"), (4, 1, "float32")],
)
def test_kmeans_of_shards_equals_kmeans_of_all_rows(world: int, choice: int, dtype: str) -> None:
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    for name, settings in CASES:
        labels, centers, inertia, *counts = fit_kmeans(0, 1, 0, name, dtype, settings)
        parts = run_ranks(world, fit_kmeans, choice, name, dtype, settings)
        assert torch.equal(torch.cat([part[0] for part in parts]), labels), (name, settings)
        for _, other_centers, other_inertia, *other_counts in parts:
            torch.testing.assert_close(other_centers, centers, rtol=tolerance, atol=tolerance)
            assert other_inertia == pytest.approx(inertia, rel=tolerance, abs=tolerance) and other_counts == counts
            assert torch.equal(other_centers, parts[0][1])  # bit for bit between ranks


def test_some_case_relocates_and_some_case_repeats_centers() -> None:
    assert fit_kmeans(0, 1, 0, "blobs", "float32", {"n_clusters": 5, "init": "far"})[4] == 3
    assert len(fit_kmeans(0, 1, 0, "duplicates", "float32", {"n_clusters": 29})[0].unique()) == 23


def fit_mixture(rank: int, world: int, choice: int, kind: str) -> list[Any]:
    own = split(rows_of("blobs").double(), rank, world, choice)
    group = dist.group.WORLD if world > 1 else None
    model = GaussianMixture(11, covariance_type=kind, n_init=2, group=group).fit(own)
    return [model.predict(own), model.weights_, model.means_, model.covariances_, model.lower_bound_, model.n_iter_]


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize(("world", "choice"), MANY)
def test_mixture_of_shards_equals_mixture_of_all_rows(world: int, choice: int, kind: str) -> None:
    labels, *learned, n_iter = fit_mixture(0, 1, 0, kind)
    parts = run_ranks(world, fit_mixture, choice, kind)
    assert torch.equal(torch.cat([part[0] for part in parts]), labels)
    for _, *other, other_n_iter in parts:
        torch.testing.assert_close(other, learned, rtol=1e-9, atol=1e-9)
        assert other_n_iter == n_iter


def refuse(rank: int, world: int, fault: str) -> str:
    x = torch.rand(3 + rank, 5)
    if fault == "NaN" and rank == 1:
        x[0, 0] = float("nan")
    if fault == "ranks disagree" and rank == 1:
        x = x[:, :4]
    with pytest.raises(ValueError, match=fault) as caught:
        KMeans(8 if fault == "7 rows for 8 clusters" else 3, group=dist.group.WORLD).fit(x)
    return str(caught.value)


@pytest.mark.parametrize("fault", ["NaN", "ranks disagree", "7 rows for 8 clusters"])
def test_what_is_wrong_on_one_rank_is_raised_on_all(fault: str) -> None:
    first, second = run_ranks(2, refuse, fault)
    assert first == second
