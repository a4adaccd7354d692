"""Rows by formula, the stored numbers of scikit-learn 1.9.1, and their comparison."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def numbers(name: str) -> dict[str, Any]:
    """`NAME_numbers.json`; its floats are rounded to 12 digits."""
    return json.loads((Path(__file__).parent / f"{name}_numbers.json").read_text())


def made_rows(n_rows: int, width: int, s: float = 0.0) -> Tensor:
    """(n_rows, width) float64: four wavy groups."""
    i, j = torch.arange(n_rows, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    waves = 3 * torch.sin(0.7 * (i % 4) + 1.3 * j) + torch.sin(0.37 * (i + 1) * (j + 1) + s)
    return waves + 0.1 * ((7 * i + 3 * j) % 11)


def close(actual: Tensor | float, expected: object, tolerance: float = 1e-9) -> bool:
    """Whether shapes are equal and numbers agree to `tolerance`."""
    found, wanted = (torch.as_tensor(value, dtype=torch.float64) for value in (actual, expected))
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)
