"""DINO's head: its layers, and a last one whose rows keep their length."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.dino import Bottleneck, DINOConfig, unit_linear


def test_rows_of_the_last_layer_keep_length_1_and_it_can_be_copied_saved_and_loaded() -> None:
    last = unit_linear(4, 5)
    gain, directions = last.parametrizations.weight.original0, last.parametrizations.weight.original1
    assert (gain.requires_grad, directions.requires_grad) == (False, True)
    with torch.no_grad():
        directions *= torch.arange(1, 6)[:, None]
    torch.testing.assert_close(last.weight, F.normalize(directions, dim=1))
    rows = torch.randn(7, 4)
    copied, loaded = copy.deepcopy(last), unit_linear(4, 5)
    loaded.load_state_dict(last.state_dict())
    for other in (copied, loaded):
        assert torch.equal(other(rows), last(rows))
    with torch.no_grad():
        directions += 1
    assert not torch.equal(copied(rows), last(rows))


def test_defaults_are_those_of_small_images_and_the_head_is_the_papers() -> None:
    config = DINOConfig()
    assert (config.out_dim, config.student_temperature, config.teacher_temperature) == (4096, 0.1, 0.07)
    assert (config.center_momentum, config.ema_momentum, config.ema_momentum_final) == (0.9, 0.9995, 1.0)
    assert (config.views_in_one_forward, config.freeze_epochs, config.teacher_warmup_epochs) == (True, 1, 0)
    head = Bottleneck(384, config)
    assert [type(layer) for layer in head] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == 385 * 2048 + 2049 * 2048 + 2049 * 256
    assert head[0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert not any(layer.bias.any() for layer in head if isinstance(layer, nn.Linear))
    normed = Bottleneck(7, DINOConfig(head_norm=True, head_layers=2, hidden_dim=5))
    assert [type(layer) for layer in normed] == [nn.Linear, nn.BatchNorm1d, nn.GELU, nn.Linear]
    assert len(Bottleneck(7, DINOConfig(head_layers=1))) == 1
