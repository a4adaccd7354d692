"""AND: its loss, bank, anchors and neighbours against published numbers, slow oracles and several ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import anchor_neighborhood
from models.anchor_neighborhood import AND, ANDConfig, entropies, neighborhood_loss
from models.parts.bank import Bank
from models.parts.centers import EStepConfig
from models.state import FeatureShard
from tests.oracles.and_loop import bank_loop, entropies_loop, neighborhood_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils.clock import Clock

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 6), "batch": [0, 3, 5, 6], "round": 1, "k": 1,
        "entropies": [0.44658661415, 0.43151427984, 0.24675706756, 0.26792015006, 0.35720508683, 0.32467058448,
                      0.33787137217, 0.37050874958],
        "neighbors": {2: [1], 3: [4]}, "loss": 12.36377302, "alone": 14.308015538,
        "gradient": {(0, 0): -0.47799961013, (1, 2): -0.08285983918, (3, 5): -0.33278002092}, "norm": 2.6471750077,
        "bank": {
            0: [0.46951520281, -0.18610139596, -0.56907901366, -0.11835454314, 0.50575961036, 0.38893474981],
            3: [-0.45960209079, -0.35192317265, 0.37478665697, 0.44224883283, -0.26820223876, -0.50688705787],
        },
        "parts": [9.9485259534, 14.779020087],
    },
    "B": {
        "sizes": (6, 5), "batch": [1, 2, 4, 5], "round": 2, "k": 2,
        "entropies": [0.17773089718, 0.42700200332, 0.42877511727, 0.25835706503, 0.30239880369, 0.22568040599],
        "neighbors": {0: [1, 2], 3: [2, 4], 5: [4, 3]}, "loss": 13.178546303, "alone": 13.199987394,
        "gradient": {(0, 0): -0.52282623905, (1, 2): 0.34974845961, (3, 4): 0.38698076352}, "norm": 3.2348750073,
        "bank": {
            1: [0.20066552391, -0.54257079429, -0.43831878825, 0.35058130288, 0.59187808765],
            2: [-0.21022484098, -0.67227619724, -0.018304887992, 0.66605373822, 0.2447193898],
        },
        "parts": [15.149164465, 11.207928142],
    },
}  # fmt: skip


def bank_of(name: str) -> Tensor:
    return F.normalize(z(*CASES[name]["sizes"], 0), dim=1)


def rows_of(name: str) -> Tensor:
    return torch.tensor(CASES[name]["batch"])


def neighbors_of(name: str) -> Tensor:
    """(N, k) of every row, -1 where a row is no anchor."""
    case = CASES[name]
    return torch.tensor([case["neighbors"].get(row, [-1] * case["k"]) for row in range(case["sizes"][0])])


def shard_of(features: Tensor) -> FeatureShard:
    return FeatureShard(torch.arange(len(features)), features, len(features), 7)


@pytest.mark.parametrize("name", CASES)
def test_entropies_anchors_and_neighbors_equal_the_published_ones(name: str) -> None:
    case, (n_rows, width) = CASES[name], CASES[name]["sizes"]
    assert entropies(shard_of(bank_of(name)), 0.1).tolist() == pytest.approx(case["entropies"], abs=1e-9)
    config = ANDConfig(projection_dim=width, source="bank", n_neighbors=case["k"])
    method = AND(nn.Identity(), 4, config, EStepConfig(n_init=2, every_epochs=2), 3)
    method.prepare(n_rows, 0)
    method.double().bank.features.copy_(bank_of(name))
    end_of_first_epoch = Clock(6 * case["round"] + 2, 3, 99)  # a round has 2 epochs, an epoch 3 steps
    state = method.e_step(shard_of(z(n_rows, 6, 5)), None, end_of_first_epoch)
    assert state.anchors is not None and state.neighbors is not None
    assert state.anchors.nonzero()[:, 0].tolist() == list(case["neighbors"])
    assert torch.equal(state.neighbors, neighbors_of(name).int())


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_published_numbers_and_spare_the_bank(name: str) -> None:
    case, rows, bank = CASES[name], rows_of(name), bank_of(name).requires_grad_()
    u = z(*case["sizes"], 1)[rows].requires_grad_()
    loss = neighborhood_loss(F.normalize(u, dim=1), bank, rows, neighbors_of(name)[rows], temperature=0.1)
    alone = neighborhood_loss(F.normalize(u, dim=1), bank, rows, None, temperature=0.1)
    assert [loss.item(), alone.item()] == pytest.approx([case["loss"], case["alone"]], abs=1e-8)
    loss.backward()
    assert u.grad is not None
    assert [u.grad[at].item() for at in case["gradient"]] == pytest.approx(list(case["gradient"].values()), abs=1e-10)
    assert u.grad.norm().item() == pytest.approx(case["norm"], abs=1e-9)
    assert bank.grad is None


@pytest.mark.parametrize("name", CASES)
def test_bank_after_a_step_equals_the_published_rows(name: str) -> None:
    case, rows = CASES[name], rows_of(name)
    bank = Bank(*case["sizes"]).double()
    bank.features.copy_(bank_of(name))
    bank.write(F.normalize(z(*case["sizes"], 1)[rows], dim=1), rows, torch.arange(len(rows)), 0.5)
    for row, values in case["bank"].items():
        assert bank.features[row].tolist() == pytest.approx(values, abs=1e-10)
    others = [row for row in range(case["sizes"][0]) if row not in case["batch"]]
    assert torch.equal(bank.features[others], bank_of(name)[others])


def halves(rank: int, world: int, name: str, neighbors: Tensor) -> tuple[float, Tensor]:
    """This rank's loss of its part of the batch, and the bank after the step."""
    case, own = CASES[name], slice(rank * 4 // world, (rank + 1) * 4 // world)
    rows, bank = rows_of(name)[own], Bank(*case["sizes"]).double()
    bank.features.copy_(bank_of(name))
    features = F.normalize(z(*case["sizes"], 1)[rows], dim=1)
    loss = neighborhood_loss(features, bank.features, rows, neighbors[rows], temperature=0.1)
    bank.write(features, rows, torch.arange(4)[own], 0.5)
    return loss.item(), bank.features


def test_published_losses_of_two_ranks_have_the_mean_of_the_whole_and_banks_are_equal() -> None:
    for name, case in CASES.items():
        neighbors = neighbors_of(name)
        ranks, (_, bank) = run_ranks(2, halves, name, neighbors), halves(0, 1, name, neighbors)
        assert [loss for loss, _ in ranks] == pytest.approx(case["parts"], abs=1e-8)
        assert sum(case["parts"]) / 2 == pytest.approx(case["loss"], abs=1e-8)
        assert min(abs(part - case["loss"]) for part in case["parts"]) > 1
        assert all(torch.equal(other, bank) for _, other in ranks)


def test_loss_and_gradient_equal_the_loop_where_some_rows_have_fewer_neighbors() -> None:
    features, bank = F.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1).requires_grad_(), torch.randn(11, 5)
    rows = torch.tensor([10, 3, 0, 7, 5, 1, 2])
    neighbors = torch.tensor([[-1, -1], [4, 0], [-1, -1], [6, 8], [9, -1], [0, 10], [3, 1]], dtype=torch.int32)
    loss = neighborhood_loss(features, bank, rows, neighbors, temperature=0.3)
    loss.backward()
    places = [[row, *(n for n in near if n >= 0)] for row, near in zip(rows.tolist(), neighbors.tolist(), strict=True)]
    expected, gradient = neighborhood_loop(features.detach().numpy(), bank.double().numpy(), places, 0.3)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(features.grad, torch.from_numpy(gradient), atol=1e-13, rtol=1e-12)


def test_loss_stays_finite_where_probabilities_underflow_and_half_precision_computes_in_float32() -> None:
    features, bank = F.normalize(z(3, 5, 0).float(), dim=1).requires_grad_(), F.normalize(z(7, 5, 1).float(), dim=1)
    rows, bank[3] = torch.tensor([3, 4, 5]), -features[0].detach()
    loss = neighborhood_loss(features, bank, rows, None, temperature=0.005)  # logits 400 below the largest
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    assert features.grad[0].norm() > 10
    with torch.autocast("cpu", torch.bfloat16):
        half = neighborhood_loss(features.bfloat16(), bank, rows, None, temperature=0.1)
    assert torch.equal(half, neighborhood_loss(features.bfloat16().float(), bank, rows, None, temperature=0.1))


def test_bank_begins_as_seeded_noise_of_unit_mean_square_length() -> None:
    torch.manual_seed(5)
    first = Bank(1009, 7).features
    torch.manual_seed(5)
    assert torch.equal(Bank(1009, 7).features, first)
    assert first.abs().max() == pytest.approx((3 / 7) ** 0.5, abs=1e-3)
    assert first.square().sum(1).mean() == pytest.approx(1, abs=0.03)


def test_of_a_row_that_comes_twice_the_last_place_counts() -> None:
    bank = Bank(5, 3).double()
    before, features = bank.features.clone(), F.normalize(z(4, 3, 1), dim=1)
    bank.write(features, torch.tensor([4, 1, 4, 0]), torch.tensor([3, 0, 1, 2]), 0.3)  # the first stands behind
    expected = bank_loop(before.numpy(), [4, 1, 0], features[[0, 1, 3]].numpy(), 0.3)
    torch.testing.assert_close(bank.features, torch.from_numpy(expected))


def test_entropies_in_small_blocks_equal_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    features = 3 * z(23, 5, 1)
    monkeypatch.setattr(anchor_neighborhood, "BLOCK", 5)
    found = entropies(shard_of(features), 0.07)
    assert found.tolist() == pytest.approx(entropies_loop(features.numpy(), 0.07), abs=1e-12)
