"""Self-labelling: its loss against published numbers, slow loops and several ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.selflabel import SelfLabel, confident_cross_entropy
from tests.oracles.selflabel_loop import confident_cross_entropy_loop, confident_labels_loop
from tests.ranks import run_ranks
from tests.vectors import z

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 3), "threshold": 0.95, "labels": {1: 0, 2: 0, 4: 2, 5: 2, 7: 1}, "counts": [2, 1, 2],
        "confidence": [
            0.63963809455, 0.99550054115, 0.99947149727, 0.87121415817, 0.99834051369, 0.99924096297, 0.89684553412,
            0.98738403675,
        ],
        "of_ranks": [[2, 0, 0], [0, 1, 2]],
        True: {
            "loss": 2.4532755343, "gradient": {(1, 0): -0.14209600192, (7, 2): 0.0061654878377}, "norm": 0.58029966883,
            "wrong": [2.8383803172, 2.2607231429], "wrong_mean": 2.5495517301,
        },
        False: {
            "loss": 2.4381740762, "gradient": {(1, 0): -0.17051520231, (7, 2): 0.0036992927026}, "norm": 0.53448661524,
            "wrong": [2.8383803172, 2.1713699155], "wrong_mean": 2.5048751164,
        },
    },
    "B": {
        "sizes": (6, 4), "threshold": 0.9, "labels": {1: 0, 3: 3, 4: 3, 5: 2}, "counts": [1, 0, 1, 2],
        "confidence": [
            0.63963086445, 0.99537821326, 0.89833386891, 0.99411629554, 0.92031906198, 0.98418853172,
        ],
        "of_ranks": [[1, 0, 0, 0], [0, 0, 1, 2]],
        True: {
            "loss": 3.1554598154, "gradient": {(1, 0): -0.32288533919, (5, 3): 0.0051384142748}, "norm": 0.64443223743,
            "wrong": [3.4627329784, 3.0018232339], "wrong_mean": 3.2322781062,
        },
        False: {
            "loss": 3.1724305477, "gradient": {(1, 0): -0.24216400439, (5, 3): 0.0038538107061}, "norm": 0.60545215351,
            "wrong": [3.4627329784, 3.0756630708], "wrong_mean": 3.2691980246,
        },
    },
}  # fmt: skip
BOTH = [(name, balanced) for name in CASES for balanced in (True, False)]


def inputs(name: str, own: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Logits of weak and strong views; the latter record their gradient."""
    sizes = CASES[name]["sizes"]
    return 6 * z(*sizes, 0)[own], (2 * z(*sizes, 1))[own].clone().requires_grad_()


def loss_of(weak: Tensor, strong: Tensor, name: str, balanced: bool) -> tuple[Tensor, Tensor]:
    return confident_cross_entropy(weak, strong, threshold=CASES[name]["threshold"], balanced=balanced)


@pytest.mark.parametrize(("name", "balanced"), BOTH)
def test_loss_and_gradient_equal_the_published_numbers(name: str, balanced: bool) -> None:
    expected, (weak, strong) = CASES[name][balanced], inputs(name)
    loss, selected = loss_of(weak, strong, name, balanced)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-9)
    assert selected.item() == pytest.approx(len(CASES[name]["labels"]) / len(weak))
    for place, value in expected["gradient"].items():
        assert strong.grad[place].item() == pytest.approx(value, abs=1e-11)
    assert strong.grad.norm().item() == pytest.approx(expected["norm"], abs=1e-9)
    unsure = [row for row in range(len(weak)) if row not in CASES[name]["labels"]]
    assert strong.grad[unsure].eq(0).all()


@pytest.mark.parametrize("name", CASES)
def test_the_published_rows_count_by_the_published_confidence(name: str) -> None:
    weak, _ = inputs(name)
    assert confident_labels_loop(weak.numpy(), CASES[name]["threshold"]) == CASES[name]["labels"]
    confidence, labels = weak.softmax(1).max(1)
    assert confidence.tolist() == pytest.approx(CASES[name]["confidence"], abs=1e-10)
    for own, counts in (
        (slice(None), CASES[name]["counts"]),
        *zip(halves(len(weak)), CASES[name]["of_ranks"], strict=True),
    ):
        chosen = labels[own][confidence[own] > CASES[name]["threshold"]]
        assert torch.bincount(chosen, minlength=len(counts)).tolist() == counts


def halves(rows: int) -> tuple[slice, slice]:
    return slice(rows // 2), slice(rows // 2, rows)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("threshold", [0.4, 0.8])
def test_loss_equals_the_loop(threshold: float, balanced: bool) -> None:
    weak, strong = 2 * torch.randn(2, 11, 5, dtype=torch.float64)
    loss, _ = confident_cross_entropy(weak, strong, threshold=threshold, balanced=balanced)
    expected = confident_cross_entropy_loop(weak.numpy(), strong.numpy(), threshold, balanced)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_where_nothing_passes_loss_and_gradient_are_zero() -> None:
    weak, strong = 0.1 * z(6, 4, 0), (2 * z(6, 4, 1)).requires_grad_()
    for balanced in (True, False):
        loss, selected = confident_cross_entropy(weak, strong, threshold=0.9, balanced=balanced)
        (gradient,) = torch.autograd.grad(loss, strong)
        assert (loss.item(), selected.item()) == (0, 0)
        assert gradient.eq(0).all()


def test_a_probability_equal_to_the_threshold_does_not_pass() -> None:
    even = torch.zeros(3, 2)
    assert confident_cross_entropy(even, even, threshold=0.5, balanced=True)[1].item() == 0
    assert confident_cross_entropy(even, even, threshold=0.49, balanced=True)[1].item() == 1


def test_labels_receive_no_gradient_and_half_precision_computes_in_float32() -> None:
    weak, strong = inputs("A")
    weak = weak.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(weak, strong.bfloat16(), "A", True)
    found[0].backward()
    assert weak.grad is None
    assert [value.dtype for value in found] == [torch.float32] * 2
    assert found == loss_of(weak.float(), strong.bfloat16().float(), "A", True)


def over_ranks(rank: int, world: int) -> dict[str, tuple[float, float, Tensor]]:
    """Of each case that can be cut: this rank's loss, share, and the gradient of its rows of the mean over ranks."""
    found = {}
    for name, balanced in BOTH:
        rows = CASES[name]["sizes"][0]
        if rows % world == 0:
            weak, strong = inputs(name, slice(rank * rows // world, (rank + 1) * rows // world))
            loss, selected = loss_of(weak, strong, name, balanced)
            (loss / world).backward()
            found[f"{name} {balanced}"] = loss.item(), selected.item(), strong.grad
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_loss_and_gradient_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    ranks = run_ranks(world, over_ranks) if world > 1 else [over_ranks(0, 1)]
    for name, balanced in BOTH:
        if CASES[name]["sizes"][0] % world:
            continue
        found = [rank[f"{name} {balanced}"] for rank in ranks]
        weak, strong = inputs(name)
        loss_of(weak, strong, name, balanced)[0].backward()
        assert sum(loss for loss, *_ in found) / world == pytest.approx(CASES[name][balanced]["loss"], abs=1e-9)
        assert all(share == pytest.approx(len(CASES[name]["labels"]) / len(weak)) for _, share, _ in found)
        torch.testing.assert_close(torch.cat([gradient for *_, gradient in found]), strong.grad, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize(("name", "balanced"), BOTH)
def test_losses_of_parts_of_a_batch_are_other_losses(name: str, balanced: bool) -> None:
    expected = CASES[name][balanced]
    local = [loss_of(*inputs(name, own), name, balanced)[0].item() for own in halves(CASES[name]["sizes"][0])]
    assert local == pytest.approx(expected["wrong"], abs=1e-9)
    assert sum(local) / 2 == pytest.approx(expected["wrong_mean"], abs=1e-9)
    assert abs(expected["wrong_mean"] - expected["loss"]) > 0.05
    assert not SelfLabel.exact_under_accumulation
