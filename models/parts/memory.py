"""A queue of past target projections with their row ids: equal on every rank, part of the checkpoint."""

import torch
from torch import Tensor, nn


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
        size = len(self.rows)
        features, rows = features[-size:], rows[-size:]
        places = (self.cursor + torch.arange(len(rows), device=rows.device)) % size
        self.features[places] = features.to(self.features.dtype)
        self.rows[places] = rows
        self.cursor.copy_((self.cursor + len(rows)) % size)
