import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from evaluation import linear_probe
from evaluation.linear_probe import STRENGTHS, choose_strength, score_linear
from models.parts import linear_fit
from models.parts.linear_fit import fit_logistic, principal_axes
from tests.evaluation.fakes import fake_run
from tests.ranks import run_ranks

SPLIT = (torch.arange(51), torch.arange(51, 101))
# rows that each rank holds: unequal, one rank without any
SIZES = {1: [103], 2: [71, 32], 4: [31, 0, 59, 13]}


def made(n_rows: int = 103, width: int = 7) -> tuple[Tensor, Tensor]:
    """(n_rows, width) correlated float64 features of unlike scales, one of them constant; classes of three kinds."""
    row, column = torch.arange(n_rows, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    features = torch.sin(0.37 * (row + 1) * (column + 1)) + torch.sin(0.9 * row)
    features = features * 3**column + 5 * column
    features[:, 4] = 0.1
    noise = torch.sin(1.7 * row**1.5)[:, 0]
    return features, ((features[:, 0] + 0.5 * noise + 1).div(0.8).long().clamp(0, 2))


def by_sklearn(features: Tensor, classes: Tensor, strength: float) -> tuple[StandardScaler, LogisticRegression]:
    """The scaler and the solution of an independent solver."""
    scaler = StandardScaler().fit(features.numpy())
    model = LogisticRegression(C=1 / (strength * len(features)), tol=1e-10, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its line search at the limit of precision
        return scaler, model.fit(scaler.transform(features.numpy()), classes.numpy())


def log_odds(logits: Tensor | np.ndarray) -> Tensor:
    """Rows of log probabilities: logits are free up to a constant."""
    return torch.log_softmax(torch.as_tensor(logits), dim=1)


def fitted(features: Tensor, classes: Tensor, strength: float) -> Tensor:
    """Log probabilities of the rows that were fitted."""
    mean, rotation, variance = principal_axes(features)
    points = (features - mean.to(features.dtype)) @ rotation.to(features.dtype)
    start = torch.zeros(int(classes.max()) + 1, features.shape[1] + 1, dtype=torch.float64)
    weights = fit_logistic(points, classes, variance, strength, start, tolerance=1e-7)
    return log_odds(points.double() @ weights[:, :-1].T + weights[:, -1])


@pytest.mark.parametrize("strength", [1e-1, 1e-4])
def test_solution_is_that_of_scikit_learn(strength: float) -> None:
    features, classes = made()
    scaler, model = by_sklearn(features, classes, strength)
    expected = log_odds(model.decision_function(scaler.transform(features.numpy())))
    torch.testing.assert_close(fitted(features, classes, strength), expected, rtol=0, atol=1e-4)


def test_float32_features_of_real_digits_agree_with_scikit_learn_in_every_row() -> None:
    digits = load_digits()
    features, classes = torch.from_numpy(digits.data), torch.from_numpy(digits.target)
    scaler, model = by_sklearn(features, classes, 1e-2)
    expected = model.predict(scaler.transform(features.numpy()))
    assert np.array_equal(fitted(features.float(), classes, 1e-2).argmax(1).numpy(), expected)


def test_axes_standardise_turn_and_drop_what_is_constant() -> None:
    features, _ = made()
    mean, rotation, variance = principal_axes(features)
    points = (features - mean) @ rotation
    standard = torch.from_numpy(StandardScaler().fit_transform(features.numpy()))
    torch.testing.assert_close(points @ points.T, standard @ standard.T)  # turned, not stretched
    torch.testing.assert_close(points.T @ points / 103, variance.diag(), rtol=0, atol=1e-10)
    assert rotation[4].eq(0).all()


def test_the_strength_with_the_least_held_out_loss_is_chosen() -> None:
    features, classes = made()
    classes = torch.where(torch.arange(103) % 3 == 0, classes, torch.arange(103) // 5 % 3)  # weak L2 fits noise
    held = torch.arange(103) % 10 == 3
    losses = []
    for strength in STRENGTHS:
        scaler, model = by_sklearn(features, classes, 1.0)
        points = scaler.transform(features.numpy())
        model.set_params(C=1 / (strength * int((~held).sum()))).fit(points[~held], classes[~held])
        odds = log_odds(model.decision_function(points[held]))
        losses.append(-float(odds.gather(1, classes[held][:, None]).mean()))
    assert min(losses) < 0.995 * sorted(losses)[1]
    mean, rotation, variance = principal_axes(features)
    strength, weights = choose_strength((features - mean) @ rotation, classes, held, variance, 3)
    assert strength == STRENGTHS[losses.index(min(losses))]
    assert weights.shape == (3, 8)


def test_rows_of_test_train_and_held_out_are_disjoint_and_named() -> None:
    run = fake_run(split=SPLIT)
    run.source.truth = run.source.truth.clone()
    run.source.truth[[4, 5, 70]] = -1
    found = score_linear(run)
    assert found["accuracy"] > 0.9 and found["features"] == "made encoder"
    assert found["protocol"] == "49 test rows, fitted to 49"
    assert found["chosen"] == "of 5 on 4 held-out rows"


def test_test_rows_take_no_part_in_the_fit() -> None:
    run = fake_run(split=SPLIT)
    run.source.truth = run.source.truth.clone()
    run.source.truth[SPLIT[1]] = (run.source.truth[SPLIT[1]] + 1) % 4
    assert score_linear(run)["accuracy"] < 0.1


def test_without_a_split_every_fifth_known_row_is_a_test_row() -> None:
    run = fake_run()
    run.source.truth = run.source.truth.clone()
    run.source.truth[0] = -1
    run.source.truth[1::5] = 3 - run.source.truth[1::5] % 2  # wrong in the test rows alone: rows 1, 6, 11, ...
    found = score_linear(run)
    assert found["protocol"] == "20 test rows (every 5th), fitted to 80"
    assert found["accuracy"] == pytest.approx(float((run.source.truth == torch.arange(101) % 4)[1::5].double().mean()))


def test_without_classes_or_with_too_few_there_is_no_probe() -> None:
    assert score_linear(fake_run(labelled=False)) is None
    run = fake_run()
    run.source.truth = torch.where(torch.arange(101) < 11, run.source.truth, -1)
    assert score_linear(run) is None


def test_the_held_out_rows_are_a_draw_of_the_seed() -> None:
    drawn = [linear_probe._held_out(101, seed) for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert int(drawn[0].sum()) == 10


def sharded(rank: int, world: int) -> dict[str, Any]:
    linear_fit.CHUNK_ROWS = 11
    features, classes = (part.split(SIZES[world])[rank] for part in made())
    mean, rotation, variance = principal_axes(features)
    points = (features - mean) @ rotation
    start = torch.zeros(3, 8, dtype=torch.float64)
    weights = fit_logistic(points, classes, variance, 1e-3, start, tolerance=1e-6)
    run = fake_run(split=SPLIT)
    run.source.truth = torch.arange(101) % 5 % 3  # not what the patterns are: an accuracy between 0 and 1
    # axes may point either way: the weights of the features themselves are compared
    return {"weights": weights[:, :-1] @ rotation.T, "biases": weights[:, -1], "score": score_linear(run)}


def test_two_and_four_ranks_find_what_one_finds() -> None:
    [one] = run_ranks(1, sharded)
    assert 0 < one["score"]["accuracy"] < 1
    for world in (2, 4):
        for found in run_ranks(world, sharded):
            torch.testing.assert_close(found["weights"], one["weights"], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found["biases"], one["biases"], rtol=1e-6, atol=1e-6)
            assert found["score"] == one["score"]
