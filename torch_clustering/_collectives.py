"""What ranks tell each other. A group of None is one process, for which everything here is free.

Sums hold the same bits on all ranks.
"""

import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup
SMALL_BYTES = 1 << 16


def world(group: Group | None) -> int:
    """Number of ranks of `group`."""
    return 1 if group is None else dist.get_world_size(group)


def rank(group: Group | None) -> int:
    """This process' place in `group`, from 0."""
    return 0 if group is None else dist.get_rank(group)


def everyone() -> Group:
    """The default process group; ValueError where there is none."""
    if dist.group.WORLD is None:
        raise ValueError("distributed=True needs torch.distributed.init_process_group before")
    return dist.group.WORLD


def home(group: Group | None) -> str:
    """The kind of device whose tensors `group` sends: "cuda" where it can send no others, else "cpu"."""
    return "cuda" if group is not None and dist.get_backend(group) == "nccl" else "cpu"


def gather(x: Tensor, group: Group | None) -> Tensor:
    """(W, *x.shape): `x` of each rank, in rank order; shapes must be equal. Collective."""
    if world(group) == 1:
        return x[None]
    blocks = x.new_empty((world(group), x.numel()))
    dist.all_gather(list(blocks.unbind()), x.flatten(), group=group)
    return blocks.view(world(group), *x.shape)


def sum_over_ranks(x: Tensor, group: Group | None) -> Tensor:
    """Sum of `x` over ranks, the same bits on all. Collective.

    Small ones are gathered and added in rank order, which answers sooner; large ones travel once, not once per rank.
    """
    if world(group) > 1 and x.numel() * x.element_size() > SMALL_BYTES:
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total
    blocks = gather(x, group)
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total
