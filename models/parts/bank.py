"""A memory bank: one past feature of every image, equal on every rank, part of the checkpoint."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import distributed


class Bank(nn.Module):
    """(M, D) features, one a row of the data set: noise of mean squared length 1 until a row is first written."""

    features: Tensor

    def __init__(self, n_rows: int, dim: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / dim)
        self.register_buffer("features", torch.empty(n_rows, dim).uniform_(-bound, bound))

    @torch.no_grad()
    def write(self, features: Tensor, rows: Tensor, positions: Tensor, momentum: float) -> None:
        """Move the entries of every rank's rows to `momentum` of themselves and the rest of `features`. Collective.

        features: (B, D) normalised; rows, positions: (B,) row ids and places in the global batch; B is equal on all
        ranks. Of a row that comes twice the feature of the last place counts. Entries are normalised.
        """
        order = distributed.gather(positions).argsort()
        rows = distributed.gather(rows)[order]  # (n,) of the global batch
        features = distributed.gather(features)[order].to(self.features.dtype)  # (n, D)
        places = torch.arange(1, len(rows) + 1, device=rows.device)
        last = (places * (rows[:, None] == rows)).argmax(1)  # (n,) a row's last place: equal writes have no order
        moved = momentum * self.features[rows] + (1 - momentum) * features[last]
        self.features[rows] = F.normalize(moved, dim=1)
