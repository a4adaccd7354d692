"""Every entry of METHODS keeps the contract."""

import copy

import pytest
import torch

from models import METHODS
from models.method import forward_views
from models.parts.memory import Queue
from models.state import ClusterState
from tests.runs import tiny_run
from training.build import Run
from training.embed import embed_shard, map_rows
from training.step import train_step
from utils.errors import UserError


def one_step(run: Run, state: ClusterState | None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    run.method.train()
    batches = run.feed.rest_of_epoch(run.clock, state)
    return train_step(run.method, run.method, run.optimizer, batches, state, run.clock, run.settings.optim, run.guard)


def state_of(run: Run) -> ClusterState:
    shard = embed_shard(run.method, run.store, run.views, run.clock, seed=0, precision="fp32")
    return run.method.e_step(shard, None, run.clock)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("with_state", [False, True])
def test_loss_is_finite_and_reaches_every_learnable_parameter_and_no_other(name: str, with_state: bool) -> None:
    run = tiny_run(name, method__warmup_epochs=0)
    losses, _ = one_step(run, state_of(run) if with_state else None)
    assert all(torch.isfinite(value) for value in losses.values())
    learnt = {id(p) for part in run.method.parameter_groups().values() for p in part}
    for parameter_name, parameter in run.method.named_parameters():
        assert (id(parameter) in learnt) == parameter.requires_grad, parameter_name
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name


@pytest.mark.parametrize("name", METHODS)
def test_loss_has_no_side_effects_on_weights_and_after_step_moves_the_target(name: str) -> None:
    run = tiny_run(name)
    before = copy.deepcopy(dict(run.method.named_parameters()))
    batch = next(run.feed.rest_of_epoch(run.clock, None))
    run.method.train()
    run.method.loss(batch, None, run.clock)
    assert all(torch.equal(before[n], p) for n, p in run.method.named_parameters())
    _, carry = one_step(run, None)
    target = {n: p.clone() for n, p in run.method.named_parameters() if not p.requires_grad}
    own_length = {"prototypes"}  # SwAV's are set to length 1 after the step
    learnt = {n: p.clone() for n, p in run.method.named_parameters() if p.requires_grad and n not in own_length}
    run.method.after_step(carry, run.clock)
    now = dict(run.method.named_parameters())
    assert not target or any(not torch.equal(value, now[n]) for n, value in target.items())
    assert all(torch.equal(value, now[n]) for n, value in learnt.items())


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_gives_the_same_features(name: str) -> None:
    run, other = tiny_run(name), tiny_run(name, run__seed=1)
    one_step(run, None)
    other.method.load_state_dict(run.method.state_dict())
    rows = torch.arange(5)
    for what in ("embed", "encode"):
        ours, theirs = (
            map_rows(getattr(r.method, what), r.method, r.store, r.views, rows, "fp32") for r in (run, other)
        )
        assert torch.equal(ours, theirs)
    assert ours.shape == (5, 16)


def test_a_rank_without_rows_gets_features_of_none() -> None:
    run = tiny_run("byol")
    none = torch.zeros(0, dtype=torch.int64)
    assert map_rows(run.method.embed, run.method, run.store, run.views, none, "fp32").shape == (0, 7)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("estep", [{}, {"estep__metric": "euclidean"}, {"estep__algorithm": "gmm"}], ids=str)
def test_most_probable_cluster_is_the_label_of_the_e_step(name: str, estep: dict[str, str]) -> None:
    if name == "pcl" and estep == {"estep__algorithm": "gmm"}:
        with pytest.raises(UserError, match="estep.algorithm: gmm: PCL needs centers of kmeans; use kmeans"):
            tiny_run(name, **estep)
        return
    run = tiny_run(name, **estep)
    state = state_of(run)
    rows = torch.arange(len(run.store))
    chosen = map_rows(lambda images: run.method.assign(images, state), run.method, run.store, run.views, rows, "fp32")
    assert chosen.shape == (1797, 10)
    torch.testing.assert_close(chosen.float().sum(1), torch.ones(1797), atol=1e-5, rtol=0)
    assert torch.equal(chosen.argmax(1), state.labels)


def test_joint_forward_interleaves_views_and_takes_them_apart_again() -> None:
    views = [torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)]
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.flatten(1)

    first, second = forward_views(network, views, joint=True)  # type: ignore[arg-type]
    assert torch.equal(first, views[0].flatten(1))
    assert torch.equal(second, views[1].flatten(1))
    assert torch.equal(seen[0][2], views[0][1])
    assert torch.equal(seen[0][3], views[1][1])


def test_queue_keeps_the_newest_rows_in_place_of_the_oldest() -> None:
    queue = Queue(5, 2)
    assert queue.rows.tolist() == [-1] * 5
    queue.write(torch.ones(3, 2), torch.tensor([7, 8, 9]))
    queue.write(2 * torch.ones(4, 2), torch.tensor([1, 2, 3, 4]))
    assert queue.rows.tolist() == [3, 4, 9, 1, 2]
    assert queue.features[:, 0].tolist() == [2, 2, 1, 2, 2]


def test_more_rows_than_a_queue_holds_are_written_as_if_one_by_one() -> None:
    at_once, one_by_one = Queue(5, 1), Queue(5, 1)
    rows = torch.arange(13)
    at_once.write(rows[:3, None].float(), rows[:3])
    at_once.write(rows[3:, None].float(), rows[3:])
    for row in rows:
        one_by_one.write(row[None, None].float(), row[None])
    assert torch.equal(at_once.rows, one_by_one.rows)
    assert torch.equal(at_once.features, one_by_one.features)
    assert at_once.cursor == one_by_one.cursor == 13 % 5
