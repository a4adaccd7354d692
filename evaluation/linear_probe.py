"""A linear probe: multinomial logistic regression on frozen features, whose rows stay on their ranks.

The problem is convex: there is no learning rate to choose, and any number of ranks finds the same optimum.
"""

from operator import itemgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from evaluation.knn import encode_part, knn_accuracy
from training.build import Run
from utils import distributed
from utils.draws import seeded

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of L2, where the loss is a mean over rows; strong ones are fitted first
TEST_EVERY = 5  # a source without a split: every fifth row is a test row
HELD_OUT = 10  # a tenth of the train rows chooses the strength
CHUNK_ROWS = 8_192
ROUGH, FINE = 1e-4, 1e-5  # L-BFGS stops at this largest entry of the scaled gradient: to choose, to be scored
MOST_STEPS = 500


def score_linear(run: Run) -> dict[str, Any] | None:
    """Test accuracy of a linear probe on the encoder's output, with its protocol. Collective: equal on all ranks.

    None where the source has no ground truth, or knows the classes of fewer than ten train rows or of no test row.
    Eval mode, clean images, standardised features. The strength of L2 is the one of `STRENGTHS` with the least loss on
    a tenth of the train rows that was held out; then all train rows are fitted with it. Rows of unknown truth take no
    part.
    """
    truth = run.source.read_truth(None)
    if truth is None:
        return None
    train_rows, test_rows, of = _parts(run, truth)
    if len(train_rows) < HELD_OUT or not len(test_rows):
        return None
    features, classes = encode_part(run, train_rows, truth)
    test_features, test_classes = encode_part(run, test_rows, truth)
    mean, rotation, variance = principal_axes(features)
    points, test_points = _rotate(features, mean, rotation), _rotate(test_features, mean, rotation)
    n_classes = int(truth.max()) + 1
    held = _own_part(_held_out(len(train_rows), run.settings.run.seed)).to(points.device)
    strength, weights = choose_strength(points, classes, held, variance, n_classes)
    weights = fit_logistic(points, classes, variance, strength, weights, tolerance=FINE)
    n_held = len(train_rows) // HELD_OUT
    return {
        "accuracy": knn_accuracy(_logits(test_points, weights), test_classes),
        "features": run.method.encode_name,
        "protocol": f"{len(test_rows):,} test rows{of}, fitted to {len(train_rows):,}",
        "l2": strength,
        "chosen": f"of {len(STRENGTHS)} on {n_held:,} held-out rows",
    }


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What turns all ranks' features (n, D) into uncorrelated ones: mean (D,), rotation (D, D), variance (D,).

    `(features - mean) @ rotation` are the standardised features seen along the axes of their correlation, where their
    variances are `variance`. The length of a weight vector, and so L2, is the same as for the standardised features;
    L-BFGS takes a fifth of the steps. A constant feature becomes 0. Collective; float64.
    """
    n_rows = distributed.reduce_sum_(torch.tensor(float(len(features)), dtype=torch.float64, device=features.device))
    mean = distributed.reduce_sum_(features.sum(0, dtype=torch.float64)) / n_rows
    gram = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for chunk in features.split(CHUNK_ROWS):
        centred = chunk - mean.to(chunk.dtype)
        gram += centred.T @ centred
    covariance = distributed.reduce_sum_(gram) / n_rows
    deviation = covariance.diagonal().sqrt()
    varies = deviation > 10 * torch.finfo(features.dtype).eps * mean.abs()  # else it is what rounding left
    scale = torch.where(varies, 1 / deviation.clamp_min(torch.finfo(torch.float64).tiny), 0)
    correlation = scale[:, None] * covariance * scale
    # one decomposition for all: other machines may choose other signs
    axes = distributed.broadcast_object(tuple(torch.linalg.eigh(correlation.cpu())) if distributed.is_main() else ())
    variance, vectors = (part.to(features.device) for part in axes)
    return mean, scale[:, None] * vectors, variance.clamp_min(0)


def choose_strength(
    points: Tensor, classes: Tensor, held: Tensor, variance: Tensor, n_classes: int
) -> tuple[float, Tensor]:
    """The strength of L2 whose fit to the rows that are not `held` has the least loss on those, and that fit.

    held: (n,) bool. The other arguments, and the weights, are those of `fit_logistic`. Collective.
    """
    fitted, judged = (points[~held], classes[~held]), (points[held], classes[held])
    weights = variance.new_zeros((n_classes, len(variance) + 1))
    fits = []
    for strength in STRENGTHS:
        weights = fit_logistic(*fitted, variance, strength, weights, tolerance=ROUGH)
        loss, _ = _loss_and_gradient(*judged, weights)
        fits.append((float(distributed.reduce_sum_(loss)), strength, weights))
    _, strength, weights = min(fits, key=itemgetter(0))
    return strength, weights


def fit_logistic(
    points: Tensor, classes: Tensor, variance: Tensor, strength: float, start: Tensor, *, tolerance: float
) -> Tensor:
    """(C, D + 1) float64 weights, the biases last, of multinomial logistic regression on all ranks' rows.

    They minimise mean cross-entropy + strength / 2 * sum of squared weights, biases left out. Collective: only
    C (D + 1) numbers a step travel.

    Args:
        points: (n, D) this rank's rows; n may differ and be 0. classes: (n,) int64.
        variance: (D,) float64 of the points: variables are scaled by it, so that curvature is alike in all directions.
        start: (C, D + 1) weights to begin with. tolerance: largest entry of the scaled gradient at the end.
    """
    n_rows = distributed.reduce_sum_(torch.tensor(float(len(points)), dtype=torch.float64, device=points.device))
    penalty = F.pad(torch.full_like(variance, strength), (0, 1))  # the bias: a feature that is 1, without L2
    # where all C classes are as likely, curvature is variance / C
    scale = (F.pad(variance, (0, 1), value=1.0) / len(start) + penalty).rsqrt()  # (D + 1,)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).view(start.shape).to(points.device) * scale
        loss, gradient = _loss_and_gradient(points, classes, weights)
        total = distributed.reduce_sum_(torch.cat([loss[None], gradient.flatten()])) / n_rows
        gradient = (total[1:].view(start.shape) + penalty * weights) * scale
        loss = total[0] + (penalty * weights**2).sum() / 2
        return float(loss), gradient.flatten().cpu().numpy()

    first = (start / scale).flatten().cpu().numpy()
    options = {"gtol": tolerance, "ftol": 0, "maxiter": MOST_STEPS}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found).view(start.shape).to(points.device) * scale


def _loss_and_gradient(points: Tensor, classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over this rank's rows (), and its gradient (C, D + 1); float64."""
    loss, gradient = weights.new_zeros(()), torch.zeros_like(weights)
    for rows, own in zip(points.split(CHUNK_ROWS), classes.split(CHUNK_ROWS), strict=True):
        log_probabilities = F.log_softmax(_logits(rows, weights), dim=1)  # (B, C)
        loss += F.nll_loss(log_probabilities, own, reduction="sum")
        residuals = log_probabilities.exp()
        residuals[torch.arange(len(own), device=own.device), own] -= 1
        gradient[:, :-1] += residuals.to(rows.dtype).T @ rows
        gradient[:, -1] += residuals.sum(0)
    return loss, gradient


def _logits(points: Tensor, weights: Tensor) -> Tensor:
    """(n, C) float64."""
    return F.linear(points, weights[:, :-1].to(points.dtype)).double() + weights[:, -1]


def _rotate(features: Tensor, mean: Tensor, rotation: Tensor) -> Tensor:
    """(n, D) in the features' precision: mean taken off first, so that nothing cancels."""
    mean, rotation = mean.to(features.dtype), rotation.to(features.dtype)
    return torch.cat([(chunk - mean) @ rotation for chunk in features.split(CHUNK_ROWS)])


def _parts(run: Run, truth: Tensor) -> tuple[Tensor, Tensor, str]:
    """Train rows and test rows of known truth, and what the latter are where the source does not say."""
    known = (truth >= 0).nonzero()[:, 0]
    split = run.source.knn_split()
    if split is not None:
        train, test = (rows[truth[rows] >= 0] for rows in split)
        return train, test, ""
    is_test = torch.arange(len(known)) % TEST_EVERY == 0
    return known[~is_test], known[is_test], f" (every {TEST_EVERY}th)"


def _held_out(n_rows: int, seed: int) -> Tensor:
    """(n_rows,) bool: a tenth, drawn."""
    held = torch.zeros(n_rows, dtype=torch.bool)
    held[torch.randperm(n_rows, generator=seeded(seed, "linear probe"))[: n_rows // HELD_OUT]] = True
    return held


def _own_part(rows: Tensor) -> Tensor:
    rank, world = distributed.rank(), distributed.world()
    return rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
