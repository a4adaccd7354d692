"""A queue of past target projections with their row ids: equal on every rank, part of the checkpoint."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import distributed


class Queue(nn.Module):
    """The newest `size` rows that were written; starts empty, so that nothing random stands in for a past."""

    features: Tensor
    rows: Tensor
    cursor: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("rows", torch.full((size,), -1, dtype=torch.int64))  # -1: not written yet
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def write(self, features: Tensor, rows: Tensor) -> None:
        """Put (B, D) features and their (B,) row ids over the oldest; the same on all ranks, in the same order."""
        size, past = len(self.rows), max(0, len(rows) - len(self.rows))  # of more than fit, the first are past at once
        places = (self.cursor + past + torch.arange(len(rows) - past, device=rows.device)) % size
        self.features[places] = features[past:].to(self.features.dtype)
        self.rows[places] = rows[past:]
        self.cursor.copy_((self.cursor + len(rows)) % size)

    @torch.no_grad()
    def write_views(self, keys: Tensor, rows: Tensor, positions: Tensor) -> None:
        """Put every rank's keys over the oldest, L2-normalised, in global order, view by view. Collective.

        keys: (B, V, D); rows, positions: (B,) row ids and places in the global batch; B is equal on all ranks.
        """
        order = distributed.gather(positions).argsort()  # rank-major to global order: they differ under accumulation
        features = F.normalize(distributed.gather(keys)[order], dim=-1)  # (global batch, V, D)
        rows = distributed.gather(rows)[order]
        self.write(features.transpose(0, 1).flatten(0, 1), rows.repeat(keys.shape[1]))
