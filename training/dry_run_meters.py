"""What a step sends and keeps, metered without other ranks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor

from utils import distributed


class OtherRanks:
    """Stands where `utils.distributed` has `torch.distributed`: rank 0 of `world`, whose fellows say what it says.

    sent: bytes that rank 0 sends, by what for, as rings do it: (W - 1) of a gathered block, 2 (W - 1) / W of a summed
    one. messages: their number. What is meant for one group of ranks is of a BatchNorm, all else of the method.
    """

    def __init__(self, world: int) -> None:
        self.group = SimpleNamespace(WORLD=world)  # a group is the number of its ranks
        self.sent: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()

    def is_initialized(self) -> bool:
        """As with a process group."""
        return True

    def get_world_size(self, group: int | None = None) -> int:
        """Ranks of the group, all by default."""
        return group or self.group.WORLD

    def get_rank(self) -> int:
        """Always the first."""
        return 0

    def new_group(self, ranks: Sequence[int]) -> int:
        """The group, to be passed on."""
        return len(ranks)

    def all_gather(
        self, blocks: list[Tensor], x: Tensor, group: int | None = None, async_op: bool = False
    ) -> SimpleNamespace:
        """Every block is the own one."""
        for block in blocks:
            block.copy_(x.view_as(block))
        return self._count(group, (len(blocks) - 1) * x.nbytes)

    def all_reduce(self, x: Tensor, group: int | None = None, async_op: bool = False) -> SimpleNamespace:
        """Every rank has what this one has."""
        n_ranks = self.get_world_size(group)
        x.mul_(n_ranks)
        return self._count(group, 2 * (n_ranks - 1) * x.nbytes // n_ranks)

    def reduce_scatter(self, own: Tensor, blocks: list[Tensor]) -> SimpleNamespace:
        """Likewise."""
        own.copy_(blocks[0]).mul_(len(blocks))
        return self._count(None, (len(blocks) - 1) * own.nbytes)

    def _count(self, group: int | None, n_bytes: int) -> SimpleNamespace:
        purpose = "method and running statistics" if group is None else "BatchNorm"
        self.sent[purpose] += n_bytes
        self.messages[purpose] += 1
        return SimpleNamespace(wait=lambda: None)


@contextmanager
def pretended(world: int) -> Iterator[OtherRanks]:
    """Code that speaks through `utils.distributed` finds `world` ranks, and is rank 0. One has nobody to speak to."""
    others, real = OtherRanks(world), distributed.dist
    if world > 1:
        vars(distributed)["dist"] = others
    try:
        yield others
    finally:
        vars(distributed)["dist"] = real


class Saved:
    """Bytes that backward needs, `now` and at `most`; not those of tensors that are `present` anyway."""

    def __init__(self, present: Iterator[Tensor]) -> None:
        self.most, self.now = 0, 0
        self._present = {tensor.untyped_storage().data_ptr() for tensor in present}
        self._holders: Counter[int] = Counter()

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """To be entered around a step."""
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(tensor, self), lambda held: held.tensor)

    def hold(self, place: int, n_bytes: int, change: int) -> None:
        """One holder more (change 1) or less (-1) of the memory that begins at `place`."""
        if place not in self._present:
            if self._holders[place] == (0 if change > 0 else 1):
                self.now += change * n_bytes
            self._holders[place] += change
            self.most = max(self.most, self.now)


class _Held:
    def __init__(self, tensor: Tensor, saved: Saved) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.saved, self.key = tensor, saved, (storage.data_ptr(), storage.nbytes())
        saved.hold(*self.key, 1)

    def __del__(self) -> None:
        self.saved.hold(*self.key, -1)
