"""A plugin: ProPos with the labels that the prototypes had in the authors' code on four GPUs. What does it cost?

    python main.py config/digits_propos.yml run.plugins=[benchmarks/scrambled_labels.py]

There the two views of all ranks are gathered as (rank 0 view 1, rank 0 view 2, rank 1 view 1, ...) and cut into halves,
each of which is given the labels in the order of the ranks: of eight blocks of rows two get their own labels, the rest
those of other images (github.com/Hzzone/ProPos, models/propos/byol_wrapper.py, line 237). To be run in one process: its
batch stands for that of four ranks.
"""

from typing import Any

import torch
from torch import Tensor

import models.propos
from models.propos import prototype_scattering
from utils import distributed

METHODS: dict[str, Any] = {}
RANKS = 4


def scrambled(online: list[Tensor], target: list[Tensor], memberships: Tensor, **options: Any) -> Tensor:
    """`prototype_scattering` of rows that have changed places while their labels have not."""
    assert distributed.world() == 1
    halves = [order.chunk(2) for order in places(len(memberships))]
    moved = [[torch.stack(views)[view, row] for view, row in zip(*halves, strict=True)] for views in (online, target)]
    return prototype_scattering(*moved, memberships, **options)


def places(n_rows: int) -> tuple[Tensor, Tensor]:
    """(2 n_rows,) view and row of each place of the gathered batch."""
    own = n_rows // RANKS
    blocks = torch.arange(2 * RANKS).repeat_interleave(own)
    return blocks % 2, blocks // 2 * own + torch.arange(own).repeat(2 * RANKS)


models.propos.prototype_scattering = scrambled
