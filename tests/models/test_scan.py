"""SCAN: its loss against published numbers, slow loops and several ranks; its neighbours, its pretext."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.parts.centers import EStepConfig
from models.parts.contrastive import nt_xent
from models.scan import SCAN, SCANConfig, neighbor_losses
from models.state import FeatureShard
from tests.oracles.scan_loop import (
    consistency_loop,
    entropy_loop,
    nearest_loop,
    one_directional_simclr_loop,
    scan_loop,
    softmax_rows,
)
from tests.ranks import run_ranks
from tests.vectors import z
from utils.clock import Clock

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 6, 3), "scale": 1.0, "consistency": 1.3026479582, "entropy": 1.0951223435, "loss": -4.1729637592,
        "first": {(0, 0): -0.0062151252213, (7, 2): 0.039436251532}, "second": {(1, 2): 0.045780113243},
        "norms": [0.15654006522, 0.12817775623], "wrong": [-3.6136521358, -3.5530652368], "wrong_mean": -3.5833586863,
        "neighbors": [[7, 1], [2, 0], [1, 3], [2, 4], [5, 3], [4, 6], [5, 7], [0, 6]],
        "with_self": -0.23863022639, "without_self": -0.20783395707, "pretext": 14.788643318,
    },
    "B": {
        "sizes": (6, 5, 4), "scale": 2.5, "consistency": 2.6121603485, "entropy": 1.2828733908, "loss": -3.8022066055,
        "first": {(0, 0): 0.20189334644, (5, 3): 0.080479782991}, "second": {(1, 2): 0.015873972505},
        "norms": [0.50934005242, 0.30162959537], "wrong": [-1.6309866403, -1.8469295249], "wrong_mean": -1.7389580826,
        "neighbors": [[1, 2], [2, 0], [3, 1], [2, 4], [3, 5], [4, 3]],
        "with_self": -0.52750623325, "without_self": -0.38459033325, "pretext": 14.62178287,
    },
}  # fmt: skip


def inputs(name: str, own: slice = slice(None)) -> list[Tensor]:
    """Logits of the images and of their neighbours, leaves that record their gradient."""
    (rows, _, n_clusters), scale = CASES[name]["sizes"], CASES[name]["scale"]
    return [(scale * z(rows, n_clusters, s))[own].clone().requires_grad_() for s in (0, 1)]


def parts(logits: Tensor, neighbor_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of one head with the weight 5, consistency, entropy."""
    consistency, entropy = neighbor_losses(logits[:, None], neighbor_logits[:, None])
    return (consistency - 5 * entropy).squeeze(), consistency.squeeze(), entropy.squeeze()


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_equal_the_published_numbers(name: str) -> None:
    expected, leaves = CASES[name], inputs(name)
    found = parts(*leaves)
    found[0].backward()
    values = [expected[key] for key in ("loss", "consistency", "entropy")]
    assert [value.item() for value in found] == pytest.approx(values, abs=1e-9)
    for leaf, key in zip(leaves, ("first", "second"), strict=True):
        for place, value in expected[key].items():
            assert leaf.grad[place].item() == pytest.approx(value, abs=1e-11)
    assert [leaf.grad.norm().item() for leaf in leaves] == pytest.approx(expected["norms"], abs=1e-9)


def test_each_head_has_the_loss_of_the_loop() -> None:
    logits, neighbor_logits = 3 * torch.randn(2, 11, 3, 5, dtype=torch.float64)  # three heads
    consistency, entropy = neighbor_losses(logits, neighbor_logits)
    for head in range(3):
        a, b = (each[:, head].numpy() for each in (logits, neighbor_logits))
        assert (consistency[head] - 2 * entropy[head]).item() == pytest.approx(scan_loop(a, b, 2.0)[0], abs=1e-12)


def test_renamed_clusters_and_exchanged_neighbors_have_the_same_consistency() -> None:
    logits, neighbor_logits = 2.5 * z(11, 5, 2)[:, None], 2.5 * z(11, 5, 3)[:, None]
    renamed = torch.tensor([3, 0, 4, 1, 2])
    expected = neighbor_losses(logits, neighbor_logits)
    torch.testing.assert_close(neighbor_losses(logits[..., renamed], neighbor_logits[..., renamed]), expected)
    torch.testing.assert_close(neighbor_losses(neighbor_logits, logits)[0], expected[0])


def test_neighbors_that_share_no_cluster_at_all_give_a_finite_loss_that_draws_them_together() -> None:
    sure = 300 * nn.functional.one_hot(torch.arange(5), 5).float()[:, None]
    logits, neighbor_logits = sure.clone().requires_grad_(), sure.roll(1, 0).requires_grad_()
    consistency, entropy = neighbor_losses(logits, neighbor_logits)
    assert consistency.item() == pytest.approx(300 - np.log(2))  # in float32 the product itself is 0
    (consistency - 5 * entropy).sum().backward()
    for leaf in (logits, neighbor_logits):
        assert leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


def test_a_cluster_that_no_row_takes_gives_a_finite_loss_and_gradient() -> None:
    logits = z(7, 5, 2).float().index_fill(1, torch.tensor([2]), -200.0)[:, None].requires_grad_()
    consistency, entropy = neighbor_losses(logits, logits.detach())
    (consistency - 5 * entropy).sum().backward()
    assert logits.grad.isfinite().all()
    assert entropy.item() == pytest.approx(entropy_loop(softmax_rows(logits[:, 0].detach().double().numpy())), abs=1e-5)


def test_half_precision_computes_in_float32() -> None:
    logits, neighbor_logits = z(7, 5, 0)[:, None].bfloat16(), z(7, 5, 1)[:, None].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = neighbor_losses(logits, neighbor_logits)
    assert [value.dtype for value in found] == [torch.float32] * 2
    assert found == neighbor_losses(logits.float(), neighbor_logits.float())


def over_ranks(rank: int, world: int) -> dict[str, tuple[list[float], list[Tensor]]]:
    """Of each case that can be cut: this rank's values, and the gradients of its rows of the mean over ranks."""
    found = {}
    for name, case in CASES.items():
        rows = case["sizes"][0]
        if rows % world == 0:
            leaves = inputs(name, slice(rank * rows // world, (rank + 1) * rows // world))
            values = parts(*leaves)
            (values[0] / world).backward()
            found[name] = [value.item() for value in values], [leaf.grad for leaf in leaves]
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_loss_and_gradients_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    ranks = run_ranks(world, over_ranks) if world > 1 else [over_ranks(0, 1)]
    for name in ranks[0]:
        whole = inputs(name)
        parts(*whole)[0].backward()
        assert all(rank[name][0][2] == pytest.approx(CASES[name]["entropy"], abs=1e-9) for rank in ranks)
        mean = sum(rank[name][0][0] for rank in ranks) / world
        assert mean == pytest.approx(CASES[name]["loss"], abs=1e-9)
        for place, leaf in enumerate(whole):
            together = torch.cat([rank[name][1][place] for rank in ranks])
            torch.testing.assert_close(together, leaf.grad, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_parts_of_a_batch_are_other_losses(name: str) -> None:
    expected, rows = CASES[name], CASES[name]["sizes"][0]
    local = [parts(*inputs(name, own))[0].item() for own in (slice(rows // 2), slice(rows // 2, rows))]
    assert local == pytest.approx(expected["wrong"], abs=1e-9)
    assert sum(local) / 2 == pytest.approx(expected["wrong_mean"], abs=1e-9)
    assert abs(expected["wrong_mean"] - expected["loss"]) > 0.1
    assert not SCAN.exact_under_accumulation


def shard_of(name: str, rank: int, world: int) -> FeatureShard:
    """This rank's part of a case's rows for the E-step."""
    rows, width, n_clusters = CASES[name]["sizes"]
    own = slice(rank * rows // world, (rank + 1) * rows // world)
    probabilities = z(rows, n_clusters, 0).softmax(1)
    return FeatureShard(torch.arange(rows)[own], z(rows, width, 4)[own], rows, 0, [probabilities[own]])


def mined(rank: int, world: int, name: str, include_self: bool) -> list[list[int]]:
    method = SCAN(nn.Identity(), 5, SCANConfig(n_neighbors=2, include_self=include_self), EStepConfig(), 4)
    state = method.e_step(shard_of(name, rank, world), None, Clock(0, 1, 1))
    assert state.neighbors is not None and state.neighbors.dtype == torch.int32
    return state.neighbors.tolist()


@pytest.mark.parametrize("name", CASES)
def test_mined_neighbors_are_the_published_ones_with_and_without_the_row_itself(name: str) -> None:
    expected, rows = CASES[name]["neighbors"], CASES[name]["sizes"][0]
    assert mined(0, 1, name, False) == expected == nearest_loop(z(*CASES[name]["sizes"][:2], 4).numpy(), 2, False)
    assert mined(0, 1, name, True) == [[row, *expected[row]] for row in range(rows)]
    assert mined(0, 1, name, True) == nearest_loop(z(*CASES[name]["sizes"][:2], 4).numpy(), 2, True)
    for world in (2, 4):
        assert run_ranks(world, mined, name, True) == [mined(0, 1, name, True)] * world


@pytest.mark.parametrize("name", CASES)
def test_pairs_with_the_row_itself_make_a_solution_look_better(name: str) -> None:
    rows, _, n_clusters = CASES[name]["sizes"]
    probabilities = softmax_rows((CASES[name]["scale"] * z(rows, n_clusters, 0)).numpy())
    for key, include_self in (("with_self", True), ("without_self", False)):
        pairs = [(row, other) for row, found in enumerate(mined(0, 1, name, include_self)) for other in found]
        value = consistency_loop(probabilities, pairs, probabilities) - entropy_loop(probabilities)
        assert value == pytest.approx(CASES[name][key], abs=1e-9)
    assert CASES[name]["with_self"] < CASES[name]["without_self"]


@pytest.mark.parametrize("name", CASES)
def test_the_published_pretext_loss_is_one_direction_of_our_simclr(name: str) -> None:
    first, second = (z(*CASES[name]["sizes"][:2], s) for s in (5, 6))
    there, back = (
        one_directional_simclr_loop(a.numpy(), b.numpy(), 0.1) for a, b in ((first, second), (second, first))
    )
    assert there == pytest.approx(CASES[name]["pretext"], abs=1e-8)
    assert nt_xent(first, second, temperature=0.1).item() == pytest.approx((there + back) / 2, abs=1e-9)
