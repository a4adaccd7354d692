"""The target network: an exponential moving average of the online one."""

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def make_target(online: M) -> M:
    """A copy of `online` without gradient; in training it stays in train mode: its BatchNorm uses its own batches."""
    target = copy.deepcopy(online)
    return target.requires_grad_(False)


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online, parameters only, in place, after the optimiser step."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
