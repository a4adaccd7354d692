"""AND: its loss, bank, anchors and neighbours against published numbers and slow oracles; rounds; several ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Batch
from models import anchor_neighborhood
from models.anchor_neighborhood import AND, ANDConfig, entropies, neighborhood_loss
from models.parts.bank import Bank
from models.parts.centers import EStepConfig
from models.state import ClusterState, FeatureShard
from tests.oracles.and_loop import bank_loop, entropies_loop, neighborhood_loop, neighborhoods_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

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
N_ROWS, N_EXTRA, STEP = 23, 5, 8  # rows that are clustered; that only train; of a batch
CLOCK = Clock(0, 3, 9)


def bank_of(name: str) -> Tensor:
    return F.normalize(z(*CASES[name]["sizes"], 0), dim=1)


def rows_of(name: str) -> Tensor:
    return torch.tensor(CASES[name]["batch"])


def tiny_and(width: int = 5, n_rows: int = N_ROWS, n_extra: int = N_EXTRA, **changes: Any) -> AND:
    """A linear encoder and projection, 6 to 4 to `width`, in float64; rounds of 2 epochs."""
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    estep = EStepConfig(n_clusters=3, n_init=2, every_epochs=2)
    method = AND(encoder, 4, ANDConfig(**{"projection_dim": width, **changes}), estep, 3)
    method.prepare(n_rows, n_extra)
    return method.double()


def at_round(number: int) -> Clock:
    """In the last step of the round's first epoch; a round has 2 epochs, an epoch 3 steps."""
    return Clock(6 * number + 2, 3, 99)


def shard_of(features: Tensor, own: slice = slice(None)) -> FeatureShard:
    return FeatureShard(torch.arange(len(features))[own], features[own], len(features), 7)


def neighbors_of(name: str) -> Tensor:
    """As the E-step finds them in the bank."""
    case = CASES[name]
    method = tiny_and(case["sizes"][1], case["sizes"][0], 0, source="bank", n_neighbors=case["k"])
    method.bank.features.copy_(bank_of(name))
    state = method.e_step(shard_of(z(case["sizes"][0], 6, 5)), None, at_round(case["round"]))
    assert state.neighbors is not None and state.anchors is not None
    assert state.anchors.nonzero()[:, 0].tolist() == list(case["neighbors"])
    return state.neighbors


@pytest.mark.parametrize("name", CASES)
def test_entropies_anchors_and_neighbors_equal_the_published_ones(name: str) -> None:
    case = CASES[name]
    assert entropies(shard_of(bank_of(name)), 0.1).tolist() == pytest.approx(case["entropies"], abs=1e-9)
    expected = [case["neighbors"].get(row, [-1] * case["k"]) for row in range(case["sizes"][0])]
    assert neighbors_of(name).tolist() == expected


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


def batch_of(step: int, rank: int, world: int) -> Batch:
    """This rank's part of a batch of rows of both kinds, one view."""
    rows, own = torch.arange(step, step + STEP) * 17 % (N_ROWS + N_EXTRA), slice(rank * STEP // world, None)
    own = slice(own.start, own.start + STEP // world)
    views = [z(N_ROWS + N_EXTRA, 6, 2)[rows[own]].view(-1, 2, 3, 1)]
    return Batch(views, rows[own], torch.arange(STEP)[own], Draws(0, step, own.start, own.stop, STEP))


def train(rank: int, world: int, source: str) -> tuple[list[float], Tensor, Tensor, list[Tensor]]:
    """Five steps and an E-step on unequal shards: losses, weight, bank, and what the E-step found."""
    method, losses = tiny_and(source=source, n_neighbors=3), []
    for step in range(5):
        found = method.loss(batch_of(step, rank, world), None, CLOCK)
        found["loss"].backward()
        losses.append(distributed.mean_over_ranks_(found["loss"].detach()).item())
        for parameter in method.parameter_groups()["online"]:
            with torch.no_grad():
                parameter -= 0.3 * distributed.mean_over_ranks_(parameter.grad)
                parameter.grad = None
        method.after_step(found["carry"], CLOCK)
    own = slice(*(N_ROWS * each**2 // world**2 for each in (rank, rank + 1)))
    state = method.e_step(shard_of(z(N_ROWS, 5, 4), own), None, at_round(2))
    assert state.labels is not None and state.anchors is not None and state.neighbors is not None
    found_rows = [state.labels, state.anchors, state.neighbors]
    return losses, method.projector[0].weight.detach(), method.bank.features, found_rows


def train_both(rank: int, world: int) -> list[tuple[list[float], Tensor, Tensor, list[Tensor]]]:
    anchor_neighborhood.BLOCK = 7  # several blocks, that lie across the bounds of shards
    return [train(rank, world, source) for source in ("embedding", "bank")]


def test_ranks_learn_what_one_rank_learns_with_the_same_bank_anchors_and_neighbors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = [train(0, 1, source) for source in ("embedding", "bank")]
    assert not torch.equal(alone[0][3][2], alone[1][3][2])
    for world in (2, 4):
        for found in run_ranks(world, train_both):
            for (losses, weight, bank, rows), one in zip(found, alone, strict=True):
                assert losses == pytest.approx(one[0], rel=1e-12)
                torch.testing.assert_close([weight, bank], [one[1], one[2]], rtol=1e-11, atol=1e-13)
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(rows, one[3], strict=True))


@pytest.mark.parametrize(("source", "number"), [("embedding", 1), ("embedding", 3), ("bank", 2), ("embedding", 5)])
def test_e_step_equals_the_loops(source: str, number: int) -> None:
    method, features = tiny_and(source=source, n_neighbors=2), 2 * z(N_ROWS, 5, 4) ** 3
    state = method.e_step(shard_of(features), None, at_round(number))
    assert state.anchors is not None and state.neighbors is not None and state.neighbors.dtype == torch.int32
    seen = features if source == "embedding" else method.bank.features[:N_ROWS]
    n_anchors = min(N_ROWS, N_ROWS * number // 4)
    anchors, nearest = neighborhoods_loop(seen.numpy(), 0.1, n_anchors, 2)
    assert state.anchors.nonzero()[:, 0].tolist() == anchors
    assert state.neighbors.tolist() == [nearest.get(row, [-1, -1]) for row in range(N_ROWS)]


def test_entropies_in_small_blocks_equal_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    features = 3 * z(N_ROWS, 5, 1)
    monkeypatch.setattr(anchor_neighborhood, "BLOCK", 5)
    found = entropies(shard_of(features), 0.07)
    assert found.tolist() == pytest.approx(entropies_loop(features.numpy(), 0.07), abs=1e-12)


def test_equal_images_have_equal_entropies_and_the_lowest_become_anchors() -> None:
    features = z(N_ROWS, 5, 1)[torch.arange(N_ROWS) % 3]
    state = tiny_and().e_step(shard_of(features), None, at_round(1))
    kind = [entropies_loop(features.numpy(), 0.1)[row] for row in range(3)]
    first = min(range(3), key=kind.__getitem__)
    assert state.anchors is not None
    assert state.anchors.nonzero()[:, 0].tolist() == list(range(N_ROWS))[first::3][: N_ROWS // 4]


def test_rounds_begin_without_anchors_and_go_on_until_all_rows_are() -> None:
    method = tiny_and()
    states = [method.e_step(shard_of(z(N_ROWS, 5, 4)), None, at_round(number)) for number in range(7)]
    assert [int(state.anchors.sum()) for state in states] == [0, 5, 11, 17, 23, 23, 23]  # type: ignore[union-attr]
    assert states[0].neighbors is not None and states[0].neighbors.tolist() == [[-1]] * N_ROWS
    assert method.first_e_step_epoch == 2
    usual = AND(nn.Identity(), 4, ANDConfig(), EStepConfig(), 3)
    assert (usual.first_e_step_epoch, usual.own_e_step_every) == (200, 200)


def test_method_takes_a_rows_neighbors_from_the_state_and_carries_its_features() -> None:
    method, batch = tiny_and(), batch_of(1, 0, 1)
    neighbors = (torch.arange(N_ROWS + N_EXTRA)[:, None] + 1) % N_ROWS
    neighbors[batch.rows[2]] = -1
    found = method.loss(batch, ClusterState(neighbors=neighbors.int()), CLOCK)
    with torch.no_grad():
        features = method.embed(batch.views[0])
    places = [[row, *(n for n in neighbors[row].tolist() if n >= 0)] for row in batch.rows.tolist()]
    expected, _ = neighborhood_loop(features.numpy(), method.bank.features.numpy(), places, 0.1)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-11)
    assert torch.equal(found["carry"]["features"], features[:, None])
    assert not found["carry"]["features"].requires_grad


def test_the_bank_also_holds_rows_that_only_train() -> None:
    method = tiny_and()
    rows, features = torch.tensor([N_ROWS + N_EXTRA - 1, 3]), F.normalize(z(2, 5, 0), dim=1)
    expected = bank_loop(method.bank.features.numpy(), rows.tolist(), features.numpy(), 0.5)
    method.after_step({"features": features[:, None], "rows": rows, "positions": torch.arange(2)}, CLOCK)
    torch.testing.assert_close(method.bank.features, torch.from_numpy(expected))
    assert "bank.features" in method.state_dict()


def test_more_neighbors_than_images_are_refused_and_defaults_are_the_papers() -> None:
    with pytest.raises(UserError, match="method.n_neighbors: 23 neighbours of each of 23 images; use 22 or fewer"):
        tiny_and(n_neighbors=N_ROWS)
    config = ANDConfig()
    assert (config.projection_dim, config.temperature, config.bank_momentum) == (128, 0.1, 0.5)
    assert (config.select_rate, config.n_neighbors) == (0.25, 1)
    method = AND(nn.Identity(), 512, config, EStepConfig(), 10)
    assert [tuple(p.shape) for p in method.projector.parameters()] == [(128, 512), (128,)]
