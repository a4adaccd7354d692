"""AND as a method: its rounds of anchors and neighbours, its bank, what it learns on several ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Batch
from models import anchor_neighborhood
from models.anchor_neighborhood import AND, ANDConfig
from models.parts.centers import EStepConfig
from models.state import ClusterState, FeatureShard
from tests.oracles.and_loop import bank_loop, entropies_loop, neighborhood_loop, neighborhoods_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

N_ROWS, N_EXTRA, STEP = 23, 5, 8  # rows that are clustered; that only train; of a batch
CLOCK = Clock(0, 3, 9)


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
