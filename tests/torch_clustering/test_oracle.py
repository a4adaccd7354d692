"""KMeans and MiniBatchKMeans against scikit-learn and a plain loop, from the same start, over a grid of made inputs.

The oracles work in float64: labels of float32 rows must be the same.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn.cluster
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torch_clustering import ConvergenceWarning, KMeans
from torch_clustering.minibatch import MiniBatchKMeans

FEW = settings(max_examples=40, derandomize=True, deadline=None, database=None)


@dataclass
class Problem:
    """x (N, D) float32 or float64, sample_weight (N,) or None, init (K, D) rows of x, where they lie and how far."""

    x: np.ndarray
    weight: np.ndarray | None
    init: np.ndarray
    dtype: type

    @property
    def exactness(self) -> float:
        """Relative error of centers that are returned in the dtype."""
        return 1e-9 if self.dtype is np.float64 else 1e-6


@st.composite
def problems(draw: Any) -> Problem:
    """Overlapping or separated groups, near the origin or far from it, wide and narrow."""
    draws = np.random.default_rng(draw(st.integers(0, 10**6)))
    n_rows, width = draw(st.integers(3, 61)), draw(st.sampled_from([1, 2, 5, 17]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x = draws.standard_normal((n_rows, width)) * draw(st.sampled_from([1e-3, 1.0, 100.0]))
    x = x + draw(st.sampled_from([0.0, 3.0])) * x.std() * draws.integers(4, size=(n_rows, 1))
    x = (x + draw(st.sampled_from([0.0, 7.0])) * x.std()).astype(dtype)
    weight = {
        "none": None,
        "whole": draws.integers(1, 5, n_rows).astype(float),
        "real": draws.random(n_rows) + 0.01,
        "some zero": np.maximum(draws.integers(-1, 3, n_rows), np.arange(n_rows) == 0).astype(float),
    }[draw(st.sampled_from(["none", "whole", "real", "some zero"]))]
    heavy = np.arange(n_rows) if weight is None else weight.nonzero()[0]
    # if each row is a cluster, rounding decides between the stop by movement and the stop by labels
    n_clusters = draw(st.integers(1, min(11, max(1, len(heavy) // 2))))
    return Problem(x, weight, x[draws.choice(heavy, n_clusters, replace=False)], dtype)


def agree(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1e-30, np.abs(expected).max()))


@FEW
@given(problems(), st.sampled_from([0.0, 1e-4, 1e-1]), st.sampled_from([1, 3, 300]))
def test_euclidean_kmeans_equals_that_of_scikit_learn(problem: Problem, tol: float, max_iter: int) -> None:
    options: dict[str, Any] = {"n_init": 1, "tol": tol, "max_iter": max_iter, "init": problem.init}
    ours, theirs = KMeans(len(problem.init), **options), sklearn.cluster.KMeans(len(problem.init), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rows of weight 0 can leave a cluster empty
        ours.fit(problem.x, sample_weight=problem.weight)
        theirs.fit(problem.x.astype(float), sample_weight=problem.weight)
    assert ours.labels_.tolist() == theirs.labels_.tolist() and ours.n_iter_ == theirs.n_iter_
    agree(ours.cluster_centers_, theirs.cluster_centers_, problem.exactness)
    agree(ours.inertia_, theirs.inertia_, problem.exactness)
    agree(
        ours.transform(problem.x),
        theirs.transform(problem.x.astype(float)),
        1e-3 if problem.dtype is np.float32 else 1e-6,
    )
    assert ours.predict(problem.x).tolist() == theirs.labels_.tolist()


def spherical_loop(problem: Problem) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Labels, centers, inertia and passes of spherical k-means in float64, until no label changes."""
    unit = problem.x.astype(float) / np.linalg.norm(problem.x.astype(float), axis=1, keepdims=True)
    centers = problem.init.astype(float) / np.linalg.norm(problem.init.astype(float), axis=1, keepdims=True)
    weight = np.ones(len(unit)) if problem.weight is None else problem.weight
    labels = np.full(len(unit), -1)
    n_iter, settled = 0, False
    while not settled:
        previous, labels = labels, (unit @ centers.T).argmax(1)
        n_iter, settled = n_iter + 1, bool((labels == previous).all())
        sums = np.stack([weight[labels == k] @ unit[labels == k] for k in range(len(centers))])
        assume((np.linalg.norm(sums, axis=1) > 0).all())  # what happens to a lost cluster is not this loop's affair
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return labels, centers, float((weight * (1 - (unit * centers[labels]).sum(1))).sum()), n_iter


@FEW
@given(problems().filter(lambda problem: problem.x.shape[1] > 1 and (problem.weight is None or problem.weight.all())))
def test_spherical_kmeans_equals_a_plain_loop(problem: Problem) -> None:
    labels, centers, inertia, n_iter = spherical_loop(problem)
    model = KMeans(len(problem.init), metric="cosine", init=problem.init, tol=0).fit(problem.x, None, problem.weight)
    assert model.labels_.tolist() == labels.tolist() and model.n_iter_ == n_iter
    agree(model.cluster_centers_, centers, problem.exactness)
    np.testing.assert_allclose(model.inertia_, inertia, rtol=problem.exactness, atol=1e-6 * len(labels))


@FEW
@given(problems(), st.integers(1, 7))
def test_streams_equal_those_of_scikit_learn(problem: Problem, n_batches: int) -> None:
    options: dict[str, Any] = {"n_clusters": len(problem.init), "init": problem.init, "reassignment_ratio": 0.0}
    ours, theirs = MiniBatchKMeans(**options), sklearn.cluster.MiniBatchKMeans(n_init=1, **options)
    parts = np.array_split(np.arange(len(problem.x)), min(n_batches, len(problem.x) // len(problem.init)))
    for part in parts:
        weight = None if problem.weight is None else problem.weight[part]
        if weight is None or weight.any():
            ours.partial_fit(problem.x[part], sample_weight=weight)
            theirs.partial_fit(problem.x[part].astype(float), sample_weight=weight)
    agree(ours.cluster_centers_, theirs.cluster_centers_, problem.exactness)
    agree(ours.counts_, theirs._counts, problem.exactness)


@FEW
@given(problems(), st.sampled_from(["euclidean", "cosine"]), st.sampled_from(["auto", "lloyd", "elkan"]))
def test_labels_and_inertia_belong_to_the_centers(problem: Problem, metric: Any, algorithm: Any) -> None:
    model = KMeans(len(problem.init), metric=metric, algorithm=algorithm, n_init=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(problem.x, sample_weight=problem.weight)
    x, centers = torch.as_tensor(problem.x).double(), torch.as_tensor(model.cluster_centers_).double()
    x = torch.nn.functional.normalize(x) if metric == "cosine" else x
    squares = torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist").square()
    own = squares.gather(1, torch.as_tensor(model.labels_)[:, None])[:, 0]
    assert model.predict(problem.x).tolist() == model.labels_.tolist()
    assert bool((own <= squares.amin(1) * (1 + 1e-6) + 1e-6 * x.square().mean()).all())
    weight = torch.ones(len(x)) if problem.weight is None else torch.as_tensor(problem.weight)
    inertia = float((weight * own).sum()) / (2 if metric == "cosine" else 1)
    np.testing.assert_allclose(model.inertia_, inertia, rtol=1e-5, atol=1e-7 * float(x.square().sum()))
    np.testing.assert_allclose(model.score(problem.x, sample_weight=problem.weight), -inertia, rtol=1e-5, atol=1e-6)
