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
from training.optim import OptimConfig, clip, set_schedules
from utils.clock import Clock
from utils.group_batchnorm import start_commit


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast of `optim.precision`: bfloat16 for bf16, nothing else."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def train_step(
    parallel: nn.Module,
    method: Method,
    optimizer: Optimizer,
    batches: Iterator[Batch],
    state: ClusterState | None,
    clock: Clock,
    config: OptimConfig,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Forward and backward of each micro-batch, one update. Collective.

    parallel: `method`, in DDP where there are several ranks; its all-reduce runs in the last backward alone.
    batches: the next `accumulation` micro-batches are taken. state: not shown to the loss of rows that have no place
    in it.
    Returns the losses (means over micro-batches, on the device, of this rank) and the carry, joined over micro-batches.
    """
    losses: list[dict[str, Tensor]] = []
    carries: list[dict[str, Tensor]] = []
    optimizer.zero_grad(set_to_none=True)
    for micro, batch in enumerate(islice(batches, config.accumulation)):
        last = micro == config.accumulation - 1
        with nullcontext() if last or parallel is method else parallel.no_sync():  # type: ignore[operator]
            with autocast(config.precision, batch.rows.device):
                parts = parallel(batch, None if batch.phase == UNLABELLED else state, clock)
            carries.append(parts.pop("carry", {}))
            if last:
                commit_statistics = start_commit(method)
            (parts["loss"] / config.accumulation).backward()
        losses.append({name: value.detach() for name, value in parts.items()})
    method.before_optimizer(batch.phase, clock)
    clip(list(method.parameters()), config)
    set_schedules(optimizer, config, clock)
    optimizer.step()
    commit_statistics()
    mean = {name: torch.stack([part[name] for part in losses]).mean() for name in losses[0]}
    return mean, {name: torch.cat([carry[name] for carry in carries]) for name in carries[0]}
