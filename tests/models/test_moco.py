"""MoCo: its loss and queue against published numbers and a slow oracle; shuffled keys; several ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Batch
from models.moco import MoCo, MoCoConfig
from models.parts.centers import EStepConfig
from models.parts.contrastive import info_nce
from models.parts.memory import Queue
from models.parts.momentum import SHUFFLE
from tests.oracles.bn_loop import bn_loop
from tests.oracles.moco_loop import info_nce_loop, queue_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.group_batchnorm import convert_batchnorm

PAST = F.normalize(z(12, 6, 12), dim=1)
WRITTEN = torch.ones(12, dtype=torch.bool)
CLOCK = Clock(0, 7, 3)
N_ROWS, MICRO = 29, 12  # rows of the data set; of a micro-batch, of which a step has two
STEP = 2 * MICRO
CASES: list[dict[str, Any]] = [
    {"symmetric": "none", "bn_groups": 4},
    {"symmetric": "sum", "bn_groups": 2},
    {"symmetric": "mean", "bn_groups": 1, "views_in_one_forward": True, "head_layers": 1},
]


def test_loss_and_gradient_equal_the_published_numbers_and_spare_the_keys() -> None:
    first, second, key = z(8, 6, 0).requires_grad_(), z(8, 6, 1), z(8, 6, 3).requires_grad_()
    one = info_nce(first, key, PAST, WRITTEN, temperature=0.2)
    two = info_nce(second, z(8, 6, 2), PAST, WRITTEN, temperature=0.2)
    one.backward()
    assert [one.item(), two.item()] == pytest.approx([1.02106118392, 7.94225217383], abs=1e-11)
    expected = [-0.0136857647936, -0.00808019298809, 0.00155923439426]
    assert [first.grad[place].item() for place in ((0, 0), (3, 2), (7, 5))] == pytest.approx(expected, abs=1e-12)
    assert key.grad is None


@pytest.mark.parametrize(
    ("symmetric", "expected"), [("none", 1.02106118392), ("sum", 8.96331335775), ("mean", 4.48165667887)]
)
def test_directions_are_combined_to_the_published_numbers(symmetric: str, expected: float) -> None:
    directions = [info_nce(z(8, 6, q), z(8, 6, k), PAST, WRITTEN, temperature=0.2) for q, k in ((0, 3), (1, 2))]
    contrast = tiny_moco(symmetric=symmetric).contrast
    assert contrast.combine(directions[: contrast.n_directions]).item() == pytest.approx(expected, abs=1e-11)


def test_loss_of_another_size_and_temperature_equals_the_published_number() -> None:
    past = F.normalize(z(7, 4, 12), dim=1)
    loss = info_nce(z(5, 4, 0), z(5, 4, 3), past, WRITTEN[:7], temperature=0.07)
    assert loss.item() == pytest.approx(0.701632988169, abs=1e-11)


def test_queue_takes_more_rows_than_it_holds_as_in_the_published_case() -> None:
    queue = Queue(12, 6).double()
    queue.features.copy_(PAST)
    queue.cursor.fill_(8)
    keys = torch.cat([z(8, 6, 2), z(8, 6, 3)])
    expected, pointer = queue_loop(PAST.numpy(), 8, keys.numpy())
    queue.write(F.normalize(keys, dim=1), torch.arange(16))
    assert queue.cursor.item() == pointer == 0
    torch.testing.assert_close(queue.features, torch.from_numpy(expected))
    published = {
        0: [0.569992679226, -0.0432963374441, -0.576118002733, -0.0382096132433, 0.570712320498, 0.118950798262],
        8: [-0.350884740274, -0.461896584565, 0.28553819657, 0.502292930555, -0.21447660392, -0.532635880124],
        11: [-0.204258673592, 0.54684058766, 0.11772564693, -0.565469703301, -0.0282447158931, 0.569939197352],
    }
    for row, values in published.items():
        assert queue.features[row].tolist() == pytest.approx(values, abs=1e-12)


def tiny_moco(**changes: Any) -> MoCo:
    """A linear encoder with BatchNorm, 6 to 5 to 7 to 3, in float64."""
    config = MoCoConfig(**{"hidden_dim": 7, "projection_dim": 3, "queue_size": 31, "ema_momentum": 0.9, **changes})
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5))
    method = MoCo(encoder, 5, config, EStepConfig(), 3)
    convert_batchnorm(method, config.bn_groups)
    return method.double()


def images(rows: Tensor, view: int) -> Tensor:
    """(B, 2, 3, 1) view number `view` of rows."""
    return z(N_ROWS, 6, view)[rows].view(-1, 2, 3, 1)


def batches(method: MoCo, step: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """This rank's part of both micro-batches, with the partners that the method asks for as the feed adds them."""
    rows = torch.arange(step, step + STEP) * 17 % N_ROWS  # another order than that of positions
    found = []
    for first in (0, MICRO):
        own = slice(first + rank * MICRO // world, first + (rank + 1) * MICRO // world)
        draws = Draws(5, step, own.start, own.stop, STEP)
        views = [images(rows[own], view) for view in (0, 1)]
        partners = method.partners(rows[first : first + MICRO], draws, None, CLOCK)
        if partners is not None:
            part = partners[own.start - first : own.stop - first]
            views += [images(who, 2 + place) for place, who in enumerate(part.unbind(1))]
        found.append(Batch(views, rows[own], torch.arange(own.start, own.stop), draws))
    return found


def train(rank: int, world: int, case: dict[str, Any]) -> tuple[list[float], Tensor, Tensor, dict[str, Tensor]]:
    """Three steps as the loop makes them: the loss of each rank, its keys, its online weight, queue and target."""
    method = tiny_moco(**case)
    losses, keys = [], torch.empty(0)
    for step in range(3):
        carries = []
        for batch in batches(method, step, rank, world):
            found = method.loss(batch, None, CLOCK)
            (found["loss"] / 2).backward()
            losses.append(found["loss"].item())
            carries.append(found["carry"])
        for parameter in method.parameter_groups()["online"]:
            with torch.no_grad():
                parameter -= 0.3 * distributed.mean_over_ranks_(parameter.grad)
                parameter.grad = None
        carry = {name: torch.cat([carry[name] for carry in carries]) for name in carries[0]}
        method.after_step(carry, CLOCK)
        keys = carry["keys"]
    return losses, keys, method.contrast.online[0][1].weight.detach(), dict(method.contrast.queue.state_dict())


def train_all(rank: int, world: int) -> list[tuple[list[float], Tensor, Tensor, dict[str, Tensor]]]:
    return [train(rank, world, case) for case in CASES]


def test_ranks_learn_what_one_rank_learns_and_hold_the_same_queue() -> None:
    alone = train_all(0, 1)
    for world in (2, 4):
        parts = run_ranks(world, train_all)
        for case, (losses, keys, weight, memory) in enumerate(alone):
            own = [part[case] for part in parts]
            means = [sum(of_ranks) / world for of_ranks in zip(*(each[0] for each in own), strict=True)]
            assert means == pytest.approx(losses, abs=1e-11)
            halves = [torch.cat([each[1].chunk(2)[micro] for each in own]) for micro in (0, 1)]
            torch.testing.assert_close(torch.cat(halves), keys, rtol=1e-10, atol=1e-12)
            for _, _, other_weight, other_memory in own:
                torch.testing.assert_close(other_weight, weight, rtol=1e-10, atol=1e-12)
                for name, value in memory.items():
                    torch.testing.assert_close(other_memory[name], value, rtol=1e-10, atol=1e-12)


def split(rank: int, world: int) -> float:
    own = slice(rank * 8 // world, (rank + 1) * 8 // world)
    return info_nce(z(8, 6, 0)[own], z(8, 6, 3)[own], PAST, WRITTEN, temperature=0.2).item()


def test_loss_over_two_ranks_has_the_published_parts() -> None:
    one, two = run_ranks(2, split)
    assert [one, two, (one + two) / 2] == pytest.approx([1.10819551209, 0.933926855744, 1.02106118392], abs=1e-11)


@pytest.mark.parametrize("symmetric", ["none", "sum"])
def test_key_of_each_row_is_that_of_the_permuted_batch_and_meets_its_own_query(symmetric: str) -> None:
    method = tiny_moco(symmetric=symmetric, bn_groups=4)
    for batch in batches(method, 0):  # the positions of the second one do not start at 0
        method.contrast.queue.write(F.normalize(z(31, 3, 9), dim=1), torch.arange(31))
        found = method.loss(batch, None, CLOCK)
        permutation = batch.draws.permutation(SHUFFLE, MICRO)
        assert not torch.equal(permutation, torch.arange(MICRO))
        linear, norm = method.contrast.target[0][1:]
        for column in range(method.contrast.n_directions):
            shown = images(batch.rows[permutation], 2 + column)
            assert torch.equal(batch.views[2 + column], shown)
            before = linear(shown.flatten(1))
            normalised = bn_loop(before.detach().numpy(), norm.weight.numpy(), norm.bias.numpy(), 4)[0]
            expected = torch.empty(MICRO, 3, dtype=torch.float64)
            expected[permutation] = method.contrast.target[1](torch.from_numpy(normalised))
            torch.testing.assert_close(found["carry"]["keys"][:, column], expected)
        queries, keys, past = found["carry"]["features"], found["carry"]["keys"], method.contrast.queue.features
        pairs = [(0, 0)] if symmetric == "none" else [(0, 1), (1, 0)]
        loss = sum(info_nce_loop(queries[:, q].numpy(), keys[:, k].numpy(), past.numpy(), 0.2) for q, k in pairs)
        assert found["loss"].item() == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("symmetric", ["none", "mean"])
def test_without_groups_keys_are_those_of_the_own_views_the_second_for_one_direction(symmetric: str) -> None:
    method = tiny_moco(symmetric=symmetric)
    batch = batches(method, 0)[0]
    expected = [method.contrast.target(view) for view in batch.views]
    keys = method.loss(batch, None, CLOCK)["carry"]["keys"]
    torch.testing.assert_close(keys, torch.stack(expected if symmetric == "mean" else expected[1:], 1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["symmetric"])
def test_gradient_reaches_queries_alone_and_the_queue_takes_view_by_view(case: dict[str, Any]) -> None:
    method = tiny_moco(**case)
    method.after_step(first_loss(method)["carry"], CLOCK)
    before, pointer = method.contrast.queue.features.numpy().copy(), int(method.contrast.queue.cursor)
    target = method.contrast.target[0][1].weight.clone()
    batch = batches(method, 1)[0]
    for view in batch.views:
        view.requires_grad_()
    found = method.loss(batch, None, CLOCK)
    found["loss"].backward()
    assert batch.views[0].grad.abs().sum() > 0
    both = case["symmetric"] != "none"
    assert (batch.views[1].grad is None) != both
    assert all(view.grad is None for view in batch.views[2:])
    assert all(parameter.grad is None for parameter in method.contrast.target.parameters())
    assert not any(value.requires_grad for value in found["carry"].values())
    method.after_step(found["carry"], CLOCK)
    keys = found["carry"]["keys"].transpose(0, 1).flatten(0, 1)  # all of view 1, then all of view 2
    expected, pointer = queue_loop(before, pointer, keys.numpy())
    torch.testing.assert_close(method.contrast.queue.features, torch.from_numpy(expected))
    assert method.contrast.queue.cursor.item() == pointer
    online = method.contrast.online[0][1].weight
    torch.testing.assert_close(method.contrast.target[0][1].weight, 0.9 * target + 0.1 * online)


def first_loss(method: MoCo) -> dict[str, Any]:
    """What the first batch gives, with weights that have moved away from the target's."""
    with torch.no_grad():
        method.contrast.online[0][1].weight += 0.1
    return method.loss(batches(method, 0)[0], None, CLOCK)


def test_queue_starts_empty_so_that_the_first_loss_has_no_negatives() -> None:
    assert first_loss(tiny_moco())["loss"].item() == 0


def test_clusters_and_probes_read_the_target() -> None:
    method = tiny_moco()
    first_loss(method)
    method.eval()
    some = images(torch.arange(7), 0)
    torch.testing.assert_close(method.encode(some), method.contrast.target.encoder(some))
    torch.testing.assert_close(method.embed(some), F.normalize(method.contrast.target(some), dim=1))
    assert not torch.allclose(method.encode(some), method.contrast.online.encoder(some))


def test_defaults_are_the_papers() -> None:
    config = MoCoConfig()
    assert (config.queue_size, config.temperature, config.ema_momentum) == (65536, 0.2, 0.999)
    assert (config.symmetric, config.views_in_one_forward, config.bn_groups) == ("none", False, 1)
    method = MoCo(nn.Identity(), 512, config.model_copy(update={"queue_size": 2}), EStepConfig(), 3)
    assert [type(layer) for layer in method.contrast.online.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in method.contrast.online.projector.parameters()) == 328_320
