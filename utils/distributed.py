"""All of the project's communication between ranks, one process being the case W = 1.

Every function with "collective" in its docstring must be called by all ranks; with one process it costs nothing.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Group = dist.ProcessGroup
SMALL = 2**16  # numbers, over all ranks
T = TypeVar("T")


def launched_world() -> int:
    """Ranks the launcher announced, 1 without a launcher; known before any process group exists."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world() -> int:
    """Ranks on this machine, 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process' number on its own machine: it picks the device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process' rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process prints and writes: rank 0."""
    return rank() == 0


def everyone() -> Group | None:
    """The group of all ranks, None with one process: what `torch_clustering` takes as `group`."""
    return dist.group.WORLD if dist.is_initialized() else None


def pick_device() -> torch.device:
    """The CUDA device of the local rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def available_backends() -> list[str]:
    """The communication backends that this build of torch has."""
    known = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available}
    return [name for name, available in known.items() if dist.is_available() and available()]


def parallel(module: nn.Module) -> nn.Module:
    """`module` in DDP on several ranks, itself on one. Collective."""
    if world() == 1:
        return module
    on_gloo = next(module.parameters()).device.type == "cpu"
    with warnings.catch_warnings():  # newer torch has another name for broadcast_buffers, which older ones do not know
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(
            module,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            # on gloo with W > 2 this keeps the first bucket order, without which a resumed run sums in another order
            find_unused_parameters=on_gloo and world() > 2,
        )


def gather(x: Tensor) -> Tensor:
    """(W B, ...) rows of all ranks in rank order, from (B, ...) of each, with the exact gradient. Collective.

    Backward sums over ranks the gradients that each rank holds for this rank's rows; DDP's mean then makes it the
    gradient of the mean of the ranks' losses. B must be equal on all ranks.
    """
    return x if world() == 1 else _Gather.apply(x)


def gather_rows(x: Tensor) -> Tensor:
    """(N, ...) rows of all ranks in rank order, without gradient; a rank may hold any number, also 0. Collective."""
    if world() == 1:
        return x
    counts = torch.zeros(world(), dtype=torch.int64, device=x.device)
    counts[rank()] = len(x)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    padded = x.new_zeros((max(sizes), *x.shape[1:]))
    padded[: len(x)] = x
    blocks = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])


def sum_over_ranks(x: Tensor, *, same_loss: bool = False) -> Tensor:
    """Sum of `x` over ranks, with the exact gradient: backward sums over ranks too. Collective.

    same_loss: every rank goes on to compute the same loss from the sum. Then their gradients are equal, and backward
    needs no message: the sum is W times the own.
    """
    return x if world() == 1 else _SumOverRanks.apply(x, same_loss)


def mean_over_ranks_(x: Tensor) -> Tensor:
    """Mean of `x` over ranks, in place, without gradient. Collective."""
    return start_mean_(x)()


def start_mean_(x: Tensor) -> Callable[[], Tensor]:
    """Begin `mean_over_ranks_` and go on; the returned function waits for it and gives `x`. Collective."""
    if world() == 1:
        return lambda: x
    finish = _start_sum(x)
    return lambda: x.copy_(finish() / world())


def reduce_sum_(x: Tensor, group: Group | None = None) -> Tensor:
    """Sum of `x` over the ranks of `group` (all by default), in place, without gradient. Collective."""
    return x if world() == 1 else x.copy_(_start_sum(x, group)())


def gather_flat(x: Tensor, group: Group) -> Tensor:
    """(ranks of group, *x.shape): `x` of each rank of `group`, without gradient. Collective."""
    blocks = x.new_empty((dist.get_world_size(group), x.numel()))
    dist.all_gather(list(blocks.unbind()), x.flatten(), group=group)
    return blocks.view(-1, *x.shape)


def contiguous_group(size: int) -> Group | None:
    """The block of `size` neighbouring ranks that this rank belongs to; None where a block is one rank. Collective."""
    if size == 1:
        return None
    if size == world():
        return dist.group.WORLD
    blocks = [dist.new_group(list(range(first, first + size))) for first in range(0, world(), size)]
    return blocks[rank() // size]


def barrier() -> None:
    """Wait for all ranks. Collective."""
    if world() > 1:
        dist.barrier()


def broadcast_object(value: T) -> T:
    """Rank 0's `value` (any picklable object) on every rank. Collective."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def any_rank(flag: bool) -> bool:
    """Whether `flag` holds on at least one rank. Collective."""
    return start_any(flag)()[0]


def start_any(*flags: bool) -> Callable[[], list[bool]]:
    """Begin `any_rank` of each flag and go on; the returned function waits for the answers. Collective."""
    if world() == 1:
        return lambda: list(flags)
    finish = _start_sum(torch.tensor(flags, dtype=torch.int64))
    return lambda: finish().bool().tolist()


def once_per_machine(work: Callable[[], T]) -> T:
    """`work()` on each machine's local rank 0, then on its others: one downloads, they find the files. Collective."""
    if world() == 1:
        return work()
    result: Any = work() if local_rank() == 0 else None
    barrier()
    return result if local_rank() == 0 else work()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = x.new_empty((world() * len(x), *x.shape[1:]))
        dist.all_gather(list(gathered.chunk(world())), x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        own = gradient.new_empty((len(gradient) // world(), *gradient.shape[1:]))
        dist.reduce_scatter(own, list(gradient.chunk(world())))
        return own


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, same_loss: bool) -> Tensor:
        ctx.same_loss = same_loss
        return _start_sum(x)()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * world() if ctx.same_loss else _start_sum(gradient)(), None


def _start_sum(x: Tensor, group: Group | None = None) -> Callable[[], Tensor]:
    """Begin to sum `x` over the ranks of `group` (all by default); the returned function waits and gives a new tensor.

    A small message is gathered and added up in rank order: on gloo that takes half the time of an all-reduce.
    """
    n_ranks = dist.get_world_size(group)
    if x.numel() * n_ranks > SMALL:
        parts = [x.clone(memory_format=torch.contiguous_format)]
        message = dist.all_reduce(parts[0], group=group, async_op=True)
    else:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(n_ranks)]
        message = dist.all_gather(parts, x.contiguous(), group=group, async_op=True)

    def finish() -> Tensor:
        message.wait()
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    return finish
