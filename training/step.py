"""One optimiser step over one or more micro-batches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.batch import UNLABELLED, Batch
from models.method import Method
from models.state import ClusterState
from training.numerics import Guard
from training.optim import OptimConfig, clip, set_schedules
from utils.clock import Clock
from utils.group_batchnorm import start_commit


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast of `optim.precision`: bfloat16 for bf16, float16 for fp16, nothing else."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def train_step(
    parallel: nn.Module,
    method: Method,
    optimizer: Optimizer,
    batches: Iterator[Batch],
    state: ClusterState | None,
    clock: Clock,
    config: OptimConfig,
    guard: Guard,
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Forward and backward of each micro-batch, one update. Collective.

    parallel: `method`, in DDP where there are several ranks; its all-reduce runs in the last backward alone.
    batches: the next `accumulation` micro-batches are taken. state: not shown to the loss of rows that have no place
    in it.
    Returns the losses (means over micro-batches, on the device, of this rank) and the carry, joined over micro-batches;
    no carry where `guard` has left the step out.
    """
    losses: list[dict[str, Tensor]] = []
    carries: list[dict[str, Tensor]] = []
    optimizer.zero_grad(set_to_none=True)
    guard.begin()
    for micro, batch in enumerate(islice(batches, config.accumulation)):
        last = micro == config.accumulation - 1
        with nullcontext() if last or parallel is method else parallel.no_sync():  # type: ignore[operator]
            with autocast(config.precision, batch.rows.device):
                parts = parallel(batch, None if batch.phase == UNLABELLED else state, clock)
            carries.append(parts.pop("carry", {}))
            if last:
                commit_statistics = start_commit(method)
            guard.scaled(parts["loss"] / config.accumulation).backward()
        losses.append({name: value.detach() for name, value in parts.items()})
    mean = {name: torch.stack([part[name] for part in losses]).mean() for name in losses[0]}
    method.before_optimizer(batch.phase, clock)
    sound = guard.sound(optimizer, mean, clock)
    if sound:
        clip(list(method.parameters()), config)
        set_schedules(optimizer, config, clock)
        optimizer.step()
    commit_statistics()
    guard.end(taken=sound)
    return mean, {name: torch.cat([carry[name] for carry in carries]) for name in carries[0]} if sound else None
