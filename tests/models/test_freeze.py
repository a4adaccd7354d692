"""Frozen stages: no gradient, no moving statistics, no place in the optimiser, in the online network and its target."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch
from models.byol import BYOL, BYOLConfig
from models.parts.centers import EStepConfig
from models.parts.encoders import EncoderConfig, build_encoder, freeze_encoder, stages
from tests.ranks import run_ranks
from training.optim import OptimConfig, build_optimizer
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError
from utils.group_batchnorm import convert_batchnorm, start_commit

RESNET = ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"]


def frozen_encoder(freeze: Any, name: str = "tiny", size: int = 8) -> tuple[nn.Module, int]:
    config = EncoderConfig(name=name, freeze=freeze)
    encoder, width = build_encoder(config, (3, size, size))
    freeze_encoder(encoder, config)
    return encoder, width


def byol(freeze: Any, groups: int = 1) -> BYOL:
    torch.manual_seed(5)
    encoder, width = frozen_encoder(freeze)
    config = BYOLConfig(hidden_dim=11, projection_dim=7, ema_momentum=0.5)
    method = BYOL(encoder, width, config, EStepConfig(), 3)
    convert_batchnorm(method, groups)
    return method.double()


def train(method: BYOL, n_steps: int) -> BYOL:
    """Optimiser steps as the training loop does them, on this rank's part of 6 rows."""
    optimizer = build_optimizer(OptimConfig(global_batch=6, learning_rate=3.0), method.parameter_groups())
    parallel = distributed.parallel(method)
    clock, n = Clock(0, n_steps, 1), 6 // distributed.world()
    for step in range(n_steps):
        method.eval()  # as an E-step leaves it
        method.train()
        own = slice(distributed.rank() * n, (distributed.rank() + 1) * n)
        views = torch.randn(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(step)).double()[:, own]
        batch = Batch(list(views), torch.arange(6)[own], torch.arange(6)[own], Draws(0, step, own.start, own.stop, 6))
        optimizer.zero_grad()
        losses = parallel(batch, None, clock)
        commit = start_commit(method)
        losses["loss"].backward()
        optimizer.step()
        commit()
        method.after_step(losses["carry"], clock)
        clock = clock.tick()
    return method


def changed(method: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}


def weights_of(method: nn.Module) -> set[str]:
    """All but biases, of which those in front of a BatchNorm have no gradient to speak of."""
    return {name for name, _ in method.named_parameters() if name.endswith("weight")}


def test_a_frozen_encoder_and_its_target_stay_as_they_are_and_the_heads_learn() -> None:
    method = byol("all")
    before = copy.deepcopy(method.state_dict())
    train(method, 3)
    assert {name for name in changed(method, before) if ".encoder." in name} == set()
    assert changed(method, before) >= weights_of(method) - {name for name in before if ".encoder." in name}
    assert all(p.grad is None for p in [*method.online.encoder.parameters(), *method.target.parameters()])
    assert not any(module.training for net in (method.online, method.target) for module in net.encoder.modules())
    assert method.online.projector.training
    learnt = {id(p) for p in method.online.projector.parameters()} | {id(p) for p in method.predictor.parameters()}
    optimizer = build_optimizer(OptimConfig(), method.parameter_groups())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == learnt


def test_the_first_stages_stay_and_the_later_ones_learn_from_the_same_features() -> None:
    method = byol(1)
    before = copy.deepcopy(method.state_dict())
    images = torch.randn(5, 3, 8, 8).double()
    stem = [net.encoder[:4](images) for net in (method.online, method.target)]
    train(method, 3)
    first = {name for name in before if ".encoder.0." in name or ".encoder.1." in name}
    assert len(first) == 2 * (1 + 4)  # convolution, weight, bias and statistics
    assert changed(method, before) & first == set()
    assert changed(method, before) >= weights_of(method) - first
    method.train()
    for net, was in zip((method.online, method.target), stem, strict=True):
        assert torch.equal(net.encoder[:4](images), was)
        assert net.encoder[5].training


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small", ["0", "3", "7", "11"]),
        ("resnet18", RESNET),
        ("timm:resnet18", RESNET),
        ("timm:test_vit", ["cls_token", *(f"blocks.{block}.norm1" for block in range(6))]),
    ],
)
def test_stages_go_from_the_image_on_and_hold_every_parameter(name: str, expected: list[str]) -> None:
    encoder, _ = build_encoder(EncoderConfig(name=name), (3, 32, 32))
    parts = stages(encoder)
    assert [part[0].removesuffix(".weight") for part in parts] == expected
    assert sorted(name for part in parts for name in part) == sorted(name for name, _ in encoder.named_parameters())


def test_a_frozen_stage_of_a_timm_network_holds_its_statistics_in_train_mode() -> None:
    encoder, _ = frozen_encoder(2, "timm:test_resnet", 32)
    frozen = {name for part in stages(encoder)[:2] for name in part}
    assert {name for name, p in encoder.named_parameters() if not p.requires_grad} == frozen
    before = copy.deepcopy(encoder.state_dict())
    encoder.train()(torch.randn(5, 3, 32, 32))
    moved = {name.rpartition(".")[0] for name in changed(encoder, before)}
    assert moved == {
        name for name, module in encoder.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training
    }
    assert {name.partition(".")[0] for name in moved} == {"layer2", "layer3", "layer4"}


def test_every_stage_is_the_same_as_all() -> None:
    encoder, _ = frozen_encoder(2)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.train().modules())


def test_nothing_is_frozen_unless_asked() -> None:
    encoder, _ = frozen_encoder(0)
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize("freeze", [3, -1])
def test_more_stages_than_there_are_is_the_users_error(freeze: int) -> None:
    with pytest.raises(UserError, match=f"encoder.freeze: {freeze} of the 2 stages of tiny; it takes 0 to 2, or all"):
        frozen_encoder(freeze)


def state_after(rank: int, world: int, freeze: Any) -> dict[str, Tensor]:
    return train(byol(freeze), 2).state_dict()


@pytest.mark.parametrize("freeze", ["all", 1])
def test_two_ranks_learn_what_one_does_with_frozen_stages(freeze: Any) -> None:
    one = train(byol(freeze), 2).state_dict()
    for state in run_ranks(2, state_after, freeze):
        for name, tensor in one.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-10, msg=name)
