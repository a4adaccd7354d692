"""SwAV: codes and loss against published numbers, slow oracles and several ranks, with and without a queue."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.parts.multi_crop import predict_targets
from models.swav import SwAV, sinkhorn
from tests.oracles.swav_loop import sinkhorn_loop
from tests.ranks import run_ranks
from tests.vectors import z

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 6, 5, 2),
        "codes": [
            [2.1648124189e-14, 3.5157333905e-06, 0.42110910187, 0.57887516695, 1.2215447579e-05],
            [1.5679796817e-17, 5.1121090631e-12, 4.8173318337e-05, 0.83894900234, 0.16100282433],
            [1.7224117481e-15, 8.9822405025e-16, 2.3009194204e-11, 5.7645456107e-05, 0.99994235452],
            [0.0058890919237, 1.6468857428e-08, 8.4755443143e-11, 6.2037628583e-07, 0.99411027115],
            [0.99999868015, 1.3198160162e-06, 8.7052493028e-14, 8.6077090221e-15, 2.9568781322e-11],
            [0.99204847119, 0.0079515287207, 8.9958298593e-11, 6.7692274346e-16, 2.0949913628e-17],
            [0.00024719777857, 0.99965027121, 0.0001025308899, 1.2389870707e-10, 1.5368971577e-16],
            [2.313241189e-09, 0.028572058794, 0.97056270488, 0.00086523376774, 2.4439301482e-10],
        ],
        "second": [1.8688142371e-09, 3.4036647238e-13, 2.1914566641e-11, 7.0933631403e-06, 0.99999290475],
        "sums": [1.9981834434, 1.0361787107, 1.3918225112, 1.418747669, 2.1550676657],
        "loss": 12.661399221, "prototypes": -1.8763185903, "norm": 6.4884929048,
        "views": {(0, 0, 0): -0.15429282719, (1, 1, 2): 0.29658746855, (1, 7, 5): -0.0086817355343},
        "queued": 12.32987194,
        "queued_codes": [1.8957270416e-14, 8.2702799213e-07, 0.33496154115, 0.66494751092, 9.0120907157e-05],
        "wrong": [11.20349453, 10.953594753], "wrong_mean": 11.078544641,
    },
    "B": {
        "sizes": (6, 5, 6, 3),
        "codes": [
            [5.0916091652e-14, 0.0006816384929, 0.72680413413, 0.27250309418, 1.1133179803e-05, 1.5903182877e-11],
            [5.6252033428e-18, 1.9797737385e-10, 6.9284615707e-06, 0.53753004806, 0.46241069156, 5.2331720172e-05],
            [6.8370565668e-17, 1.0687989081e-13, 1.3612842268e-11, 8.1935774224e-05, 0.56572070639, 0.43419735782],
            [1.3914846518e-10, 1.0855681896e-11, 5.8797285334e-15, 1.6695870465e-10, 8.3579251407e-05, 0.99991642043],
            [0.99216058926, 0.0077688387624, 1.8288896217e-11, 1.7895595779e-13, 2.7378441451e-10, 7.0571680893e-05],
            [0.16865740273, 0.8313425969, 3.7282611045e-10, 8.5837749863e-17, 5.6171237879e-18, 4.1951318816e-15],
        ],
        "second": [
            7.7673698551e-15, 5.7212077529e-18, 7.8954995433e-16, 1.0056711916e-08, 0.82802226378, 0.17197772616,
        ],
        "sums": [1.1608179921, 0.83979307436, 0.726811063, 0.81011507818, 1.0282261107, 1.4342366817],
        "loss": 13.258840144, "prototypes": -1.8629776804, "norm": 5.6574240757,
        "views": {(0, 0, 0): -0.11803323174, (1, 1, 2): 0.035390614152, (2, 5, 4): 0.0056404910804},
        "queued": 13.555496771,
        "queued_codes": [
            1.2502528845e-13, 3.1605189426e-06, 0.48880088552, 0.51096356735, 0.00023238602625, 5.8347817986e-10,
        ],
        "wrong": [11.622246927, 11.829183794], "wrong_mean": 11.72571536,
    },
}  # fmt: skip


def leaves(name: str, own: slice = slice(None)) -> tuple[list[Tensor], Tensor]:
    """The crops, not yet of length 1, and the prototypes, which are; all record their gradient."""
    rows, width, n_prototypes, n_views = CASES[name]["sizes"]
    crops = [z(rows, width, view)[own].clone().requires_grad_() for view in range(n_views)]
    return crops, F.normalize(z(n_prototypes, width, 5), dim=1).requires_grad_()


def past_rows(name: str) -> list[Tensor]:
    return [F.normalize(z(4, CASES[name]["sizes"][1], s), dim=1) for s in (8, 9)]


def loss_and_codes(crops: list[Tensor], prototypes: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    scores = [F.normalize(crop, dim=1) @ prototypes.T for crop in crops]
    together = [torch.cat([rows @ prototypes.T, own]) for rows, own in zip(past, scores, strict=False)]
    codes = [sinkhorn(each, epsilon=0.05, iterations=3)[len(rows) :] for each, rows in zip(together, past, strict=True)]
    return predict_targets(scores, codes, temperature=0.1), codes


def no_past(name: str) -> list[Tensor]:
    return [rows[:0] for rows in past_rows(name)]


@pytest.mark.parametrize("name", CASES)
def test_codes_loss_and_gradients_equal_the_published_numbers(name: str) -> None:
    expected, (crops, prototypes) = CASES[name], leaves(name)
    loss, codes = loss_and_codes(crops, prototypes, no_past(name))
    loss.backward()
    torch.testing.assert_close(codes[0], torch.tensor(expected["codes"], dtype=torch.float64), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(codes[1][0], torch.tensor(expected["second"], dtype=torch.float64), atol=0, rtol=1e-8)
    assert codes[0].sum(0).tolist() == pytest.approx(expected["sums"], abs=1e-9)
    assert codes[0].sum(1).tolist() == pytest.approx([1.0] * len(crops[0]), abs=1e-14)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-8)
    assert prototypes.grad[0, 0].item() == pytest.approx(expected["prototypes"], abs=1e-8)
    assert prototypes.grad.norm().item() == pytest.approx(expected["norm"], abs=1e-8)
    for (view, row, column), value in expected["views"].items():
        assert crops[view].grad[row, column].item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_codes_and_loss_with_a_queue_equal_the_published_numbers(name: str) -> None:
    expected, (crops, prototypes) = CASES[name], leaves(name)
    loss, codes = loss_and_codes(crops, prototypes, past_rows(name))
    assert loss.item() == pytest.approx(expected["queued"], abs=1e-8)
    assert codes[0][0].tolist() == pytest.approx(expected["queued_codes"], abs=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_codes_of_parts_of_a_batch_give_another_loss(name: str) -> None:
    expected, n_rows = CASES[name], CASES[name]["sizes"][0]
    parts = [
        loss_and_codes(*leaves(name, own), no_past(name))[0].item()
        for own in (slice(n_rows // 2), slice(n_rows // 2, n_rows))
    ]
    assert parts == pytest.approx(expected["wrong"], abs=1e-8)
    assert sum(parts) / 2 == pytest.approx(expected["wrong_mean"], abs=1e-8)
    assert abs(sum(parts) / 2 - expected["loss"]) > 1
    assert not SwAV.exact_under_accumulation


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.01, 1), (1.0, 7)])
def test_codes_equal_the_form_with_exponentials(epsilon: float, iterations: int) -> None:
    scores = 2 * torch.rand(11, 7, dtype=torch.float64) - 1
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(codes.numpy(), sinkhorn_loop(scores.numpy(), epsilon, iterations), atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.05, 0.005])  # e^200 is no float32, e^20 no float16
def test_codes_do_not_overflow_in_float32_nor_in_half_precision(epsilon: float) -> None:
    scores = F.normalize(z(11, 5, 0), dim=1) @ F.normalize(z(7, 5, 1), dim=1).T
    codes = sinkhorn(scores.float(), epsilon=epsilon, iterations=3)
    np.testing.assert_allclose(codes.numpy(), sinkhorn_loop(scores.numpy(), epsilon, 3), atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = sinkhorn(scores.bfloat16(), epsilon=epsilon, iterations=3)
    assert torch.equal(half, sinkhorn(scores.bfloat16().float(), epsilon=epsilon, iterations=3))


def over_ranks(rank: int, world: int) -> dict[str, list[Any]]:
    """Of each case that can be cut, without and with a queue: loss, codes, gradients of the mean over ranks."""
    found = {}
    for name, case in CASES.items():
        n_rows = case["sizes"][0]
        if n_rows % world:
            continue
        for past in (no_past(name), past_rows(name)):
            crops, prototypes = leaves(name, slice(rank * n_rows // world, (rank + 1) * n_rows // world))
            own = [rows.tensor_split(world)[rank] for rows in past]
            loss, codes = loss_and_codes(crops, prototypes, own)
            (loss / world).backward()
            key = f"{name}{len(past[0])}"
            found[key] = [loss.item(), torch.stack(codes, 1), *(crop.grad for crop in crops), prototypes.grad]
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_codes_loss_and_gradients_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    alone, ranks = over_ranks(0, 1), run_ranks(world, over_ranks)
    for key in ranks[0]:
        loss, *rows, prototypes = alone[key]
        assert sum(rank[key][0] for rank in ranks) / world == pytest.approx(loss, abs=1e-12)
        for place, whole in enumerate(rows, 1):
            torch.testing.assert_close(torch.cat([rank[key][place] for rank in ranks]), whole, atol=1e-13, rtol=1e-11)
        torch.testing.assert_close(sum(rank[key][-1] for rank in ranks), prototypes, atol=1e-13, rtol=1e-11)


def test_codes_pass_no_gradient() -> None:
    crops, prototypes = leaves("A")
    codes = sinkhorn(crops[0] @ prototypes.T, epsilon=0.05, iterations=3)
    assert not codes.requires_grad
