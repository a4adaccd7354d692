"""The oracles themselves, against numbers of an independent float64 computation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.oracles.bn_loop import bn_gradient_loop, bn_loop, group_rows
from tests.oracles.byol_loop import byol_loop, ema_loop, symmetric_byol_loop
from tests.oracles.psl_loop import one_hot, prototype_scattering_loop, unit

Array = NDArray[np.float64]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


def z(n_rows: int, n_columns: int, s: int) -> Array:
    """sin(1 + 0.7 i + 1.3 j + 2.1 s + 0.05 i j)."""
    i, j = np.arange(n_rows)[:, None], np.arange(n_columns)[None]
    return np.sin(1.0 + 0.7 * i + 1.3 * j + 2.1 * s + 0.05 * i * j)


def close(value: object) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def test_prototype_scattering_of_both_directions() -> None:
    memberships = one_hot(LABELS, 3)
    assert prototype_scattering_loop(z(8, 6, 0), z(8, 6, 3), memberships, 0.5) == close(0.352690578978)
    assert prototype_scattering_loop(z(8, 6, 1), z(8, 6, 2), memberships, 0.5) == close(1.74822103744)


def test_an_absent_cluster_is_no_negative() -> None:
    memberships = one_hot([0, 1, 3, 0, 1, 3, 3], 4)
    assert prototype_scattering_loop(z(7, 5, 0), z(7, 5, 3), memberships, 0.2) == close(0.126103356511)


def test_a_single_present_cluster_scatters_from_nothing() -> None:
    assert prototype_scattering_loop(z(8, 6, 0), z(8, 6, 3), one_hot([1] * 8, 3), 0.5) == close(0.0)


def test_queue_rows_join_the_prototypes_of_both_sides() -> None:
    queue = np.stack([unit(row) for row in z(6, 6, 12)])
    past = one_hot([2, 1, 0, 2, 2, 1], 3)
    found = prototype_scattering_loop(z(8, 6, 0), z(8, 6, 3), one_hot(LABELS, 3), 0.5, queue, past)
    assert found == close(0.285643912237)


def test_a_soft_cluster_of_small_mass_is_absent() -> None:
    soft = np.hstack([0.95 * one_hot(LABELS, 3), np.full((8, 1), 0.05)])  # mass 0.4 of the fourth
    found = prototype_scattering_loop(z(8, 6, 0), z(8, 6, 3), soft, 0.5)
    assert found == close(0.352690578978)


def test_byol_directions_and_their_mean() -> None:
    first, second = z(8, 6, 4), z(8, 6, 5)
    target_first, target_second = z(8, 6, 2), z(8, 6, 3)
    assert byol_loop(first, target_second) == close(3.0288265003)
    assert byol_loop(second, target_first) == close(0.000292483310019)
    assert symmetric_byol_loop([first, second], [target_first, target_second]) == close(1.5145594918)


@pytest.mark.parametrize(
    "momentum, first_row",
    [
        (0.996, [0.0447802237228, -0.944812844745, -0.5502528822]),
        (0.5, [0.441525823621, -0.102948430856, -0.496602992946]),
    ],
)
def test_target_update(momentum: float, first_row: list[float]) -> None:
    assert ema_loop(z(2, 3, 1), z(2, 3, 0), momentum)[0].tolist() == close(first_row)


def test_batch_norm_of_one_group_forward_and_backward() -> None:
    x, gradient = 2 * z(8, 3, 0) + 0.5, z(8, 3, 1)
    weight, bias = np.array([1.0, 0.5, 2.0]), np.array([0.1, -0.2, 0.3])
    y, mean, variance = bn_loop(x, weight, bias, 1)
    assert y[7].tolist() == close([-0.354738198397, 0.526790073629, 0.942989707085])
    assert (0.1 * mean).tolist() == close([0.0425865077272, 0.0405847122965, 0.0495632293564])
    assert (0.9 + 0.1 * variance).tolist() == close([1.1507812057, 1.11688937064, 1.12405334561])
    dx, dweight, dbias = bn_gradient_loop(x, weight, gradient, 1)
    assert dx[7].tolist() == close([0.594051037294, 0.0832889219983, -1.18035109529])
    assert dweight.tolist() == close([-3.36187334081, -2.67114176421, -2.80467963218])
    assert dbias.tolist() == close([-0.65380243596, 0.260310193062, -0.119693902863])


def test_groups_of_batch_norm_know_nothing_of_each_other() -> None:
    x, weight, bias = z(20, 3, 0), np.ones(3), np.zeros(3)  # 10 positions of two views
    y, mean, variance = bn_loop(x, weight, bias, 2, n_views=2)
    halves = [bn_loop(half, weight, bias, 1) for half in (x[:10], x[10:])]
    np.testing.assert_allclose(y, np.concatenate([half[0] for half in halves]), rtol=1e-12)
    np.testing.assert_allclose(mean, (halves[0][1] + halves[1][1]) / 2, rtol=1e-12)
    np.testing.assert_allclose(variance, (halves[0][2] + halves[1][2]) / 2, rtol=1e-12)
    assert group_rows(4, 2, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_batch_norm_over_images_counts_every_pixel() -> None:
    x = z(4, 12, 0).reshape(4, 3, 2, 2)
    flat = x.transpose(0, 2, 3, 1).reshape(16, 3)
    y, _, variance = bn_loop(x, np.ones(3), np.zeros(3), 1)
    expected, _, flat_variance = bn_loop(flat, np.ones(3), np.zeros(3), 1)
    np.testing.assert_allclose(y.transpose(0, 2, 3, 1).reshape(16, 3), expected, rtol=1e-12)
    np.testing.assert_allclose(variance, flat_variance, rtol=1e-12)
