"""Gaussian mixtures against stored numbers of scikit-learn (float64, compared at 1e-9), and what EM promises."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import ConvergenceWarning, GaussianMixture
from torch_clustering.em import add_squares_

NUMBERS = numbers("gmm")
CASES = {case["name"]: case for case in NUMBERS["cases"]}
START = F.one_hot(torch.arange(90) % 3, 3)  # (90, 3) rows of labels i mod 3


def agrees(model: GaussianMixture, expected: dict, tolerance: float = 1e-9) -> bool:
    pairs = [(model.weights_, "weights"), (model.means_, "means"), (model.covariances_, "covariances")]
    return all(close(found, expected[name], tolerance) for found, name in pairs) and close(
        model.lower_bound_, expected["lower_bound"], tolerance
    )


@pytest.mark.parametrize("kind", CASES)
def test_no_pass_leaves_the_parameters_of_the_given_responsibilities(kind: str) -> None:
    model = GaussianMixture(3, covariance_type=kind, init=START, max_iter=0).fit(made_rows(90, 3))
    stored = CASES[kind]["init_params"]
    assert agrees(model, {**stored, "lower_bound": -torch.inf})
    assert model.n_iter_ == 0 and not model.converged_ and model.lower_bounds_ == []


@pytest.mark.parametrize("passes", [1, 5])
@pytest.mark.parametrize("kind", CASES)
def test_parameters_after_some_passes_equal_the_stored_ones(kind: str, passes: int) -> None:
    model = GaussianMixture(3, covariance_type=kind, init=START, max_iter=passes, tol=1e-30)
    with pytest.warns(ConvergenceWarning, match=f"max_iter={passes}"):
        model.fit(made_rows(90, 3))
    assert agrees(model, CASES[kind][f"after_{passes}"])


@pytest.mark.parametrize("kind", CASES)
def test_the_converged_mixture_equals_the_stored_one(kind: str) -> None:
    expected, x = CASES[kind]["tol_1e-3"], made_rows(90, 3)
    model = GaussianMixture(3, covariance_type=kind, init=START).fit(x)
    assert agrees(model, expected) and model.n_iter_ == expected["n_iter"] and model.converged_
    assert close(model.score_samples(x)[:5], expected["score_samples_0_4"])
    assert close(model.score_samples(x).mean(), expected["score"])
    assert close(model.predict_proba(x)[:3], expected["proba_0_2"])
    assert model.predict(x).tolist() == expected["labels"] == model.fit_predict(x).tolist()
    assert close(model.score(x), expected["score"])
    assert close(model.bic(x), expected["bic"]) and close(model.aic(x), expected["aic"])


@pytest.mark.parametrize("kind", CASES)
def test_float32_rows_give_the_mixture_of_float64(kind: str) -> None:
    model = GaussianMixture(3, covariance_type=kind, init=START).fit(made_rows(90, 3).float())
    assert agrees(model, CASES[kind]["tol_1e-3"], 1e-3) and model.means_.dtype == torch.float64


def test_one_component_is_mean_and_covariance() -> None:
    stored = NUMBERS["one_component"]
    model = GaussianMixture(1).fit(made_rows(90, 3))
    assert close(model.means_[0], stored["mean"]) and close(model.covariances_[0], stored["cov"])
    assert close(model.lower_bound_, stored["lower_bound"])


@pytest.mark.parametrize("kind", CASES)
def test_rows_far_from_the_origin_give_the_same_mixture(kind: str) -> None:
    x = made_rows(90, 3)
    near, far = (GaussianMixture(3, covariance_type=kind, init=START).fit(x + shift) for shift in (0, 1e5))
    assert close(near.covariances_, far.covariances_, 1e-6)
    assert torch.equal(near.predict(x), far.predict(x + 1e5))


@pytest.mark.parametrize("kind", CASES)
def test_float32_rows_in_tight_groups_far_apart_lose_no_variance(kind: str) -> None:
    # |mean|² is 1e8 times the variance however the rows are centred: products of float32 have no digit of it
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(509) % 3
    x = (torch.tensor([-300.0, 0.0, 500.0])[labels, None] + 0.03 * torch.randn(509, 5, generator=draws)).float()
    model = GaussianMixture(3, covariance_type=kind, reg_covar=1e-9, init=F.one_hot(labels, 3), max_iter=3).fit(x)
    exact = GaussianMixture(3, covariance_type=kind, reg_covar=1e-9, init=F.one_hot(labels, 3), max_iter=3)
    assert close(model.covariances_, exact.fit(x.double()).covariances_, 1e-8)
    assert torch.equal(model.predict(x), labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CASES)
def test_the_likelihood_never_falls(kind: str, dtype: torch.dtype) -> None:
    noise = torch.randn(997, 17, generator=torch.Generator().manual_seed(0))
    x = (made_rows(997, 17) + noise).to(dtype)
    arguments = {"covariance_type": kind, "max_iter": 41, "tol": 1e-30, "reg_covar": 1e-6}
    model = GaussianMixture(5, init_params="random_from_data", **arguments)
    with pytest.warns(ConvergenceWarning):
        bounds = model.fit(x).lower_bounds_
    assert len(bounds) == 41 and bounds[-1] == model.lower_bound_ > bounds[0] + 0.01
    assert min(later - earlier for earlier, later in zip(bounds, bounds[1:], strict=False)) > -1e-6


@pytest.mark.parametrize("sharpness", [1, 60, 1000])
def test_squares_of_few_or_of_many_active_rows_are_the_same_sums(sharpness: float) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(211, 37, generator=draws).double()
    logits = torch.randn(7, 211, generator=draws).double()
    responsibilities = (sharpness * logits).softmax(0)
    found = torch.zeros(7, 37, 37, dtype=torch.float64)
    for part in (slice(0, 83), slice(83, 211)):
        add_squares_(found, x[part], responsibilities[:, part])
    wanted = torch.einsum("kb,bi,bj->kij", responsibilities, x, x)
    assert close(found.tril(), wanted.tril(), 1e-12)


def blobs(width: int = 5) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    centers = 9 * torch.randn(3, width, generator=draws)
    labels = torch.arange(97) % 3
    return centers[labels] + torch.randn(97, width, generator=draws), labels


@pytest.mark.parametrize("kind", CASES)
def test_kmeans_start_finds_separate_groups(kind: str) -> None:
    x, labels = blobs()
    model = GaussianMixture(3, covariance_type=kind, n_init=2).fit(x)
    groups = [model.predict(x)[labels == group].unique() for group in range(3)]
    assert [len(group) for group in groups] == [1, 1, 1] and len(torch.cat(groups).unique()) == 3
    assert close(model.predict_proba(x).sum(1), torch.ones(97)) and model.predict_proba(x[:0]).shape == (0, 3)


def test_a_singular_covariance_names_its_component_and_the_remedy() -> None:
    x, _ = blobs()
    flat = x * torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    for kind in CASES:
        if kind != "spherical":
            with pytest.raises(ValueError, match="component [012] .*raise reg_covar"):
                GaussianMixture(3, covariance_type=kind, reg_covar=0).fit(flat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_components": 101}, "97 rows for 101"),
        ({"n_components": 3, "covariance_type": "round"}, "'round'"),
        ({"n_components": 3, "init_params": "spread"}, "'spread'.*'kmeans'"),
        ({"n_components": 3, "layout": "spread"}, "'spread'.*'replicated'"),
        ({"n_components": 3, "init": torch.ones(96, 3)}, r"\(96, 3\).*\(97, 3\)"),
        ({"n_components": 3, "init": -torch.ones(97, 3)}, "responsibilities >= 0"),
        ({"n_components": 3, "weights_init": [0.5, 0.4, 0.2]}, "sum 1.1"),
        ({"n_components": 3, "means_init": torch.ones(3, 4)}, r"means_init .*\(3, 4\).*\(3, 5\)"),
        ({"n_components": 3, "means_init": torch.full((3, 5), torch.nan)}, "means_init contains NaN"),
        ({"n_components": 3, "precisions_init": torch.ones(3, 5, 5)}, "precisions_init must be positive definite"),
        ({"n_components": 3, "precisions_init": torch.ones(3, 5, 5).triu()}, "precisions_init must be symmetric"),
        ({"n_components": 3, "n_init": 0}, "n_init=0"),
        ({"n_components": 3, "max_iter": -1}, "max_iter=-1"),
        ({"n_components": 3, "random_state": -1}, "random_state=-1"),
        ({"n_components": 3, "tol": 0}, "tol=0"),
        ({"n_components": 3, "reg_covar": -1}, "reg_covar=-1"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**arguments).fit(blobs()[0])


def test_full_covariances_that_fill_the_memory_are_refused_with_their_size_and_advice() -> None:
    with pytest.raises(ValueError, match=r"10.1 GiB.*'diag'.*PCA"):
        GaussianMixture(151, max_iter=1, init=torch.ones(151, 151)).fit(torch.ones(151, 2999))


def test_a_component_without_rows_for_its_covariance_is_warned_of() -> None:
    x, _ = blobs()
    with pytest.warns(ConvergenceWarning, match=r"has 2\.\d+ rows, its covariance needs 6"):
        GaussianMixture(32, reg_covar=1e-2, init=F.one_hot(torch.arange(97) % 32, 32), max_iter=2, tol=1e30).fit(x)
