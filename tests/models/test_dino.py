"""DINO: loss, center and schedules against published numbers and a slow oracle; several ranks; its networks."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.dino import DINO, DINOConfig
from models.parts.centers import EStepConfig
from models.parts.multi_crop import predict_targets
from tests.oracles.byol_loop import ema_loop
from tests.oracles.dino_loop import center_loop, dino_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.schedules import ema_momentum, linear_by_epoch

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 5, 3), "temperature": 0.04, "loss": 3.7732907142, "norm": 0.17512696672,
        "center": [0.0026923159802, -0.087357311797, -0.046642742554, 0.060327847496, 0.077037358922],
        "gradients": {(0, 0, 0): 0.089274371796, (1, 1, 2): -0.018481451711, (2, 7, 4): 0.00015361709843},
        "local": [3.7890493006, 3.7575321277],
        "wrong": [0.016073809042, -0.075192740094, -0.05656794019, 0.047882811887, 0.083295317226],
    },
    "B": {
        "sizes": (6, 6, 2), "temperature": 0.07, "loss": 3.7939806798, "norm": 0.31114198584,
        "center": [
            0.011016802029, -0.08667583092, -0.054140392456, 0.059856222462, 0.083563619809, -0.017262243528,
        ],
        "gradients": {(0, 0, 0): 0.092758015642, (1, 1, 2): -0.14741716306, (1, 5, 5): 0.42460101689},
        "local": [4.2239418879, 3.3640194717],
        "wrong": [
            0.01396680822, -0.068246600779, -0.051765004197, 0.042141931243, 0.076156490705, -0.0022816082848,
        ],
    },
}  # fmt: skip
BEGUN = Clock(0, 7, 3)


def inputs(name: str, own: slice = slice(None)) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The student's logits, leaves, the teacher's, and the center."""
    rows, width, n_views = CASES[name]["sizes"]
    student = [(0.5 * z(rows, width, view))[own].requires_grad_() for view in range(n_views)]
    return student, [(0.5 * z(rows, width, s))[own] for s in (5, 6)], 0.1 * z(1, width, 7)[0]


def loss_of(name: str, own: slice = slice(None)) -> tuple[Tensor, list[Tensor]]:
    student, teacher, center = inputs(name, own)
    targets = [((view - center) / CASES[name]["temperature"]).softmax(1) for view in teacher]
    return predict_targets(student, targets, temperature=0.1), student


def tiny_dino(out_dim: int = 5, **changes: Any) -> DINO:
    """Means over pixels, 3 to 7 to 11 to 4, and the last layer."""
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    sizes = {"hidden_dim": 11, "bottleneck_dim": 4, "head_layers": 2, "out_dim": out_dim}
    return DINO(encoder, 7, DINOConfig(**{**sizes, **changes}), EStepConfig(), 3).double()


def tiny_batch() -> Batch:
    views = [z(7, 3 * side**2, s).view(7, 3, side, side) for s, side in enumerate((3, 3, 2, 2))]
    return Batch(views, torch.arange(7), torch.arange(7), Draws(0, 0, 0, 7, 7))


def total_of(teacher: list[Tensor]) -> Tensor:
    """(1, out_dim + 1) sums over both views' rows, and their number."""
    rows = torch.cat(teacher)
    return torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])[None]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_equal_the_published_numbers(name: str) -> None:
    expected, (loss, student) = CASES[name], loss_of(name)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-9)
    for (view, row, column), value in expected["gradients"].items():
        assert student[view].grad[row, column].item() == pytest.approx(value, abs=1e-10)
    assert student[0].grad.norm().item() == pytest.approx(expected["norm"], abs=1e-9)


def center_after(rank: int, world: int, name: str) -> Tensor:
    """The center after a step of two micro-batches, of this rank's rows."""
    rows, width, _ = CASES[name]["sizes"]
    _, teacher, center = inputs(name, slice(rank * rows // world, (rank + 1) * rows // world))
    method = tiny_dino(width)
    method.center.copy_(center)
    parts = [[view[own] for view in teacher] for own in (slice(1), slice(1, None))]  # unequal ones
    method.after_step({"total": torch.cat([total_of(part) for part in parts])}, BEGUN)
    return method.center


def test_center_over_ranks_and_parts_is_that_of_the_whole_batch() -> None:
    for name, expected in CASES.items():
        assert center_after(0, 1, name).tolist() == pytest.approx(expected["center"], abs=1e-10)
        for world in (2, 4) if name == "A" else (2,):
            for center in run_ranks(world, center_after, name):
                assert center.tolist() == pytest.approx(expected["center"], abs=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_loss_is_the_mean_of_the_parts_of_a_batch_which_their_centers_are_not(name: str) -> None:
    expected, half = CASES[name], CASES[name]["sizes"][0] // 2
    parts = [loss_of(name, own)[0].item() for own in (slice(half), slice(half, None))]
    assert parts == pytest.approx(expected["local"], abs=1e-9)
    assert sum(parts) / 2 == pytest.approx(expected["loss"], abs=1e-9)
    assert DINO.exact_under_accumulation
    _, teacher, center = inputs(name, slice(half))
    wrong = center_loop(center.numpy(), [view.numpy() for view in teacher], 0.9)
    assert wrong.tolist() == pytest.approx(expected["wrong"], abs=1e-10)
    assert abs(wrong[0] - expected["center"][0]) > 1e-3


def test_temperature_and_momentum_follow_the_published_schedules() -> None:
    values = [0.04, 0.0475, 0.055, 0.0625, 0.07, 0.07, 0.07, 0.07]
    for step in range(24):
        clock = Clock(step, 3, 8)
        assert linear_by_epoch(0.04, 0.07, clock, epochs=5) == pytest.approx(values[step // 3], abs=1e-15)
        assert linear_by_epoch(0.04, 0.07, clock, epochs=0) == 0.07
        assert linear_by_epoch(0.04, 0.07, clock, epochs=1) == (0.04 if step < 3 else 0.07)
    momenta = [
        0.996, 0.99606814835, 0.99626794919, 0.99658578644, 0.997, 0.99748236191, 0.998, 0.99851763809, 0.999,
        0.99941421356, 0.99973205081, 0.99993185165,
    ]  # fmt: skip
    found = [ema_momentum(0.996, 1.0, Clock(step, 4, 3)) for step in range(12)]  # the first update is the second value
    assert found == pytest.approx([*momenta[1:], 1.0], abs=1e-11)


@pytest.mark.parametrize("phase", ["train", UNLABELLED])
def test_method_predicts_the_teacher_of_two_views_by_the_student_of_all_crops(phase: str) -> None:
    method = tiny_dino(teacher_warmup_epochs=3)
    batch = dataclasses.replace(tiny_batch(), phase=phase)
    with torch.no_grad():
        method.center.copy_(0.1 * z(1, 5, 7)[0])
        for parameter in method.parameter_groups()["online"]:
            parameter += 0.1
        student = [method.student(view).numpy() for view in batch.views]
        teacher = [method.teacher(view).numpy() for view in batch.views[:2]]
        bottleneck = [method.student[1](method.student[0](view)) for view in batch.views[:2]]
    center = method.center.numpy().copy()
    found = method.loss(batch, None, Clock(7, 7, 3))  # the second epoch
    expected = dino_loop(student, teacher, center, 0.1, 0.055)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-12)
    q = [torch.softmax((torch.from_numpy(view) - method.center) / 0.055, 1) for view in teacher]
    entropy = -sum((view * view.log()).sum().item() for view in q) / 14
    assert found["teacher_entropy"].item() == pytest.approx(entropy, abs=1e-12)
    assert found["divergence"].item() == pytest.approx(expected - entropy, abs=1e-12)
    torch.testing.assert_close(found["carry"]["features"], torch.stack(bottleneck, 1))
    torch.testing.assert_close(found["carry"]["total"], total_of([torch.from_numpy(view) for view in teacher]))
    assert torch.equal(method.center, torch.from_numpy(center))  # moves after the step alone


def test_teacher_has_no_gradient_and_follows_the_student_after_the_step() -> None:
    method, batch = tiny_dino(ema_momentum=0.9, ema_momentum_final=None), tiny_batch()
    for view in batch.views:
        view.requires_grad_()
    found = method.loss(batch, None, BEGUN)
    found["loss"].backward()
    assert all(view.grad is not None for view in batch.views)
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    learnt = [parameter for part in method.parameter_groups().values() for parameter in part]
    assert all(parameter.grad.abs().sum() > 0 for parameter in learnt)
    assert not any(value.requires_grad for value in found["carry"].values())
    with torch.no_grad():
        for parameter in learnt:
            parameter += 0.1
    before = copy.deepcopy(method.teacher)
    method.after_step(found["carry"], BEGUN)
    for old, new, online in zip(
        before.parameters(), method.teacher.parameters(), method.student.parameters(), strict=True
    ):
        expected = ema_loop(old.numpy(), online.detach().numpy(), 0.9)
        torch.testing.assert_close(new, torch.from_numpy(expected))


def test_last_layer_is_frozen_for_the_first_epochs() -> None:
    method = tiny_dino(freeze_epochs=2)
    directions = method.student[-1].parametrizations.weight.original1
    for step, frozen in ((0, True), (13, True), (14, False)):
        method.loss(tiny_batch(), None, Clock(step, 7, 3))["loss"].backward()
        method.before_optimizer("train", Clock(step, 7, 3))
        assert (directions.grad is None) == frozen
        assert method.student[0][2].weight.grad is not None


def gradients(rank: int, world: int) -> list[Tensor]:
    """Of a step under DistributedDataParallel, with the last layer frozen and then not."""
    method, found = tiny_dino(freeze_epochs=1), []
    parallel = distributed.parallel(method)
    views = [view[:4][rank * 4 // world : (rank + 1) * 4 // world] for view in tiny_batch().views]
    n_rows = len(views[0])
    for step in (0, 7):
        method.zero_grad()
        batch = Batch(views, torch.arange(n_rows), torch.arange(n_rows), Draws(0, 0, 0, n_rows, 4))
        parallel(batch, None, Clock(step, 7, 3))["loss"].backward()
        method.before_optimizer("train", Clock(step, 7, 3))
        found += [torch.zeros(1) if p.grad is None else p.grad.clone() for p in method.parameters()]
    return found


def test_gradients_over_ranks_are_those_of_the_whole_batch() -> None:
    alone = gradients(0, 1)
    for found in run_ranks(2, gradients):
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("hidden", [11, 1031])
def test_head_and_loss_are_float32_under_autocast(hidden: int) -> None:
    method, batch = tiny_dino(hidden_dim=hidden).float(), tiny_batch()
    batch = dataclasses.replace(batch, views=[view.float() for view in batch.views])
    seen: list[torch.dtype] = []
    for layer in (method.student[1][0], method.student[1], method.student[2]):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = method.loss(batch, None, BEGUN)
    inside = torch.float32 if hidden < 1024 else torch.bfloat16
    assert seen == [inside, torch.float32, torch.float32]
    assert found["loss"].dtype == found["carry"]["total"].dtype == torch.float32
    assert math.isfinite(found["loss"].item())


def test_features_are_the_teachers() -> None:
    method, images = tiny_dino().eval(), z(7, 27, 0).view(7, 3, 3, 3)
    with torch.no_grad():
        method.student[0][2].weight += 1
    encoded = method.teacher[0](images)
    torch.testing.assert_close(method.encode(images), encoded)
    torch.testing.assert_close(method.embed(images), F.normalize(encoded, dim=1))
