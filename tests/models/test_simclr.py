"""SimCLR: its loss against published numbers, a slow oracle and several ranks; its network."""

import math

import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch
from models.parts.centers import EStepConfig
from models.parts.contrastive import nt_xent
from models.simclr import SimCLR, SimCLRConfig
from tests.oracles.ntxent_loop import nt_xent_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws

WHOLE, HALVES = 4.32283930141, [4.3300688496, 4.31560975322]  # of all anchors, of each rank's anchors
LOCAL = [3.45009024449, 3.43627974006]  # wrong: with the negatives of the own rank alone
GRADIENT = [0.0159533342091, 0.0219524406794, 0.00215277903431]


def picked(gradient: Tensor, *places: tuple[int, int]) -> list[float]:
    return [gradient[place].item() for place in places]


@pytest.mark.parametrize(
    ("rows", "width", "temperature", "loss", "first_gradient", "second_gradient"),
    [
        (
            8, 6, 0.5, 4.35206721483, {(0, 0): -0.0495818773695, (7, 5): -0.00313771767851},
            {(1, 1): 0.033218904142, (6, 4): 0.0230882296802},
        ),
        (
            5, 4, 0.2, 7.46559318341, {(0, 0): -0.150803476292, (4, 3): 0.21308825636},
            {(1, 1): 0.198362194626, (3, 2): -0.0899344319413},
        ),
    ],
)  # fmt: skip
def test_loss_and_gradient_of_both_views_equal_the_published_numbers(
    rows: int,
    width: int,
    temperature: float,
    loss: float,
    first_gradient: dict[tuple[int, int], float],
    second_gradient: dict[tuple[int, int], float],
) -> None:
    first, second = z(rows, width, 0).requires_grad_(), z(rows, width, 1).requires_grad_()
    found = nt_xent(first, second, temperature=temperature)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-11)
    for view, expected in ((first, first_gradient), (second, second_gradient)):
        assert picked(view.grad, *expected) == pytest.approx(list(expected.values()), abs=1e-12)


@pytest.mark.parametrize(("rows", "temperature"), [(1, 1.0), (2, 0.07), (11, 0.5)])
def test_loss_equals_the_loop(rows: int, temperature: float) -> None:
    first, second = torch.randn(2, rows, 5, dtype=torch.float64)
    expected = nt_xent_loop(first.numpy(), second.numpy(), temperature)
    assert nt_xent(first, second, temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_equal_rows_leave_a_guess_among_all_others() -> None:
    rows = torch.ones(7, 3)
    assert nt_xent(rows, 2 * rows, temperature=0.01).item() == pytest.approx(math.log(13), abs=1e-5)


def test_exchanged_views_and_rotated_features_do_not_matter() -> None:
    first, second, turn = z(7, 5, 0), z(7, 5, 1), torch.linalg.qr(z(5, 5, 2)).Q
    loss = nt_xent(first, second, temperature=0.2)
    torch.testing.assert_close(nt_xent(second, first, temperature=0.2), loss)
    torch.testing.assert_close(nt_xent(first @ turn, 3 * second @ turn, temperature=0.2), loss)


def test_micro_batches_have_fewer_negatives_and_are_no_exact_cut_of_the_batch() -> None:
    first, second = z(8, 4, 6) @ z(4, 6, 7), z(8, 4, 8) @ z(4, 6, 7)
    parts = [nt_xent(first[rows], second[rows], temperature=0.5).item() for rows in (slice(4), slice(4, 8))]
    assert parts == pytest.approx(LOCAL, abs=1e-11)
    assert not SimCLR.exact_under_accumulation


def test_half_precision_computes_in_float32() -> None:
    first, second = z(7, 5, 0).bfloat16(), z(7, 5, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(first, second, temperature=0.5)
    assert torch.equal(loss, nt_xent(first.float(), second.float(), temperature=0.5))


def over_ranks(rank: int, world: int) -> tuple[float, Tensor, Tensor]:
    """Linear encoder A in place of a network: this rank's loss, the mean gradient of A, and that of a wrong gather."""
    own = slice(rank * 8 // world, (rank + 1) * 8 // world)
    encoder = z(4, 6, 7).requires_grad_()
    first, second = z(8, 4, 6)[own] @ encoder, z(8, 4, 8)[own] @ encoder
    loss = nt_xent(first, second, temperature=0.5)
    (gradient,) = torch.autograd.grad(loss, encoder, retain_graph=True)
    views = []
    for view in (first, second):
        rows = distributed.gather_rows(view.detach())
        views.append(torch.cat([rows[: own.start], view, rows[own.stop :]]))  # other ranks' rows without gradient
    (sliced,) = torch.autograd.grad(whole_loss(*views), encoder)
    return loss.item(), distributed.mean_over_ranks_(gradient), distributed.mean_over_ranks_(sliced)


def whole_loss(first: Tensor, second: Tensor) -> Tensor:
    """NT-Xent of rows that are all here, which every rank may compute alike."""
    rows = nn.functional.normalize(torch.cat([first, second]), dim=1)
    logits = (rows @ rows.T / 0.5).fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(logits, torch.arange(len(rows)).roll(len(first)))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_loss_and_gradient_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    parts = run_ranks(world, over_ranks) if world > 1 else [over_ranks(0, 1)]
    losses = [loss for loss, _, _ in parts]
    assert sum(losses) / world == pytest.approx(WHOLE, abs=1e-11)
    if world == 2:
        assert losses == pytest.approx(HALVES, abs=1e-11)
        assert losses != pytest.approx(LOCAL, abs=0.1)
    for _, gradient, sliced in parts:
        assert picked(gradient, (0, 0), (1, 2), (3, 5)) == pytest.approx(GRADIENT, abs=1e-12)
        torch.testing.assert_close(sliced, gradient / world)  # what a gather without a sum in its backward would give


def test_published_loss_of_the_whole_batch_is_that_of_the_rows_in_one_place() -> None:
    first, second = z(8, 4, 6) @ z(4, 6, 7), z(8, 4, 8) @ z(4, 6, 7)
    assert whole_loss(first, second).item() == pytest.approx(WHOLE, abs=1e-11)
    halves = [
        nt_xent_loop(first.numpy(), second.numpy(), 0.5, [*range(n, n + 4), *range(8 + n, 12 + n)]) for n in (0, 4)
    ]
    assert halves == pytest.approx(HALVES, abs=1e-11)


def tiny_simclr(joint: bool = True) -> SimCLR:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5))
    return SimCLR(encoder, 5, SimCLRConfig(projection_dim=3, views_in_one_forward=joint), EStepConfig(), 3).double()


@pytest.mark.parametrize("joint", [True, False])
def test_method_contrasts_the_projections_and_learns_from_both_views(joint: bool) -> None:
    method = tiny_simclr(joint)
    views = [torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    batch = Batch(views, torch.arange(7), torch.arange(7), Draws(0, 0, 0, 7, 7))
    found = method.loss(batch, None, Clock(0, 1, 1))
    first, second = found["carry"]["features"].unbind(1)
    assert not first.requires_grad
    assert found["loss"].item() == pytest.approx(nt_xent_loop(first.numpy(), second.numpy(), 0.5), abs=1e-12)
    together = torch.cat([view.detach() for view in views]) if joint else views[0].detach()
    torch.testing.assert_close(first, method.online(together)[:7])  # statistics over both views, or over one
    found["loss"].backward()
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in views)


def test_clusters_and_probes_read_the_encoder_not_the_projector() -> None:
    method, images = tiny_simclr().eval(), torch.randn(7, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(method.encode(images), method.online.encoder(images))
    torch.testing.assert_close(method.embed(images), nn.functional.normalize(method.encode(images), dim=1))


def test_defaults_are_the_papers() -> None:
    config = SimCLRConfig()
    assert (config.views_in_one_forward, config.temperature) == (True, 0.5)
    method = SimCLR(nn.Identity(), 512, config, EStepConfig(), 3)
    assert [type(layer) for layer in method.online.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in method.online.projector.parameters()) == 328_320
