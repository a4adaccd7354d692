"""Crops of several sizes through a network, and the loss between them."""

import pytest
import torch
from torch import Tensor, nn

from models.parts.multi_crop import forward_crops, predict_targets
from tests.oracles.bn_loop import bn_loop
from tests.oracles.swav_loop import pairs_loop
from tests.runs import tiny_run
from tests.vectors import z
from utils.errors import UserError
from utils.group_batchnorm import convert_batchnorm


class Recorder(nn.Module):
    """Means over pixels; remembers the shape of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return x.flatten(2).mean(2) if x.ndim == 4 else x


@pytest.mark.parametrize("joint", [True, False])
def test_each_size_is_one_call_and_the_head_sees_all_crops_at_once(joint: bool) -> None:
    crops = [torch.randn(5, 3, side, side) for side in (7, 4, 7, 4, 4)]
    encoder, head = Recorder(), Recorder()
    found = forward_crops(encoder, head, crops, joint)
    for features, crop in zip(found, crops, strict=True):
        torch.testing.assert_close(features, crop.mean((2, 3)))
    if joint:
        assert encoder.shapes == [(10, 3, 7, 7), (15, 3, 4, 4)]
        assert head.shapes == [(25, 3)]
    else:
        assert sorted(encoder.shapes) == sorted(tuple(crop.shape) for crop in crops)
        assert head.shapes == [(5, 3)] * 5


def test_a_group_of_batch_norm_holds_all_crops_of_a_block_of_positions() -> None:
    crops = [z(8, 12, s).view(8, 3, 2, 2) for s in range(3)]
    norm = convert_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), 2).double()
    with torch.no_grad():
        found = forward_crops(Recorder(), norm, crops, joint=True)
    rows = torch.stack([crop.mean((2, 3)) for crop in crops], 1).flatten(0, 1)  # position-major
    weight, bias = torch.ones(3).numpy(), torch.zeros(3).numpy()
    expected = torch.from_numpy(bn_loop(rows.numpy(), weight, bias, 2, n_views=3)[0]).view(8, 3, 3)
    torch.testing.assert_close(torch.stack(found, 1), expected)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_loss_equals_the_loop_and_spares_the_targets(temperature: float) -> None:
    logits = [torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    targets = [torch.randn(7, 5, dtype=torch.float64).softmax(1).requires_grad_() for _ in range(2)]
    loss = predict_targets(logits, targets, temperature=temperature)
    arrays = [[each.detach().numpy() for each in some] for some in (logits, targets)]
    assert loss.item() == pytest.approx(pairs_loop(*arrays, temperature), abs=1e-12)
    loss.backward()
    assert all(each.grad is not None for each in logits)
    assert all(each.grad is None for each in targets)


def test_half_precision_computes_in_float32() -> None:
    logits, target = [z(7, 5, s).bfloat16() for s in (0, 1)], z(7, 5, 2).softmax(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = predict_targets(logits, [target], temperature=0.1)
    assert torch.equal(found, predict_targets([each.float() for each in logits], [target], temperature=0.1))


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_one_view_is_refused_with_a_remedy(name: str) -> None:
    run = tiny_run(name, views__n_views=1)
    batch = next(run.feed.rest_of_epoch(run.clock, None))
    with pytest.raises(UserError, match="views.n_views: 1: .* predicts one view from another; use 2"):
        run.method.loss(batch, None, run.clock)
