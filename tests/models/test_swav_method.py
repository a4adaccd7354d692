"""SwAV as a method: what its loss sees, its prototypes and queues from step to step, its network and read-out."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.batch import UNLABELLED, Batch
from models.parts.centers import EStepConfig
from models.parts.multi_crop import forward_crops
from models.swav import SwAV, SwAVConfig
from tests.oracles.moco_loop import queue_loop
from tests.oracles.swav_loop import swav_loop
from tests.vectors import z
from utils.clock import Clock
from utils.draws import Draws

BEGUN, TRAINED = Clock(0, 7, 3), Clock(14, 7, 3)


def tiny_swav(**changes: Any) -> SwAV:
    """Means over pixels, 3 to 11 to 4, and 5 prototypes."""
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    config = SwAVConfig(**{"projection_dim": 4, "hidden_dim": 11, "n_prototypes": 5, **changes})
    return SwAV(encoder, 7, config, EStepConfig(), 3).double()


def tiny_batch(step: int = 0) -> Batch:
    """Two views and two local crops of 7 rows, given in another order than that of positions."""
    views = [z(7, 3 * side**2, 5 * step + s).view(7, 3, side, side) for s, side in enumerate((3, 3, 2, 2))]
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    return Batch([view[order] for view in views], 10 * step + order, order, Draws(0, step, 0, 7, 7))


@pytest.mark.parametrize("phase", ["train", UNLABELLED])
def test_method_predicts_the_codes_of_two_views_from_all_crops(phase: str) -> None:
    method, batch = tiny_swav(), dataclasses.replace(tiny_batch(), phase=phase)
    found = method.loss(batch, None, BEGUN)
    with torch.no_grad():
        crops = forward_crops(method.encoder, method.projector, batch.views, joint=True)
    expected = swav_loop([crop.numpy() for crop in crops], method.prototypes.detach().numpy())
    assert found["loss"].item() == pytest.approx(expected, abs=1e-10)
    features = F.normalize(torch.stack(crops[:2], 1), dim=2)
    torch.testing.assert_close(found["carry"]["features"], features)
    assert not any(value.requires_grad for value in found["carry"].values())
    found["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())


def test_prototypes_start_and_stay_at_length_1_and_are_frozen_for_the_first_epochs() -> None:
    method = tiny_swav(freeze_epochs=2)
    lengths = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(method.prototypes.norm(dim=1), lengths, atol=1e-6, rtol=0)  # made in float32
    for step, frozen in ((0, True), (13, True), (14, False)):
        found = method.loss(tiny_batch(), None, Clock(step, 7, 3))
        found["loss"].backward()
        method.before_optimizer("train", Clock(step, 7, 3))
        assert (method.prototypes.grad is None) == frozen
    with torch.no_grad():
        method.prototypes -= 5 * method.prototypes.grad
    direction = F.normalize(method.prototypes.detach(), dim=1)
    method.after_step(found["carry"], TRAINED)
    torch.testing.assert_close(method.prototypes.detach(), direction)
    torch.testing.assert_close(method.prototypes.norm(dim=1), lengths)


def test_queues_are_written_in_global_order_and_used_once_full_from_their_epoch_on() -> None:
    method = tiny_swav(queue_size=21, queue_start_epoch=1)
    expected = [np.zeros((21, 4)), np.zeros((21, 4))]
    places = [0, 0]
    for step in range(6):  # of 2 an epoch; 21 rows are written in 3 steps
        clock, batch = Clock(step, 2, 3), tiny_batch(step)
        with torch.no_grad():
            crops = [each.numpy() for each in forward_crops(method.encoder, method.projector, batch.views, True)]
        found = method.loss(batch, None, clock)
        prototypes = method.prototypes.detach().numpy()
        without, queued = swav_loop(crops, prototypes), swav_loop(crops, prototypes, expected) if step > 2 else None
        assert found["loss"].item() == pytest.approx(queued if step > 2 else without, abs=1e-10)
        assert queued is None or abs(queued - without) > 1e-3
        method.after_step(found["carry"], clock)
        for view, queue in enumerate(method.queues):
            in_order = crops[view][batch.positions.argsort().numpy()]
            expected[view], places[view] = queue_loop(expected[view], places[view], in_order)
            torch.testing.assert_close(queue.features, torch.from_numpy(expected[view]))
            assert set(queue.rows.tolist()) >= {10 * step + row for row in range(7)}


def test_a_full_queue_waits_for_its_epoch() -> None:
    early, late = tiny_swav(queue_size=7, queue_start_epoch=3), tiny_swav(queue_size=7, queue_start_epoch=2)
    losses = []
    for method in (early, late):
        method.after_step(method.loss(tiny_batch(), None, BEGUN)["carry"], BEGUN)
        losses.append(method.loss(tiny_batch(1), None, TRAINED)["loss"].item())
    assert abs(losses[0] - losses[1]) > 1e-3


def test_clusters_are_those_of_the_projection() -> None:
    method, images = tiny_swav().eval(), z(7, 27, 0).view(7, 3, 3, 3)
    torch.testing.assert_close(method.encode(images), method.encoder(images))
    torch.testing.assert_close(method.embed(images), F.normalize(method.projector(method.encoder(images)), dim=1))


def test_defaults_are_the_papers() -> None:
    config = SwAVConfig()
    assert (config.n_prototypes, config.temperature, config.epsilon) == (3000, 0.1, 0.05)
    assert (config.sinkhorn_iterations, config.freeze_epochs, config.queue_size) == (3, 1, 0)
    assert (config.views_in_one_forward, config.bn_groups) == (True, 1)
    method = SwAV(nn.Identity(), 2048, config, EStepConfig(), 10)
    assert [type(layer) for layer in method.projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in method.projector.parameters()) == 2048 * 2048 + 2 * 2048 + 128 * 2049
    assert method.prototypes.shape == (3000, 128)
    assert len(method.queues) == 0
