"""What ranks tell each other. A group of None is one process, for which everything here is free.

Floating-point sums are taken in rank order on every rank, so that all ranks hold the same bits.
"""

import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup


def world(group: Group | None) -> int:
    """Number of ranks of `group`."""
    return 1 if group is None else dist.get_world_size(group)


def rank(group: Group | None) -> int:
    """This process' place in `group`, from 0."""
    return 0 if group is None else dist.get_rank(group)


def gather(x: Tensor, group: Group | None) -> Tensor:
    """(W, *x.shape): `x` of each rank, in rank order; shapes must be equal. Collective."""
    if world(group) == 1:
        return x[None]
    blocks = x.new_empty((world(group), x.numel()))
    dist.all_gather(list(blocks.unbind()), x.flatten(), group=group)
    return blocks.view(world(group), *x.shape)


def sum_over_ranks(x: Tensor, group: Group | None) -> Tensor:
    """Sum of `x` over ranks, added in rank order. Collective."""
    blocks = gather(x, group)
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total
