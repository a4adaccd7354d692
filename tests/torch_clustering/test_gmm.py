"""Gaussian mixtures against scikit-learn's numbers (float64, compared at 1e-9), and their manners."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import ConvergenceWarning, GaussianMixture

NUMBERS = numbers("gmm")
CASES = {case["name"]: case for case in NUMBERS["cases"]}
START = F.one_hot(torch.arange(90) % 3, 3)  # (90, 3) rows of labels i mod 3


def agrees(model: GaussianMixture, expected: dict, tolerance: float = 1e-9) -> bool:
    pairs = [(model.weights_, "weights"), (model.means_, "means"), (model.covariances_, "covariances")]
    return all(close(found, expected[name], tolerance) for found, name in pairs) and close(
        model.lower_bound_, expected["lower_bound"], tolerance
    )


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
    assert model.predict(x).tolist() == expected["labels"]


def test_float32_rows_give_the_mixture_of_float64() -> None:
    model = GaussianMixture(3, init=START).fit(made_rows(90, 3).float())
    assert agrees(model, CASES["full"]["tol_1e-3"], 1e-4) and model.means_.dtype == torch.float64


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
def test_the_likelihood_never_falls(kind: str) -> None:
    bounds = []
    for passes in range(1, 13):
        with pytest.warns(ConvergenceWarning):
            model = GaussianMixture(3, covariance_type=kind, init=START, max_iter=passes, tol=1e-30, reg_covar=0)
            bounds.append(model.fit(made_rows(90, 3)).lower_bound_)
    assert bounds == sorted(bounds)


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
        ({"n_components": 3, "init": "random"}, "'random'"),
        ({"n_components": 3, "init": torch.ones(96, 3)}, r"\(96, 3\).*\(97, 3\)"),
        ({"n_components": 3, "tol": 0}, "tol=0"),
        ({"n_components": 3, "reg_covar": -1}, "reg_covar=-1"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**arguments).fit(blobs()[0])
