"""BYOL's and ProPos' losses against published numbers, slow oracles and several ranks."""

import pytest
import torch
from torch import Tensor

from models.byol import byol_loss
from models.parts.ema import ema_update
from models.propos import prototype_scattering
from tests.oracles.byol_loop import byol_loop
from tests.oracles.psl_loop import prototype_scattering_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
SCATTERED = torch.tensor([0, 2, 2, 0, 1, 0, 1, 1])  # cluster 2 on rank 0 only, cluster 1 on rank 1 only


def one_hot(labels: Tensor, n_clusters: int) -> Tensor:
    return (labels[:, None] == torch.arange(n_clusters)).double()


def picked(gradient: Tensor, *places: tuple[int, int]) -> list[float]:
    return [gradient[place].item() for place in places]


@pytest.mark.parametrize(
    ("rows", "width", "p", "k", "expected"),
    [
        (8, 6, 4, 3, 3.0288265003), (8, 6, 5, 2, 0.000292483310019),
        (5, 4, 0, 3, 0.000270516292299), (5, 4, 1, 2, 2.95468794719),
    ],
)  # fmt: skip
def test_byol_loss_equals_the_published_numbers(rows: int, width: int, p: int, k: int, expected: float) -> None:
    assert float(byol_loss(z(rows, width, p), z(rows, width, k))) == pytest.approx(expected, abs=1e-11)


def test_byol_gradient_equals_the_published_numbers_and_spares_the_target() -> None:
    predictions, projections = z(8, 6, 4).requires_grad_(), z(8, 6, 3).requires_grad_()
    byol_loss(predictions, projections).backward()
    expected = [-0.0750476270824, -0.0119229209302, -0.0567584556986]
    assert picked(predictions.grad, (0, 0), (3, 2), (7, 5)) == pytest.approx(expected, abs=1e-12)
    assert projections.grad is None


def test_sum_of_both_byol_directions_equals_the_papers() -> None:
    total = byol_loss(z(8, 6, 4), z(8, 6, 3)) + byol_loss(z(8, 6, 5), z(8, 6, 2))
    assert total.item() == pytest.approx(3.02911898361, abs=1e-11)


def byol_over_ranks(rank: int, world: int) -> float:
    own = slice(rank * 8 // world, (rank + 1) * 8 // world)
    first, second, k1, k2 = (z(8, 6, s)[own] for s in (4, 5, 2, 3))
    return ((byol_loss(first, k2) + byol_loss(second, k1)) / 2).item()


def test_byol_over_two_ranks_has_the_published_losses() -> None:
    one, two = run_ranks(2, byol_over_ranks)
    assert [one, two, (one + two) / 2] == pytest.approx([1.50652221251, 1.5225967711, 1.5145594918], abs=1e-11)


def test_byol_loss_equals_the_loop() -> None:
    p, k = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    assert float(byol_loss(p, k)) == pytest.approx(float(byol_loop(p.numpy(), k.numpy())), abs=1e-12)


def test_ema_update_equals_the_published_numbers() -> None:
    for momentum, expected in [
        (0.996, [0.0447802237228, -0.944812844745, -0.5502528822]),
        (0.99, [0.049579565657, -0.934629001029, -0.549603891605]),
        (0.5, [0.441525823621, -0.102948430856, -0.496602992946]),
    ]:
        target, online = (torch.nn.Linear(3, 2, bias=False, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            target.weight.copy_(z(2, 3, 1))
            online.weight.copy_(z(2, 3, 0))
        ema_update(target, online, momentum)
        assert target.weight[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_scattering_equals_the_published_numbers() -> None:
    first, second = z(8, 6, 0).requires_grad_(), z(8, 6, 1).requires_grad_()
    k1, k2 = z(8, 6, 2).requires_grad_(), z(8, 6, 3).requires_grad_()
    memberships = one_hot(LABELS, 3)
    one = prototype_scattering([first], [k2], memberships, temperature=0.5)
    two = prototype_scattering([second], [k1], memberships, temperature=0.5)
    assert [one.item(), two.item()] == pytest.approx([0.352690578978, 1.74822103744], abs=1e-11)
    both = prototype_scattering([first, second], [k2, k1], memberships, temperature=0.5)
    both.backward()
    assert both.item() == pytest.approx(1.05045580821, abs=1e-11)
    expected = [-0.0316691941062, -0.072823989543, 0.00452382496996]
    assert picked(first.grad, (0, 0), (3, 2), (7, 5)) == pytest.approx(expected, abs=1e-12)
    assert picked(second.grad, (1, 1), (5, 4)) == pytest.approx([-0.0855044133434, 0.111954710216], abs=1e-12)
    assert k1.grad is None


def test_total_of_the_two_losses_equals_the_published_number() -> None:
    scattering = prototype_scattering(
        [z(8, 6, 0), z(8, 6, 1)], [z(8, 6, 3), z(8, 6, 2)], one_hot(LABELS, 3), temperature=0.5
    )
    predictions = z(8, 6, 4).requires_grad_()
    alignment = (byol_loss(predictions, z(8, 6, 3)) + byol_loss(z(8, 6, 5), z(8, 6, 2))) / 2
    alignment.backward()
    expected = [-0.0375238135412, -0.00596146046508, -0.0283792278493]
    assert picked(predictions.grad, (0, 0), (3, 2), (7, 5)) == pytest.approx(expected, abs=1e-12)
    alignment = alignment.detach()
    assert (alignment + 0.1 * scattering).item() == pytest.approx(1.61960507263, abs=1e-11)


def test_absent_cluster_is_no_negative() -> None:
    q = z(7, 5, 0).requires_grad_()
    loss = prototype_scattering([q], [z(7, 5, 3)], one_hot(torch.tensor([0, 1, 3, 0, 1, 3, 3]), 4), temperature=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.126103356511, abs=1e-11)  # a fill of -10 would give 0.126103627
    expected = [0.0714689712211, 0.000641294719065, -0.000315834369992]
    assert picked(q.grad, (0, 0), (2, 3), (6, 4)) == pytest.approx(expected, abs=1e-12)


def test_one_present_cluster_gives_zero_loss_and_gradient() -> None:
    q = z(8, 6, 0).requires_grad_()
    loss = prototype_scattering([q], [z(8, 6, 3)], one_hot(torch.ones(8, dtype=torch.int64), 3), temperature=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert q.grad.abs().max() < 1e-15


def test_batch_without_any_cluster_gives_zero() -> None:
    q = z(8, 6, 0).requires_grad_()
    loss = prototype_scattering([q], [z(8, 6, 3)], torch.zeros(8, 3, dtype=torch.float64), temperature=0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(q.grad, torch.zeros_like(q))


def test_queue_rows_join_both_sides() -> None:
    q = z(8, 6, 0).requires_grad_()
    queue = torch.nn.functional.normalize(z(6, 6, 12), dim=1)
    loss = prototype_scattering(
        [q],
        [z(8, 6, 3)],
        one_hot(LABELS, 3),
        temperature=0.5,
        queue=(queue, one_hot(torch.tensor([2, 1, 0, 2, 2, 1]), 3)),
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.285643912237, abs=1e-11)
    assert picked(q.grad, (0, 0), (7, 5)) == pytest.approx([-0.0600466722047, 0.0651586423446], abs=1e-12)


def test_sampled_neighbour_equals_the_published_number() -> None:
    q = z(8, 6, 0).requires_grad_()
    loss = byol_loss((q + 0.001 * z(8, 6, 10)) @ z(6, 6, 11), z(8, 6, 3))
    loss.backward()
    assert loss.item() == pytest.approx(2.44453951104, abs=1e-11)
    assert picked(q.grad, (0, 0), (4, 3)) == pytest.approx([-0.018502128035, 0.00869250920303], abs=1e-12)
    still = byol_loss(z(8, 6, 0) @ z(6, 6, 11), z(8, 6, 3))
    assert still.item() == pytest.approx(2.44464439967, abs=1e-11)


def test_soft_memberships_equal_the_loop() -> None:
    q, k = torch.randn(11, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    soft = torch.softmax(3 * torch.randn(11, 3, dtype=torch.float64), 1)
    soft = torch.cat([soft, torch.full((11, 1), 0.01, dtype=torch.float64)], 1)  # the last is absent: 0.11 in all
    loss = prototype_scattering([q], [k], soft, temperature=0.5)
    assert loss.item() == pytest.approx(
        float(prototype_scattering_loop(q.numpy(), k.numpy(), soft.numpy(), 0.5)), abs=1e-12
    )


def scatter_over_ranks(rank: int, world: int, labels: Tensor) -> tuple[float, Tensor, Tensor]:
    """Linear encoder A in place of a network: the loss, the gradient of A on this rank and after DDP's mean."""
    own = slice(rank * 8 // world, (rank + 1) * 8 // world)
    encoder, target = z(4, 6, 7).requires_grad_(), z(4, 6, 9)
    first, second = z(8, 4, 6)[own], z(8, 4, 8)[own]
    loss = prototype_scattering(
        [first @ encoder, second @ encoder], [second @ target, first @ target], one_hot(labels[own], 3), temperature=0.5
    )
    loss.backward()
    return loss.item(), encoder.grad.clone(), distributed.mean_over_ranks_(encoder.grad)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(
    ("labels", "value", "gradient"),
    [
        (LABELS, 1.19643285424, [0.0193083330667, 0.0677742371837, -0.0528258715835]),
        (SCATTERED, 1.1631132581, [-0.0884059926679, -0.230722375302, 0.00206056787953]),
    ],
    ids=["every cluster on every rank", "clusters on one rank only"],
)
def test_scattering_over_ranks_is_the_loss_of_the_whole_batch(
    world: int, labels: Tensor, value: float, gradient: list[float]
) -> None:
    parts = run_ranks(world, scatter_over_ranks, labels) if world > 1 else [scatter_over_ranks(0, 1, labels)]
    for loss, _, grad in parts:
        assert loss == pytest.approx(value, abs=1e-11)
        assert loss != pytest.approx(3.452821398923831, abs=1e-3)  # what labels of other rows would give
        assert picked(grad, (0, 0), (1, 2), (3, 5)) == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "local"),
    [
        (
            LABELS,
            [
                [0.0258417801242, 0.216516613959, 0.0563502566468],
                [0.0127748860093, -0.0809681395913, -0.162001999814],
            ],
        ),
        (
            SCATTERED,
            [
                [-0.00776764172346, -0.130748755985, -0.0746855977844],
                [-0.169044343612, -0.330695994619, 0.0788067335434],
            ],
        ),
    ],
)
def test_each_of_two_ranks_holds_the_published_gradient_before_the_mean(
    labels: Tensor, local: list[list[float]]
) -> None:
    for (_, gradient, _), expected in zip(run_ranks(2, scatter_over_ranks, labels), local, strict=True):
        assert picked(gradient, (0, 0), (1, 2), (3, 5)) == pytest.approx(expected, abs=1e-11)


def align_over_ranks(rank: int, world: int) -> tuple[float, Tensor]:
    own = slice(rank * 8 // world, (rank + 1) * 8 // world)
    encoder, target = z(4, 6, 7).requires_grad_(), z(4, 6, 9)
    first, second = z(8, 4, 6)[own], z(8, 4, 8)[own]
    loss = (byol_loss(first @ encoder, second @ target) + byol_loss(second @ encoder, first @ target)) / 2
    loss.backward()
    return loss.item(), distributed.mean_over_ranks_(encoder.grad)


def test_alignment_over_ranks_needs_only_the_mean_of_ranks() -> None:
    (one, gradient), (two, _) = run_ranks(2, align_over_ranks)
    assert [one, two, (one + two) / 2] == pytest.approx([1.60406247442, 1.62851315191, 1.61628781316], abs=1e-11)
    expected = [0.0319590853658, -0.0944216287277, -0.107031707748]
    assert picked(gradient, (0, 0), (1, 2), (3, 5)) == pytest.approx(expected, abs=1e-12)
