"""SCAN as a method: what its heads learn and from what, its partners, its read-out, its neighbours in a run."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.batch import UNLABELLED, Batch
from models.parts.centers import EStepConfig
from models.scan import SCAN, SCANConfig
from models.state import ClusterState, FeatureShard
from tests.oracles.scan_loop import scan_loop
from tests.runs import tiny_run
from tests.vectors import z
from training.log import Log
from training.loop import train
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError


def tiny_scan(**changes: Any) -> SCAN:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5))
    config = SCANConfig(**{"n_heads": 2, "n_neighbors": 2, **changes})
    return SCAN(encoder, 5, config, EStepConfig(), 4).double()


def tiny_batch(phase: str = "train") -> Batch:
    views = [torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return Batch(views, torch.arange(7), torch.arange(7), Draws(0, 0, 0, 7, 7), phase)


def two_headed_shard(shift: int = 4) -> FeatureShard:
    """Eight rows for the E-step, which two heads label."""
    return FeatureShard(torch.arange(8), z(8, 6, shift), 8, 0, [z(8, 4, s).softmax(1) for s in (0, 7)])


def test_method_adds_its_heads_and_learns_from_images_and_neighbors() -> None:
    method, batch = tiny_scan(entropy_weight=3.0), tiny_batch()
    found = method.loss(batch, ClusterState(), Clock(0, 1, 1))
    with torch.no_grad():  # in train mode images and neighbours have BatchNorm statistics of their own
        a, b = (method._logits(method.encoder(view)).numpy() for view in batch.views)
    expected = [scan_loop(a[:, head], b[:, head], 3.0) for head in range(2)]
    assert found["carry"]["head losses"].tolist() == pytest.approx(np.array([[one[0] for one in expected]]), abs=1e-12)
    assert not found["carry"]["head losses"].requires_grad and not found["carry"]["features"].requires_grad
    names = ("loss", "consistency", "entropy")
    totals = [sum(one[place] for one in expected) for place in range(3)]
    assert [found[name].item() for name in names] == pytest.approx(totals, abs=1e-12)
    found["loss"].backward()
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in batch.views)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_rows_without_neighbors_teach_nothing() -> None:
    method, batch = tiny_scan(), tiny_batch(UNLABELLED)
    found = method.loss(dataclasses.replace(batch, views=batch.views[:1]), None, Clock(0, 1, 1))
    assert found["loss"].item() == 0 and found["carry"]["head losses"].tolist() == [[0, 0]]
    found["loss"].backward()
    assert all(p.grad.abs().sum() == 0 for p in method.parameters())  # there, but zero
    method.before_optimizer("train", Clock(0, 1, 1))
    assert all(p.grad is not None for p in method.parameters())
    method.before_optimizer(UNLABELLED, Clock(0, 1, 1))
    assert all(p.grad is None for p in method.parameters())


def test_partners_are_neighbors_of_their_rows_all_of_them_in_time() -> None:
    method, neighbors = tiny_scan(), torch.tensor([[3, 4], [0, 2], [1, 4], [2, 0], [3, 1]], dtype=torch.int32)
    rows, drawn = torch.tensor([4, 0, 2]), set()
    for step in range(40):
        found = method.partners(rows, Draws(0, step, 0, 3, 3), ClusterState(neighbors=neighbors), Clock(step, 40, 1))
        assert found is not None and found.shape == (3, 1)
        drawn |= {(int(row), int(who)) for row, who in zip(rows, found[:, 0], strict=True)}
    assert drawn == {(4, 3), (4, 1), (0, 3), (0, 4), (2, 1), (2, 4)}
    assert method.partners(rows, Draws(0, 0, 0, 3, 3), None, Clock(0, 40, 1)) is None


def test_head_of_least_loss_in_the_last_epoch_is_read_out() -> None:
    method = tiny_scan().eval()
    for step, losses in ((1, [[0.0, 9.0]]), (2, [[5.0, 4.0]]), (3, [[5.0, 4.5]])):  # the second epoch starts at step 2
        method.after_step({"head losses": torch.tensor(losses)}, Clock(step, 2, 2))
    images, shard = torch.randn(8, 3, 3, 3, dtype=torch.float64), two_headed_shard()
    state = method.e_step(shard, None, Clock(4, 2, 2))
    assert state.extra["head"].item() == 1
    assert shard.probabilities is not None and state.labels is not None
    assert torch.equal(state.labels, shard.probabilities[1].argmax(1))
    with torch.no_grad():
        chosen, features = method.assign(images, state), method.encode(images)
        linear = method.classifier(state)
        assert linear is method.cluster_heads[1]
        torch.testing.assert_close(chosen, linear(features).softmax(1))
        assert torch.equal(method.probabilities(images)[:, 4:], chosen)
        torch.testing.assert_close(method.embed(images), nn.functional.normalize(features, dim=1))
    assert method.heads == (4, 4)


def test_neighbors_stay_those_of_the_first_e_step_unless_more_e_steps_are_asked_for() -> None:
    for every, moved in ((None, False), (1, True)):
        method = SCAN(nn.Identity(), 5, SCANConfig(n_neighbors=2), EStepConfig(every_epochs=every), 4)
        first = method.e_step(two_headed_shard(), None, Clock(0, 1, 2))
        later = method.e_step(two_headed_shard(9), first, Clock(1, 1, 2))
        assert first.neighbors is not None and later.neighbors is not None
        assert torch.equal(first.neighbors, later.neighbors) is not moved


def test_a_run_finds_its_neighbors_once_before_it_trains_and_keeps_them() -> None:
    run = tiny_run("scan", data__split="test", optim__epochs=2, method__n_heads=1)
    found = []
    with Log(run.settings.log, None, {}) as log:
        for epoch in train(run, log):
            assert epoch.state is not None and epoch.state.neighbors is not None
            found.append(epoch.state.neighbors)
    assert found[0].shape == (360, 5)
    assert torch.equal(*found)
    assert not (found[0] == torch.arange(360)[:, None]).any()


def test_more_neighbors_than_rows_are_refused() -> None:
    with pytest.raises(
        UserError, match="method.n_neighbors: 1797 neighbours of each of 1797 images; use 1796 or fewer"
    ):
        tiny_run("scan", method__n_neighbors=1797)


def test_defaults_are_the_papers() -> None:
    config = SCANConfig()
    values = (config.n_heads, config.n_neighbors, config.entropy_weight, config.views_in_one_forward)
    assert values == (1, 20, 5.0, False)
    assert SCAN.starts_from == "encoder"
