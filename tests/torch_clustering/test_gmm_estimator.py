"""GaussianMixture beside scikit-learn's, its starts, and its manners as an estimator."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning as TheirWarning
from sklearn.exceptions import SkipTestWarning
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from tests.ranks import run_ranks
from torch_clustering import ConvergenceWarning, GaussianMixture

KINDS = ["full", "tied", "diag", "spherical"]


def groups(n_rows: int = 211, width: int = 5, n_groups: int = 3, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    centers = 4 * draws.standard_normal((n_groups, width))
    return centers[np.arange(n_rows) % n_groups] + draws.standard_normal((n_rows, width))


def start(x: np.ndarray, kind: str, n_components: int) -> dict[str, np.ndarray]:
    width = x.shape[1]
    shapes = {"full": (n_components, 1, 1), "tied": (1, 1), "diag": (n_components, width), "spherical": n_components}
    precisions = np.full(shapes[kind], 0.7)
    precisions = precisions * np.eye(width) if kind in ("full", "tied") else precisions
    weights = np.arange(1.0, n_components + 1)
    return {"weights_init": weights / weights.sum(), "means_init": x[:n_components], "precisions_init": precisions}


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    n_rows=st.integers(23, 307),
    width=st.sampled_from([1, 2, 7, 19]),
    n_components=st.integers(1, 5),
    dtype=st.sampled_from(["float32", "float64"]),
    max_iter=st.sampled_from([1, 3, 17]),
)
def test_a_fit_from_the_same_start_equals_that_of_scikit_learn(
    kind: str, n_rows: int, width: int, n_components: int, dtype: str, max_iter: int
) -> None:
    x = groups(n_rows, width, seed=n_rows + width).astype(dtype)
    arguments = {"covariance_type": kind, "reg_covar": 1e-2, "max_iter": max_iter, **start(x, kind, n_components)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = GaussianMixture(n_components, **arguments).fit(x)
        theirs = Theirs(n_components, **arguments).fit(x.astype("float64"))
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if dtype == "float64" else {"rtol": 1e-2, "atol": 1e-3}
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bounds_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), **tolerance, err_msg=name)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=tolerance["rtol"])
    for name in ("score", "bic", "aic"):
        assert getattr(ours, name)(x) == pytest.approx(getattr(theirs, name)(x), rel=tolerance["rtol"]), name


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_given_in_part_replace_those_of_the_clusters(kind: str) -> None:
    x = groups()
    given_parts = start(x, kind, 3)
    for name, value in given_parts.items():
        model = GaussianMixture(3, covariance_type=kind, max_iter=0, **{name: value}).fit(x)
        attribute = {"weights_init": "weights_", "means_init": "means_", "precisions_init": "precisions_"}[name]
        np.testing.assert_allclose(getattr(model, attribute), value, rtol=1e-9)
    assert model.weights_ == pytest.approx([1 / 3] * 3, abs=0.01)  # of the clusters


@pytest.mark.parametrize("how", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])  # EM of "tied" leaves a random start too slowly
def test_every_start_of_several_finds_the_groups(how: str, kind: str) -> None:
    x = groups()
    model = GaussianMixture(3, covariance_type=kind, init_params=how, n_init=5, tol=1e-5, max_iter=300)
    labels = model.fit_predict(x)
    assert len({tuple(labels[group::3]) for group in range(3)}) == 3
    assert all(len(set(labels[group::3])) == 1 for group in range(3))


def test_random_responsibilities_differ_between_restarts_and_seeds_but_not_between_chunks() -> None:
    x = torch.from_numpy(groups(9973))
    settings_ = {"covariance_type": "diag", "init_params": "random", "max_iter": 0}
    first, second = (GaussianMixture(3, random_state=seed, **settings_).fit(x) for seed in (0, 1))
    assert not torch.equal(first.means_, second.means_)
    # the same rows with more features in a wider, hence shorter chunk
    wide = GaussianMixture(3, **settings_).fit(torch.cat([x, x.repeat(1, 40)], 1))
    torch.testing.assert_close(wide.means_[:, :5], first.means_, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_two_counts_as_two_rows(kind: str) -> None:
    x, weights = groups(), 1 + np.arange(211) % 3
    given_start = start(x, kind, 3)
    weighted = GaussianMixture(3, covariance_type=kind, **given_start).fit(x, sample_weight=weights)
    repeated = GaussianMixture(3, covariance_type=kind, **given_start).fit(np.repeat(x, weights, axis=0))
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-9)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-7, atol=1e-9)


def test_a_warm_start_equals_one_long_fit() -> None:
    x = groups(seed=3)
    arguments: dict[str, Any] = {"init_params": "random", "tol": 1e-9}
    whole = GaussianMixture(3, max_iter=14, **arguments)
    halves = GaussianMixture(3, max_iter=7, warm_start=True, **arguments)
    with pytest.warns(ConvergenceWarning):
        whole.fit(x)
        halves.fit(x).fit(x)
    assert halves.lower_bounds_ == pytest.approx(whole.lower_bounds_[7:], rel=1e-12)
    np.testing.assert_allclose(halves.means_, whole.means_, rtol=1e-9)


def test_a_warm_start_from_a_converged_mixture_is_compared_with_its_likelihood() -> None:
    x = groups()
    model = GaussianMixture(3, warm_start=True, n_init=3).fit(x)
    means = model.means_
    assert model.fit(x).n_iter_ == 1
    np.testing.assert_allclose(model.set_params(max_iter=0).fit(x).means_, means, atol=1e-2)
    assert model.n_iter_ == 0 and model.lower_bound_ == -np.inf


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_mixture(kind: str) -> None:
    model = GaussianMixture(3, covariance_type=kind).fit(groups())
    rows, labels = model.sample(60013)
    assert rows.shape == (60013, 5) and (np.diff(labels) >= 0).all()
    np.testing.assert_allclose(np.bincount(labels) / len(labels), model.weights_, atol=0.01)
    full = {"full": lambda k: model.covariances_[k], "tied": lambda _: model.covariances_}
    spread = full.get(kind, lambda k: np.eye(5) * model.covariances_[k])
    for component in range(3):
        own = rows[labels == component]
        np.testing.assert_allclose(own.mean(0), model.means_[component], atol=0.05)
        np.testing.assert_allclose(np.cov(own.T), spread(component), atol=0.08)
    assert np.array_equal(model.sample(7)[0], model.sample(7)[0])


def test_a_tensor_in_gives_tensors_out_and_an_array_arrays() -> None:
    x = groups().astype("float32")
    of_array, of_tensor = GaussianMixture(3).fit(x), GaussianMixture(3).fit(torch.from_numpy(x))
    fitted = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
    assert all(isinstance(getattr(of_array, name), np.ndarray) for name in fitted)
    assert all(isinstance(getattr(of_tensor, name), torch.Tensor) for name in fitted)
    assert isinstance(of_array.predict(torch.from_numpy(x)), torch.Tensor)
    assert isinstance(of_tensor.predict(x), np.ndarray) and isinstance(of_tensor.sample(2)[0], torch.Tensor)
    assert of_tensor.predict(x).tolist() == of_array.predict(x).tolist()


def test_scikit_learn_finds_nothing_to_object_to() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # pandas and array APIs, where they are not installed
        warnings.simplefilter("ignore", TheirWarning)  # fewer rows than features
        results = check_estimator(GaussianMixture())
    assert len([result for result in results if result["status"] == "passed"]) > 40
    assert issubclass(ConvergenceWarning, TheirWarning)


def test_it_serves_in_a_pipeline_and_a_grid_search() -> None:
    x = groups()
    search = GridSearchCV(GaussianMixture(tol=1e-2), {"n_components": [1, 3], "covariance_type": ["diag"]}, cv=2)
    assert search.fit(x).best_params_["n_components"] == 3
    labels = make_pipeline(StandardScaler(), clone(search.best_estimator_)).fit_predict(x)
    assert len(set(labels)) == 3


def fit_given(rank: int, world: int, misshapen: bool) -> Any:
    x = torch.from_numpy(groups())
    first = torch.nn.functional.one_hot(torch.arange(211) % 11 % 3, 3)
    own = slice(0, 211) if rank == 1 else slice(0, 0)  # rank 0 has no rows
    init = first[own][:, :2] if misshapen and rank == 1 else first[own]
    if misshapen:
        with pytest.raises(ValueError, match=r"\(211, 2\).*\(211, 3\)") as caught:
            GaussianMixture(3, init=init, distributed=True).fit(x[own])
        return str(caught.value)
    sharded = GaussianMixture(3, init=init, distributed=True).fit(x[own])
    replicated = GaussianMixture(3, init=first, distributed=True, layout="replicated").fit(x)
    random = GaussianMixture(3, init_params="random", n_init=2, distributed=True, layout="replicated").fit(x)
    return [sharded.means_, replicated.means_, random.means_, replicated.predict(x)]


def test_a_rank_without_rows_and_replicated_rows_give_the_mixture_of_one_process() -> None:
    x = torch.from_numpy(groups())
    one = GaussianMixture(3, init=torch.nn.functional.one_hot(torch.arange(211) % 11 % 3, 3)).fit(x)
    random = GaussianMixture(3, init_params="random", n_init=2).fit(x)
    for sharded, replicated, randomly, labels in run_ranks(2, fit_given, False):
        torch.testing.assert_close(sharded, one.means_, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(replicated, one.means_, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(randomly, random.means_, rtol=1e-9, atol=1e-9)
        assert torch.equal(labels, one.predict(x))


def test_responsibilities_of_a_wrong_shape_on_one_rank_are_refused_on_all() -> None:
    first, second = run_ranks(2, fit_given, True)
    assert first == second
