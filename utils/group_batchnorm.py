"""BatchNorm over G contiguous groups of the global micro-batch, at any number of ranks: the one of the house.

Position p of a micro-batch of N rows belongs to group floor(p G / N). A group that spans ranks is synchronised among
them (one message a layer and direction); a rank that holds several groups normalises each alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as CudaSync
from torch.nn.modules.batchnorm import _BatchNorm

from utils import distributed
from utils.errors import UserError


def convert_batchnorm(module: nn.Module, groups: int) -> nn.Module:
    """`module` with every BatchNorm replaced by one over `groups` groups; weights and buffers kept. Collective.

    Raises UserError when neither of `groups` and the number of ranks divides the other.
    """
    world = distributed.world()
    check_groups(groups, world)
    shared = distributed.contiguous_group(max(1, world // groups))
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, GroupBatchNorm(child, groups, shared))
    return module


def check_groups(groups: int, world: int) -> None:
    """Raise UserError when `method.bn_groups` does not fit the number of ranks."""
    if groups % world and world % groups:
        raise UserError(
            "method.bn_groups",
            f"{groups} groups on {world} ranks: neither divides the other",
            "use a divisor or multiple",
        )


def start_commit(module: nn.Module) -> Callable[[], None]:
    """Fold the batch statistics of this optimiser step into the running buffers, equal on all ranks. Collective.

    To be called after the step's last forward: one packed message averages them over ranks while backward goes on. The
    returned function waits for it and applies each forward in its order, as torch would.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GroupBatchNorm) and layer.pending]
    if not layers:
        return lambda: None
    averaged = distributed.start_mean_(torch.cat([stats.flatten() for layer in layers for stats in layer.pending]))

    def finish() -> None:
        for layer, stats in _unpack(layers, averaged()):
            layer.running_mean.lerp_(stats[0], layer.momentum)
            layer.running_var.lerp_(stats[1], layer.momentum)
        for layer in layers:
            layer.pending.clear()

    return finish


class GroupBatchNorm(nn.Module):
    """BatchNorm1d/2d over groups. Eval mode uses the running buffers, which are equal on all ranks.

    Takes over weight, bias, buffers, eps and momentum of `source`, and timm's activation and dropout where it has them.
    shared: the group of ranks among which one of our groups is synchronised; None when a group lies on one rank.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, source: _BatchNorm, groups: int, shared: Any) -> None:
        super().__init__()
        assert source.momentum is not None and source.running_mean is not None and source.running_var is not None
        self.weight, self.bias = source.weight, source.bias
        self.register_buffer("running_mean", source.running_mean)
        self.register_buffer("running_var", source.running_var)
        self.eps, self.momentum = source.eps, source.momentum
        self.drop = getattr(source, "drop", nn.Identity())
        self.act = getattr(source, "act", nn.Identity())
        self.groups, self.shared = groups, shared
        self.training = source.training
        self.pending: list[Tensor] = []  # of each forward (2, C): mean and unbiased variance, averaged over own groups

    def extra_repr(self) -> str:
        """What `print(module)` shows in the brackets."""
        return f"{len(self.running_mean)}, groups={self.groups}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) normalised per group in training, by the running statistics in eval mode."""
        if not self.training:
            normalised = F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, self.momentum, self.eps
            )
        elif self.groups == 1:
            normalised = self._normalise(x, self.running_mean, self.running_var, self.momentum)
        else:
            normalised = self._normalise_groups(x)
        return self.act(self.drop(normalised))

    def _normalise_groups(self, x: Tensor) -> Tensor:
        own_groups = max(1, self.groups // distributed.world())
        if len(x) % own_groups:
            raise UserError("method.bn_groups", f"{len(x)} rows of a rank cannot be cut into {own_groups} groups")
        scratch = torch.zeros(2, own_groups, len(self.running_mean), dtype=self.running_mean.dtype, device=x.device)
        blocks = [
            self._normalise(block, scratch[0, g], scratch[1, g], 1.0) for g, block in enumerate(x.chunk(own_groups))
        ]
        self.pending.append(scratch.mean(1))
        return blocks[0] if own_groups == 1 else torch.cat(blocks)

    def _normalise(self, x: Tensor, mean: Tensor, var: Tensor, momentum: float) -> Tensor:
        """One group's part on this rank; `mean` and `var` are moved towards its statistics by `momentum`."""
        if self.shared is None:
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
        if x.is_cuda:
            world = distributed.world() // min(self.groups, distributed.world())
            return CudaSync.apply(x, self.weight, self.bias, mean, var, self.eps, momentum, self.shared, world)
        normalised, batch_mean, batch_var = _Synchronised.apply(x, self.weight, self.bias, self.eps, self.shared)
        mean.lerp_(batch_mean.to(mean.dtype), momentum)
        var.lerp_(batch_var.to(var.dtype), momentum)
        return normalised


class _Synchronised(torch.autograd.Function):
    """Normalise with the statistics of all ranks of a group: (count, mean, M2) travel; sums of squares would cancel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        dims = [0, *range(2, x.ndim)]
        count = x.numel() / x.shape[1]
        variance, mean = torch.var_mean(wide, dims, correction=0)  # (C,)
        message = torch.cat([mean.new_tensor([count]), mean, variance * count])
        blocks = distributed.gather_flat(message, group)  # (ranks, 1 + 2 C)
        counts, means, m2s = blocks[:, :1], blocks[:, 1 : 1 + len(mean)], blocks[:, 1 + len(mean) :]
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        m2 = (m2s + counts * (means - mean) ** 2).sum(0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(m2 / total + eps), total)
        ctx.group = group
        normalised = F.batch_norm(
            wide, mean, m2 / total, _like(weight, mean), _like(bias, mean), training=False, eps=eps
        ).to(x.dtype)
        batch_var = m2 / (total - 1)
        ctx.mark_non_differentiable(mean, batch_var)
        return normalised, mean, batch_var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, total = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.ndim - 2)
        dims = [0, *range(2, x.ndim)]
        wide = gradient.to(mean.dtype)
        x_hat = (x.to(mean.dtype) - mean.view(shape)) * inverse_std.view(shape)
        local = torch.stack([wide.sum(dims), (wide * x_hat).sum(dims)])  # (2, C), the affine parameters' gradients
        summed = distributed.reduce_sum_(local.clone(), ctx.group) / total
        scale = inverse_std if weight is None else inverse_std * weight.to(mean.dtype)
        grad_x = scale.view(shape) * (wide - summed[0].view(shape) - x_hat * summed[1].view(shape))
        affine = (None, None) if weight is None else (local[1].to(weight.dtype), local[0].to(weight.dtype))
        return grad_x.to(x.dtype), *affine, None, None


def _like(parameter: Tensor | None, mean: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(mean.dtype)


def _unpack(layers: list[GroupBatchNorm], packed: Tensor) -> Iterator[tuple[GroupBatchNorm, Tensor]]:
    start = 0
    for layer in layers:
        for stats in layer.pending:
            yield layer, packed[start : start + stats.numel()].view_as(stats)
            start += stats.numel()
