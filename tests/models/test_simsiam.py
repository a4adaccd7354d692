"""SimSiam: its loss against published numbers, a slow oracle and several ranks; where its gradient stops."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Batch
from models.parts.centers import EStepConfig
from models.simsiam import SimSiam, SimSiamConfig, negative_cosine
from tests.oracles.byol_loop import byol_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.group_batchnorm import convert_batchnorm

CLOCK = Clock(0, 7, 3)
N_ROWS = 12


def picked(gradient: Tensor, *places: tuple[int, int]) -> list[float]:
    return [gradient[place].item() for place in places]


def both_directions(rows: int, width: int, predictions: tuple[int, int], own: slice = slice(None)) -> Tensor:
    first, second, z1, z2 = (z(rows, width, s)[own] for s in (*predictions, 2, 3))
    return (negative_cosine(first, z2) + negative_cosine(second, z1)) / 2


def test_loss_and_gradient_equal_the_published_numbers_and_spare_the_projections() -> None:
    first, second, z1, z2 = (z(8, 6, s).requires_grad_() for s in (4, 5, 2, 3))
    one, two = negative_cosine(first, z2), negative_cosine(second, z1)
    loss = (one + two) / 2
    loss.backward()
    assert [one.item(), two.item(), loss.item()] == pytest.approx(
        [0.514413250149, -0.999853758345, -0.242720254098], abs=1e-11
    )
    expected = [-0.0187619067706, -0.00298073023254, -0.0141896139246]
    assert picked(first.grad, (0, 0), (3, 2), (7, 5)) == pytest.approx(expected, abs=1e-12)
    assert z1.grad is None
    assert z2.grad is None


def test_loss_of_another_size_equals_the_published_number() -> None:
    assert both_directions(5, 4, (0, 1)).item() == pytest.approx(-0.26126038413, abs=1e-11)


def test_gradient_reaches_the_projection_through_the_predictor_alone() -> None:
    z1, z2 = z(8, 6, 0).requires_grad_(), z(8, 6, 1).requires_grad_()
    loss = negative_cosine(z1 @ z(6, 6, 11), z2)
    loss.backward()
    assert loss.item() == pytest.approx(-0.156648803949, abs=1e-11)
    assert picked(z1.grad, (0, 0), (7, 5)) == pytest.approx([0.0281691220615, -0.132374676548], abs=1e-12)
    assert z2.grad is None


def test_loss_equals_the_loop() -> None:
    p, k = torch.randn(2, 11, 5, dtype=torch.float64)
    expected = float(byol_loop(p.numpy(), k.numpy())) / 2 - 1
    assert negative_cosine(p, k).item() == pytest.approx(expected, abs=1e-12)


def tiny_simsiam(**changes: Any) -> SimSiam:
    """A linear encoder with BatchNorm, 6 to 5, in float64."""
    config = SimSiamConfig(**{"hidden_dim": 7, "predictor_dim": 3, **changes})  # type: ignore[arg-type]
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5))
    method = SimSiam(encoder, 5, config, EStepConfig(), 3)
    convert_batchnorm(method, config.bn_groups)
    return method.double()


def own_batch(rank: int = 0, world: int = 1) -> Batch:
    own = slice(rank * N_ROWS // world, (rank + 1) * N_ROWS // world)
    views = [z(N_ROWS, 6, view)[own].view(-1, 2, 3, 1) for view in (0, 1)]
    positions = torch.arange(N_ROWS)[own]
    return Batch(views, positions, positions, Draws(0, 0, own.start, own.stop, N_ROWS))


@pytest.mark.parametrize("joint", [False, True])
def test_method_pulls_each_prediction_towards_the_other_projection(joint: bool) -> None:
    method, batch = tiny_simsiam(views_in_one_forward=joint), own_batch()
    found = method.loss(batch, None, CLOCK)
    z1, z2 = found["carry"]["features"].unbind(1)
    assert not z1.requires_grad
    if joint:
        predictions = method.predictor(torch.stack([z1, z2], 1).flatten(0, 1)).detach()
        first, second = predictions[::2], predictions[1::2]
    else:
        first, second = method.predictor(z1).detach(), method.predictor(z2).detach()
        torch.testing.assert_close(z1.mean(0), torch.zeros(7, dtype=torch.float64))  # of one view's statistics
    expected = (byol_loop(first.numpy(), z2.numpy()) + byol_loop(second.numpy(), z1.numpy())) / 4 - 1
    assert found["loss"].item() == pytest.approx(float(expected), abs=1e-12)


def test_network_learns_as_if_the_projections_to_be_predicted_were_constants() -> None:
    method, batch = tiny_simsiam(), own_batch()
    method.loss(batch, None, CLOCK)["loss"].backward()
    gradient = method.online.encoder[1].weight.grad.clone()
    method.zero_grad()
    z1, z2 = (method.online(view) for view in batch.views)
    predictions = [F.normalize(method.predictor(projections), dim=1) for projections in (z1, z2)]
    constants = [F.normalize(projections, dim=1).detach() for projections in (z2, z1)]
    loss = sum(-(p * c).sum(1).mean() / 2 for p, c in zip(predictions, constants, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward()
    torch.testing.assert_close(method.online.encoder[1].weight.grad, gradient)
    groups = method.parameter_groups()
    assert {id(p) for p in groups["predictor"]} == {id(p) for p in method.predictor.parameters()}
    assert sum(len(group) for group in groups.values()) == len(list(method.parameters()))


def over_ranks(rank: int, world: int) -> tuple[float, list[tuple[float, Tensor]]]:
    """This rank's published loss; then, of one and of four BatchNorm groups, its loss and DDP's mean gradient."""
    own = slice(rank * 8 // world, (rank + 1) * 8 // world)
    found = []
    for groups in (1, 4):
        method = tiny_simsiam(bn_groups=groups)
        loss = method.loss(own_batch(rank, world), None, CLOCK)["loss"]
        loss.backward()
        found.append((loss.item(), distributed.mean_over_ranks_(method.online.encoder[1].weight.grad)))
    return both_directions(8, 6, (4, 5), own).item(), found


def test_loss_and_gradient_over_ranks_are_those_of_the_whole_batch() -> None:
    whole, alone = over_ranks(0, 1)
    for world in (2, 4):
        parts = run_ranks(world, over_ranks)
        losses = [loss for loss, _ in parts]
        assert sum(losses) / world == pytest.approx(whole, abs=1e-11)
        if world == 2:
            assert losses == pytest.approx([-0.246738893747, -0.238701614449], abs=1e-11)
        for number, (loss, gradient) in enumerate(alone):
            own = [found[number] for _, found in parts]
            assert sum(each for each, _ in own) / world == pytest.approx(loss, abs=1e-12)
            for _, other in own:
                torch.testing.assert_close(other, gradient, rtol=1e-10, atol=1e-13)


def test_clusters_read_the_projection_and_probes_the_encoder() -> None:
    method, images = tiny_simsiam().eval(), own_batch().views[0]
    torch.testing.assert_close(method.encode(images), method.online.encoder(images))
    torch.testing.assert_close(method.embed(images), F.normalize(method.online(images), dim=1))


@pytest.mark.parametrize(
    ("layers", "width", "size"),
    [(3, 2048, 12_593_152 - 2048), (2, 512, 5_253_120 - 3 * 2048)],  # without biases and weights that do nothing there
)
def test_heads_are_the_papers(layers: int, width: int, size: int) -> None:
    method = SimSiam(nn.Identity(), width, SimSiamConfig(projector_layers=layers), EStepConfig(), 3)
    counted = [sum(p.numel() for p in head.parameters()) for head in (method.online.projector, method.predictor)]
    assert counted == [size, 2_100_224]
    assert list(method.online.projector)[-1].weight is None
