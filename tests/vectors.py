"""The closed-form input of the published test numbers: sin(1 + 0.7 i + 1.3 j + 2.1 s + 0.05 i j), float64."""

import torch
from torch import Tensor


def z(rows: int, columns: int, s: int) -> Tensor:
    """(rows, columns) float64."""
    i = torch.arange(rows, dtype=torch.float64)[:, None]
    j = torch.arange(columns, dtype=torch.float64)[None, :]
    return torch.sin(1 + 0.7 * i + 1.3 * j + 2.1 * s + 0.05 * i * j)
