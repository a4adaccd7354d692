"""Multinomial logistic regression on features whose rows stay on their ranks.

The problem is convex: there is no learning rate to choose, and any number of ranks finds the same optimum.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from utils import distributed

CHUNK_ROWS = 8_192
MOST_STEPS = 500
STRENGTH = 1e-3  # of L2 in `fit_linear`


def fit_linear(features: Tensor, labels: Tensor, n_classes: int) -> nn.Linear:
    """The linear map of all ranks' features whose softmax explains their labels, on their device. Collective.

    features: (n, D) this rank's rows, n may differ and be 0; labels: (n,) int64. Mean cross-entropy with a small L2 on
    the standardised features, in float64 to full precision: the same on any number of ranks.
    """
    features = features.double()
    mean, rotation, variance = principal_axes(features)
    start = variance.new_zeros((n_classes, len(variance) + 1))
    points = rotate(features, mean, rotation)
    weights = fit_logistic(points, labels, variance, STRENGTH, start, tolerance=1e-8)
    weights = newton_step(points, labels, variance, STRENGTH, weights)
    linear = nn.Linear(features.shape[1], n_classes, dtype=torch.float64, device=features.device)
    with torch.no_grad():
        linear.weight.copy_(weights[:, :-1] @ rotation.T)
        linear.bias.copy_(weights[:, -1] - linear.weight @ mean)
    return linear


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


def rotate(features: Tensor, mean: Tensor, rotation: Tensor) -> Tensor:
    """(n, D) in the features' precision: mean taken off first, so that nothing cancels."""
    mean, rotation = mean.to(features.dtype), rotation.to(features.dtype)
    return torch.cat([(chunk - mean) @ rotation for chunk in features.split(CHUNK_ROWS)])


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
    n_rows, penalty, scale = _frame(points, variance, strength, len(start))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).view(start.shape).to(points.device) * scale
        loss, gradient = loss_and_gradient(points, classes, weights)
        total = distributed.reduce_sum_(torch.cat([loss[None], gradient.flatten()])) / n_rows
        gradient = (total[1:].view(start.shape) + penalty * weights) * scale
        loss = total[0] + (penalty * weights**2).sum() / 2
        return float(loss), gradient.flatten().cpu().numpy()

    first = (start / scale).flatten().cpu().numpy()
    options = {"gtol": tolerance, "ftol": 0, "maxiter": MOST_STEPS}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found).view(start.shape).to(points.device) * scale


def newton_step(points: Tensor, classes: Tensor, variance: Tensor, strength: float, weights: Tensor) -> Tensor:
    """`weights` of `fit_logistic` after one Newton step, by conjugate gradients. Collective.

    A line search cannot see below the root of the loss's precision; this takes eight digits to sixteen.
    """
    n_rows, penalty, scale = _frame(points, variance, strength, len(weights))

    def curve(direction: Tensor) -> Tensor:
        """The Hessian times a direction, both in scaled variables."""
        product = distributed.reduce_sum_(_curvature(points, weights, direction * scale)) / n_rows
        return (product + penalty * direction * scale) * scale

    gradient = distributed.reduce_sum_(loss_and_gradient(points, classes, weights)[1]) / n_rows
    rest = -(gradient + penalty * weights) * scale
    step, direction, size = torch.zeros_like(rest), rest, rest.square().sum()
    small = size * 1e-16
    for _ in range(MOST_STEPS):
        if size <= small:
            break
        curved = curve(direction)
        length = size / (direction * curved).sum()
        step, rest = step + length * direction, rest - length * curved
        size, before = rest.square().sum(), size
        direction = rest + size / before * direction
    return weights + step * scale


def loss_and_gradient(points: Tensor, classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over this rank's rows (), and its gradient (C, D + 1); float64."""
    loss, gradient = weights.new_zeros(()), torch.zeros_like(weights)
    for rows, own in zip(points.split(CHUNK_ROWS), classes.split(CHUNK_ROWS), strict=True):
        log_probabilities = F.log_softmax(logits(rows, weights), dim=1)  # (B, C)
        loss += F.nll_loss(log_probabilities, own, reduction="sum")
        residuals = log_probabilities.exp()
        residuals[torch.arange(len(own), device=own.device), own] -= 1
        gradient[:, :-1] += residuals.to(rows.dtype).T @ rows
        gradient[:, -1] += residuals.sum(0)
    return loss, gradient


def _curvature(points: Tensor, weights: Tensor, direction: Tensor) -> Tensor:
    """(C, D + 1) the Hessian of this rank's summed cross-entropy times `direction` (C, D + 1); float64."""
    product = torch.zeros_like(weights)
    for rows in points.split(CHUNK_ROWS):
        probabilities, change = torch.softmax(logits(rows, weights), dim=1), logits(rows, direction)  # (B, C)
        change = probabilities * (change - (probabilities * change).sum(1, keepdim=True))
        product[:, :-1] += change.T @ rows
        product[:, -1] += change.sum(0)
    return product


def _frame(points: Tensor, variance: Tensor, strength: float, n_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of all ranks (), L2 of each variable (D + 1,), and what scales the variables (D + 1,). Collective."""
    n_rows = distributed.reduce_sum_(torch.tensor(float(len(points)), dtype=torch.float64, device=points.device))
    penalty = F.pad(torch.full_like(variance, strength), (0, 1))  # the bias: a feature that is 1, without L2
    # where all C classes are as likely, curvature is variance / C
    return n_rows, penalty, (F.pad(variance, (0, 1), value=1.0) / n_classes + penalty).rsqrt()


def logits(points: Tensor, weights: Tensor) -> Tensor:
    """(n, C) float64."""
    return F.linear(points, weights[:, :-1].to(points.dtype)).double() + weights[:, -1]
