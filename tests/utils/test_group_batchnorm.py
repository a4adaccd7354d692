"""BatchNorm over G groups at any number of ranks: published numbers, an oracle with autograd, running statistics."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_ranks
from tests.vectors import z
from utils import distributed
from utils.compat import prepare_torchvision
from utils.errors import UserError
from utils.group_batchnorm import GroupBatchNorm, check_groups, convert_batchnorm, start_commit

CHANNELS, SIDE, ROWS = 3, 2, 8


def layer() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64))
    return norm


def images() -> tuple[Tensor, Tensor]:
    """Rows whose mean moves along the batch, so that every group and rank sees other data; and an upstream gradient."""
    x = (
        z(ROWS, CHANNELS * SIDE * SIDE, 0).view(ROWS, CHANNELS, SIDE, SIDE)
        + torch.arange(ROWS).view(-1, 1, 1, 1) ** 1.5
    )
    return x, z(ROWS, CHANNELS * SIDE * SIDE, 1).view(ROWS, CHANNELS, SIDE, SIDE)


def oracle(groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Each group through torch's own BatchNorm, one by one; running statistics: two forwards, means over groups."""
    x, upstream = images()
    x.requires_grad_()
    norm = layer()
    blocks = [nn.functional.batch_norm(b, None, None, norm.weight, norm.bias, training=True) for b in x.chunk(groups)]
    y = torch.cat(blocks)
    y.backward(upstream)
    mean, var = torch.zeros(CHANNELS, dtype=torch.float64), torch.ones(CHANNELS, dtype=torch.float64)
    for shift in (0.0, 1.0):  # the second forward sees x + 1
        parts = [(b.detach() + shift).transpose(0, 1).flatten(1) for b in x.chunk(groups)]
        mean = 0.9 * mean + 0.1 * torch.stack([p.mean(1) for p in parts]).mean(0)
        var = 0.9 * var + 0.1 * torch.stack([p.var(1) for p in parts]).mean(0)
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, mean, var


def grouped(rank: int, world: int, groups: int) -> tuple[Tensor, ...]:
    x, upstream = (t.chunk(world)[rank] for t in images())
    x = x.clone().requires_grad_()
    norm = convert_batchnorm(nn.Sequential(layer()), groups)
    y = norm(x)
    y.backward(upstream)
    with torch.no_grad():
        norm(x + 1)
    start_commit(norm)()
    inner = norm[0]
    return y.detach(), x.grad, inner.weight.grad, inner.bias.grad, inner.running_mean, inner.running_var


@pytest.mark.parametrize(
    ("world", "groups"), [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4), (2, 8), (4, 8)]
)
def test_groups_on_ranks_equal_torch_on_each_group(world: int, groups: int) -> None:
    y, dx, dweight, dbias, mean, var = oracle(groups)
    parts = run_ranks(world, grouped, groups) if world > 1 else [grouped(0, 1, groups)]
    exact = {"atol": 1e-12, "rtol": 0.0}
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), y, **exact)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), dx, **exact)
    torch.testing.assert_close(sum(p[2] for p in parts), dweight, **exact)  # local sums: DDP averages them
    torch.testing.assert_close(sum(p[3] for p in parts), dbias, **exact)
    for part in parts:  # buffers equal on all ranks
        torch.testing.assert_close(part[4], mean, **exact)
        torch.testing.assert_close(part[5], var, **exact)
        assert torch.equal(part[4], parts[0][4])
        assert torch.equal(part[5], parts[0][5])


def unequal(rank: int, world: int) -> tuple[Tensor, ...]:
    rows = slice(0, 3) if rank == 0 else slice(3, 8)
    x = (2 * z(8, 3, 0) + 0.5)[rows].requires_grad_()
    norm = nn.BatchNorm1d(3, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64))
    net = convert_batchnorm(nn.Sequential(norm), 1)
    y = net(x)
    y.backward(z(8, 3, 1)[rows])
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, net[0].running_mean, net[0].running_var


def test_unequal_rows_per_rank_give_the_published_numbers() -> None:
    (y0, dx0, dw0, db0, mean, var), (y1, dx1, dw1, db1, *_) = run_ranks(2, unequal)

    def close(value: Tensor, expected: list[float]) -> None:
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), atol=1e-11, rtol=0)

    close(y0[0], [1.28614629922, 0.375478740791, -0.957951552709])
    close(y1[-1], [-0.354738198397, 0.526790073629, 0.942989707085])
    close(dx0[0], [0.419733739689, -0.217713017594, -1.08020183928])
    close(dx1[-1], [0.594051037294, 0.0832889219983, -1.18035109529])
    close(dw0 + dw1, [-3.36187334081, -2.67114176421, -2.80467963218])
    close(db0 + db1, [-0.65380243596, 0.260310193062, -0.119693902863])
    close(mean, [0.0425865077272, 0.0405847122965, 0.0495632293564])
    close(var, [1.1507812057, 1.11688937064, 1.12405334561])


def test_large_mean_does_not_cancel_in_float32() -> None:
    mean, std = run_ranks(2, far_from_origin)[0]
    assert mean == pytest.approx(0, abs=2e-3)
    assert std == pytest.approx(1, abs=2e-3)


def far_from_origin(rank: int, world: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(512, 1, generator=generator) + 3000
    y = convert_batchnorm(nn.Sequential(nn.BatchNorm1d(1)), 1)(x)
    rows = distributed.gather_rows(y.detach())
    return float(rows.mean()), float(rows.std())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout"])
def test_conversion_keeps_what_timm_nets_compute(name: str) -> None:
    prepare_torchvision()
    import timm

    net = timm.create_model(name, num_classes=0).eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.normal_(module.bias, std=0.5)
    x = torch.randn(3, 3, 64, 64)
    before = net(x)
    had = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    converted = convert_batchnorm(copy.deepcopy(net), 1)
    torch.testing.assert_close(converted(x), before, atol=1e-6, rtol=1e-5)
    assert any(isinstance(m, GroupBatchNorm) for m in converted.modules()) == had


def test_conversion_keeps_the_activation_of_batchnorm_act() -> None:
    prepare_torchvision()
    import timm.layers

    norm = timm.layers.BatchNormAct2d(3, act_layer=nn.ReLU).eval()
    out = convert_batchnorm(nn.Sequential(norm), 1).eval()(torch.linspace(-1, 1, 12).view(1, 3, 2, 2))
    assert out.min() == 0


@pytest.mark.parametrize(("groups", "world"), [(3, 2), (2, 3), (3, 4)])
def test_groups_that_do_not_fit_the_ranks_are_refused(groups: int, world: int) -> None:
    with pytest.raises(UserError, match=f"method.bn_groups: {groups} groups on {world} ranks"):
        check_groups(groups, world)
