"""What rows are drawn by, in whole quanta: integers have the same sums in any order, on any number of ranks."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torch_clustering._checks import Shard
from torch_clustering._collectives import gather, rank


class Masses:
    """What rows are drawn by: masses (n,) >= 0 of own rows in whole quanta.

    scale: quanta per unit of mass, a power of 2; totals: quanta of each rank.
    """

    def __init__(self, masses: Tensor, scale: float, totals: Sequence[int]) -> None:
        self.masses, self.scale, self.totals = masses, scale, list(totals)

    @classmethod
    def of(cls, masses: Tensor, shard: Shard) -> "Masses":
        """Masses in quanta as fine as sums of N of them can be. Collective."""
        largest = masses.max() if len(masses) else masses.new_zeros(())
        scale = scale_of(float(gather(largest, shard.group).max()), shard.n_rows)
        return cls(masses, scale, gather(to_quanta(masses, scale).sum(), shard.group).tolist())

    def draw(self, uniforms: np.ndarray, shard: Shard) -> Tensor:
        """(L,) positions of the drawn rows among own rows, -1 for those of other ranks.

        For each u in [0, 1) the first row whose cumulative sum exceeds u * total: a row of mass 0 is never drawn.
        """
        total, before = sum(self.totals), sum(self.totals[: rank(shard.group)])
        targets = [min(int(u * total), total - 1) + 1 for u in uniforms.tolist()]
        mine = torch.tensor([target - before for target in targets], device=self.masses.device)  # (L,)
        cumulative = to_quanta(self.masses, self.scale).cumsum(0)  # (n,)
        found = torch.searchsorted(cumulative, mine)
        return torch.where((mine > 0) & (found < len(cumulative)), found, -1)


def scale_of(largest: float, n_rows: int) -> float:
    """Quanta per unit of mass, 0 without mass: a power of 2 by which a sum of N masses up to `largest` fits int64."""
    return 2.0 ** (61 - math.ceil(math.log2(n_rows + 1)) - math.frexp(largest)[1]) if largest > 0 else 0.0


def to_quanta(masses: Tensor, scale: float) -> Tensor:
    """Masses as int64 quanta. Integers add up to the same sum in any order, on any number of ranks."""
    exact = masses if scale < 2.0**100 else masses.double()  # float32 ends at 2^128
    return (exact * scale).to(torch.int64)
