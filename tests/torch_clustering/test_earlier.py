"""The earlier library's names: its arguments, order, defaults and return values, over today's answers."""

import inspect
import logging
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from torch_clustering import GaussianMixture, KMeans
from torch_clustering.earlier import PyTorchKMeans
from torch_clustering.earlier_mixture import PyTorchGaussianMixture
from torch_clustering.faiss_kmeans import FaissKMeans

KMEANS: dict[str, Any] = {
    "metric": "euclidean",
    "init": "k-means++",
    "random_state": 0,
    "n_clusters": 8,
    "n_init": 10,
    "max_iter": 300,
    "tol": 1e-4,
    "distributed": False,
    "verbose": True,
}
MIXTURE = {"covariance_type": "diag", "metric": "euclidean", "reg_covar": 1e-6, **KMEANS}
FAISS = {
    "metric": "euclidean",
    "n_clusters": 8,
    "n_init": 10,
    "max_iter": 300,
    "random_state": 1234,
    "distributed": False,
    "verbose": True,
}


def scattered(n_rows: int, width: int = 5, seed: int = 0) -> Tensor:
    """(n_rows, width) rows about three centres that overlap: restarts end in different places."""
    draws = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(3, width, generator=draws)
    return centers[torch.arange(n_rows) % 3] + torch.randn(n_rows, width, generator=draws)


@pytest.mark.parametrize(
    ("kind", "expected"), [(PyTorchKMeans, KMEANS), (PyTorchGaussianMixture, MIXTURE), (FaissKMeans, FAISS)]
)
def test_arguments_keep_their_order_and_defaults(kind: type, expected: dict[str, Any]) -> None:
    parameters = list(inspect.signature(kind).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == list(expected.items())


def test_kmeans_gives_the_labels_of_the_scikit_learn_style_class_and_pairs_from_predict() -> None:
    x = scattered(211)
    model, plain = PyTorchKMeans(n_clusters=7), KMeans(7, n_init=10).fit(x)
    labels = model.fit_predict(x)
    assert (labels.dtype, labels.device) == (torch.int64, x.device)
    assert torch.equal(labels, plain.labels_)
    assert (model.n_iter_, model.n_features_in_, model.inertia_) == (plain.n_iter_, 5, plain.inertia_)
    again, inertia = model.predict(x)
    assert torch.equal(again, labels)
    assert float(inertia) == pytest.approx(plain.inertia_)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_predict_takes_other_centers_also_before_a_fit(metric: Any) -> None:
    x, centers = scattered(53).numpy(), scattered(3, seed=1).numpy()
    labels, inertia = PyTorchKMeans(metric=metric).predict(x, centers)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, centers)]
    squared = ((x[:, None] - centers) ** 2).sum(2) if metric == "euclidean" else 1 - unit[0] @ unit[1].T
    assert isinstance(labels, np.ndarray)
    assert np.array_equal(labels, squared.argmin(1))
    assert float(inertia) == pytest.approx(squared.min(1).sum(), rel=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_stats_hold_what_belongs_together_of_each_restart(metric: Any) -> None:
    x = scattered(211)
    model = PyTorchKMeans(metric, n_clusters=7, n_init=5, keep_stats=True).fit(x)
    stats = model.stats
    assert {name: tuple(part.shape) for name, part in stats.items()} == {
        "state": (5, 7, 5),
        "inertia": (5,),
        "label": (5, 211),
    }
    assert len(set(stats["inertia"].tolist())) > 1
    assert float(stats["inertia"].min()) == pytest.approx(model.inertia_, rel=1e-6)
    best = int(stats["inertia"].argmin())
    assert torch.equal(stats["label"][best], model.labels_)
    for centers, inertia, labels in zip(stats["state"], stats["inertia"], stats["label"], strict=True):
        found, total = model.predict(x, centers)
        assert torch.equal(found, labels)
        assert float(inertia) == pytest.approx(float(total), rel=1e-5)


def test_a_restart_does_not_depend_on_how_many_there_are_and_labels_are_kept_on_demand_only() -> None:
    x = scattered(211)
    few, many = (PyTorchKMeans(n_clusters=7, n_init=n_init).fit(x).stats for n_init in (2, 5))
    assert set(few) == {"state", "inertia"}
    assert torch.allclose(few["state"], many["state"][:2], atol=1e-5)


def test_initialize_gives_what_the_first_restart_starts_from() -> None:
    x = scattered(211)
    model = PyTorchKMeans(n_clusters=3, n_init=1, max_iter=1)
    first, other = model.initialize(x, 0), model.initialize(x, 1)
    assert not torch.equal(first, other)
    assert all(bool((x == row).all(1).any()) for row in first)
    assert torch.equal(KMeans(3, init=first, max_iter=1).fit(x).cluster_centers_, model.fit(x).cluster_centers_)
    assert torch.equal(PyTorchKMeans(n_clusters=3, init=x[:3]).initialize(x, 0), x[:3])


@pytest.mark.parametrize("verbose", [True, False])
def test_restarts_are_logged_and_nothing_is_printed(
    verbose: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    PyTorchKMeans(n_clusters=3, n_init=2, verbose=verbose).fit(scattered(53))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("torch_clustering")]
    assert [line.split(":")[0] for line in told] == (["restart 1 of 2", "restart 2 of 2"] if verbose else [])
    assert capsys.readouterr().out == ""


def test_mixture_returns_the_responsibilities_of_the_best_restart() -> None:
    x = scattered(307)
    model = PyTorchGaussianMixture("full", n_clusters=3, n_init=2)
    responsibilities = model.fit_predict(x)
    assert (responsibilities.shape, responsibilities.dtype) == ((307, 3), torch.float32)
    expected = GaussianMixture(3, n_init=2, tol=1e-4, max_iter=300).fit(x)
    assert float(model.lower_bound_) == pytest.approx(expected.lower_bound_, abs=1e-3)
    assert torch.allclose(responsibilities, expected.predict_proba(x).float(), atol=0.02)
    assert torch.equal(model.predict_score(x), responsibilities)
    assert torch.allclose(model.weights, responsibilities.mean(0), atol=1e-2)
    assert [tuple(part.shape) for part in (model.cluster_centers_, model.covariances)] == [(3, 5), (3, 5, 5)]


def test_mixture_takes_the_best_of_its_restarts() -> None:
    x = scattered(401)
    one, five = (PyTorchGaussianMixture("spherical", n_clusters=5, n_init=n_init, random_state=1) for n_init in (1, 5))
    one.fit_predict(x)
    five.fit_predict(x)
    expected = GaussianMixture(5, covariance_type="spherical", n_init=5, random_state=1, tol=1e-4, max_iter=300).fit(x)
    assert float(one.lower_bound_) < float(five.lower_bound_) - 1e-3
    assert float(five.lower_bound_) == pytest.approx(expected.lower_bound_, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "shape"), [("full", (3, 5, 5)), ("tied", (5, 5)), ("diag", (3, 5)), ("spherical", (3, 1))]
)
def test_cosine_mixture_has_unit_means_and_covariances_about_them(kind: Any, shape: tuple[int, ...]) -> None:
    x = scattered(307).double()
    model = PyTorchGaussianMixture(kind, "cosine", n_clusters=3, n_init=1, tol=1e-9)
    r, u = model.fit_predict(x.numpy()), torch.nn.functional.normalize(x)
    assert isinstance(r, np.ndarray)
    r, means = torch.from_numpy(r), torch.from_numpy(model.cluster_centers_)
    assert torch.allclose(means.norm(dim=1), torch.ones(3).double())
    gap = u[:, None] - means  # (N, K, D)
    full = torch.einsum("nk,nkd,nke->kde", r, gap, gap) / r.sum(0)[:, None, None]
    diagonal = full.diagonal(dim1=1, dim2=2)
    expected = {
        "full": full,
        "tied": (full * r.mean(0)[:, None, None]).sum(0),
        "diag": diagonal,
        "spherical": diagonal.mean(1, keepdim=True),
    }[kind]
    assert model.covariances.shape == shape
    assert np.allclose(model.covariances, expected, atol=2e-4)
    assert float(model.lower_bound_) == max(model.mixture_.lower_bounds_)


def test_mixture_starts_once_from_given_centers() -> None:
    x = scattered(101)
    model = PyTorchGaussianMixture(init=x[:3], n_clusters=3)
    assert torch.equal(model.fit_predict(x), PyTorchGaussianMixture(init=x[:3], n_clusters=3, n_init=1).fit_predict(x))


def work_together(rank: int, world: int) -> dict[str, Any]:
    """What the classes find with the same rows on every rank, and with each rank's own."""
    x, records = scattered(211), []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("torch_clustering.earlier")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    model = PyTorchKMeans(n_clusters=7, n_init=3, distributed=True, keep_stats=True, verbose=False)
    found = {"same": (model.fit_predict(x), model.stats)}
    own = x[:89] if rank == 0 else x[89:]
    found["own"] = (model.fit_predict(own), model.stats)
    found["start"] = model.initialize(x, 5), model.initialize(own, 5)
    found["sync"] = model.distributed_sync(torch.tensor([rank, 7]))
    logger.removeHandler(handler)
    mixture = PyTorchGaussianMixture(n_clusters=3, n_init=1, distributed=True)
    found["mixture"] = mixture.fit_predict(x), mixture.fit_predict(own)
    found["log"] = records
    return found


def test_ranks_split_equal_rows_and_keep_own_ones() -> None:
    x = scattered(211)
    alone = PyTorchKMeans(n_clusters=7, n_init=3, keep_stats=True).fit(x)
    mixture = PyTorchGaussianMixture(n_clusters=3, n_init=1).fit_predict(x)
    ranks = run_ranks(2, work_together)
    for found, mine in zip(ranks, (slice(0, 89), slice(89, 211)), strict=True):
        (labels, stats), (own_labels, own_stats) = found["same"], found["own"]
        assert torch.equal(labels, alone.labels_)
        assert torch.equal(own_labels, alone.labels_[mine])
        assert torch.allclose(stats["inertia"], alone.stats["inertia"].expand(2, 3), rtol=1e-5)
        assert torch.equal(stats["label"], alone.stats["label"].expand(2, 3, 211))
        assert torch.equal(own_stats["label"], alone.stats["label"][:, mine])
        assert torch.allclose(own_stats["state"], alone.stats["state"], atol=1e-5)
        assert torch.equal(found["start"][0], alone.initialize(x, 5))
        assert torch.equal(found["start"][1], found["start"][0])
        assert found["sync"].tolist() == [[0, 7], [1, 7]]
        assert torch.allclose(found["mixture"][0], mixture, atol=1e-4)
        assert torch.allclose(found["mixture"][1], mixture[mine], atol=1e-4)
    told = ["the same rows" in line for line in ranks[0]["log"]]
    assert (told, ranks[1]["log"]) == ([True, False, True, False], [])


def cluster_by_faiss(rank: int, world: int) -> Tensor:
    """Labels on every rank."""
    return FaissKMeans(n_clusters=3, n_init=1, max_iter=5, distributed=True, verbose=False).fit_predict(scattered(53))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_faiss_clusters_all_rows_and_labels_are_of_the_nearest_center(metric: Any) -> None:
    pytest.importorskip("faiss")
    x = scattered(1409)  # above 256 rows a cluster faiss by itself takes a sample
    model = FaissKMeans(metric, n_clusters=3, n_init=2, max_iter=40, verbose=False)
    labels = model.fit_predict(x)
    assert (labels.dtype, labels.shape) == (torch.int64, (1409,))
    found, _ = PyTorchKMeans(metric).predict(x, model.cluster_centers_)
    assert torch.equal(found, labels)
    rows = torch.nn.functional.normalize(x) if metric == "cosine" else x
    means = torch.stack([rows[labels == label].mean(0) for label in range(3)])
    means = torch.nn.functional.normalize(means) if metric == "cosine" else means
    assert torch.allclose(means, model.cluster_centers_, atol=1e-3)
    assert np.array_equal(FaissKMeans(metric, 3, 2, 40, verbose=False).fit_predict(x.numpy()), labels.numpy())


def test_faiss_heeds_its_seed_and_ranks_agree() -> None:
    pytest.importorskip("faiss")
    x = scattered(307)
    one, other = (FaissKMeans(n_clusters=7, n_init=1, max_iter=1, random_state=s, verbose=False) for s in (1, 2))
    assert not torch.equal(one.fit_predict(x), other.fit_predict(x))
    first, second = run_ranks(2, cluster_by_faiss)
    assert torch.equal(first, second)
    assert torch.equal(first, FaissKMeans(n_clusters=3, n_init=1, max_iter=5, verbose=False).fit_predict(scattered(53)))


def test_faiss_missing_too_few_rows_and_nan_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    model = FaissKMeans(n_clusters=7, verbose=False)
    with pytest.raises(ValueError, match="5 rows for 7 clusters"):
        model.fit_predict(scattered(5))
    with pytest.raises(ValueError, match="NaN"):
        model.fit_predict(torch.full((11, 2), torch.nan))
    if not hasattr(sys.modules["faiss"], "StandardGpuResources"):
        with pytest.raises(ImportError, match="faiss-gpu"):
            model.fit_predict(scattered(53), device=0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        model.fit_predict(scattered(53))
