"""The mixture of two beta densities against stored numbers and SciPy's densities."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import beta

from tests.torch_clustering.made import close, numbers
from torch_clustering.beta_mixture import BetaMixture1D

STORED = numbers("gmm")["beta_mixture_1d"]
T = (np.arange(1, 41) - 0.5) / 40
X = 0.5 * T**3 + 0.5 * (1 - np.sqrt(1 - T))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_fit_equals_the_stored_one_and_is_of_the_kind_of_the_data(kind: object) -> None:
    x = kind(X)  # type: ignore[operator]
    model = BetaMixture1D().fit(x)
    for name in ("alphas", "betas", "weights"):
        assert close(getattr(model, name), STORED[name]) and type(getattr(model, name)) is type(x)


def test_densities_equal_those_of_scipy() -> None:
    model = BetaMixture1D().fit(X)
    single = [beta.pdf(X, model.alphas[y], model.betas[y]) for y in (0, 1)]
    weighted = [model.weights[y] * single[y] for y in (0, 1)]
    for y in (0, 1):
        assert close(model.likelihood(X, y), single[y]) and close(model.weighted_likelihood(X, y), weighted[y])
    assert close(model.probability(X), sum(weighted))
    assert close(model.responsibilities(X), np.stack(weighted) / sum(weighted))


def test_values_at_and_beyond_the_ends_count_as_near_them() -> None:
    model = BetaMixture1D().fit(X)
    found = model.responsibilities(np.array([-1.0, 0.0, 1e-4, 1.0, 3.0]))
    assert close(found[:, :2], found[:, [2, 2]]) and close(found[:, 3], found[:, 4]) and np.isfinite(found).all()


@pytest.mark.parametrize("values", [[0.3] * 7, [0.0, 1.0] * 5, [0.0] * 3 + [1.0] * 11, [0.5]])
def test_collapsed_and_extreme_values_leave_finite_parameters_above_0(values: list[float]) -> None:
    model = BetaMixture1D(max_iters=31).fit(torch.tensor(values))
    for part in (model.alphas, model.betas, model.weights):
        assert bool((part > 0).all()) and bool(part.isfinite().all())
    assert bool((model.alphas + model.betas > 1e-3).all())  # a variance of at most 0.999 mean (1 - mean)


def test_a_value_far_from_both_components_is_shared_between_them() -> None:
    model = BetaMixture1D(alphas_init=[400, 2], betas_init=[2, 400])
    assert close(model.responsibilities(np.array([0.45])), [[0.5], [0.5]])


@pytest.mark.parametrize(("x", "message"), [([], "at least one"), ([0.1, float("nan")], "NaN"), ([[0.1]], r"\(1, 1\)")])
def test_what_is_no_list_of_numbers_is_refused(x: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BetaMixture1D().fit(np.array(x))


@pytest.mark.parametrize("arguments", [{"max_iters": 0}, {"alphas_init": [1]}, {"betas_init": [1, 0]}])
def test_impossible_settings_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="max_iters|_init"):
        BetaMixture1D(**arguments)


def test_the_plot_has_a_curve_for_each_component_and_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = []
    pyplot = ModuleType("matplotlib.pyplot")
    pyplot.plot = lambda x, y, label: curves.append(y)  # type: ignore[attr-defined]
    pyplot.legend = lambda: None  # type: ignore[attr-defined]
    matplotlib = ModuleType("matplotlib")
    matplotlib.pyplot = pyplot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib", matplotlib)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    BetaMixture1D().fit(X).plot()
    assert len(curves) == 3 and close(curves[0] + curves[1], curves[2])
