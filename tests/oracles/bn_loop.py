"""Training-mode BatchNorm over G contiguous groups of a batch, forward and backward, in slow float64 loops."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def group_rows(n_positions: int, n_groups: int, n_views: int = 1) -> list[list[int]]:
    """Row numbers of each group: position p, with all its views (view fastest), belongs to group floor(p G / N)."""
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    for position in range(n_positions):
        for view in range(n_views):
            groups[position * n_groups // n_positions].append(position * n_views + view)
    return groups


def bn_loop(
    x: Array, weight: Array, bias: Array, n_groups: int, *, n_views: int = 1, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Outputs, and what feeds the running statistics: the mean over groups of group means and unbiased variances.

    x: (N V, C) or (N V, C, H, W), the global batch with V interleaved views; weight, bias: (C,).
    Returns y like x, mean (C,), variance (C,): running <- 0.9 running + 0.1 of them, with torch's momentum.
    """
    y = np.empty_like(x)
    mean, variance = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows in group_rows(len(x) // n_views, n_groups, n_views):
        for channel in range(x.shape[1]):
            values = x[rows, channel]
            center = float(values.sum()) / values.size
            squares = float(((values - center) ** 2).sum())
            y[rows, channel] = (values - center) / math.sqrt(squares / values.size + eps) * weight[channel] + bias[
                channel
            ]
            mean[channel] += center / n_groups
            variance[channel] += squares / (values.size - 1) / n_groups
    return y, mean, variance


def bn_gradient_loop(
    x: Array, weight: Array, gradient: Array, n_groups: int, *, n_views: int = 1, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Gradients of x, weight and bias (sums over the whole batch) from `gradient`, the one of the outputs, like x.

    dx = weight / sqrt(var + eps) (g - mean g - x_hat mean(g x_hat)), the means over the row's own group and channel.
    """
    dx = np.empty_like(x)
    dweight, dbias = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows in group_rows(len(x) // n_views, n_groups, n_views):
        for channel in range(x.shape[1]):
            values, g = x[rows, channel], gradient[rows, channel]
            scale = math.sqrt(float(((values - values.mean()) ** 2).mean()) + eps)
            x_hat = (values - values.mean()) / scale
            dx[rows, channel] = weight[channel] / scale * (g - g.mean() - x_hat * (g * x_hat).mean())
            dweight[channel] += float((g * x_hat).sum())
            dbias[channel] += float(g.sum())
    return dx, dweight, dbias
