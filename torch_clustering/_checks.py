"""What is refused, what is warned of, and the form in which rows are computed with. n rows of one rank, D features."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_clustering._collectives import Group, gather, rank

CHUNK_BYTES = 1 << 21


class ConvergenceWarning(UserWarning):
    """The result is valid but less than what was asked for: fewer clusters, or iterations ended before convergence."""


@dataclass(frozen=True)
class Shard:
    """This rank's rows of a data set.

    x (n, D) float32 or float64; weights (n,) float64; first: global id of row 0; n_rows = N over all ranks.
    """

    x: Tensor
    weights: Tensor
    first: int
    n_rows: int
    group: Group | None


def as_rows(x: Any) -> Tensor:
    """(n, D) tensor of `x`: float64 stays, everything else becomes float32; without gradient."""
    rows: Tensor = torch.as_tensor(x).detach()
    if rows.ndim != 2:
        raise ValueError(f"rows must have 2 dimensions (n, D), not {rows.ndim}: shape {tuple(rows.shape)}")
    return rows if rows.dtype == torch.float64 else rows.float()


def check_features(x: Tensor, expected: int) -> Tensor:
    """`x` itself; ValueError with both numbers when its width is not the one that was fitted."""
    if x.shape[1] != expected:
        raise ValueError(f"rows have {x.shape[1]} features, the model was fitted to {expected}")
    return x


def make_shard(x: Any, sample_weight: Any, n_clusters: int, group: Group | None) -> Shard:
    """This rank's rows in their place among all rows; what is wrong on one rank is raised on all. Collective."""
    x = as_rows(x)
    weights = torch.ones(len(x), dtype=torch.float64, device=x.device)
    if sample_weight is not None:
        weights = torch.as_tensor(sample_weight, dtype=torch.float64, device=x.device)
    unfit = len(weights) != len(x) or bool((weights < 0).any()) or not bool(weights.sum().isfinite())
    infinite = not bool(x.isfinite().all())
    heavy = int((weights > 0).sum())
    facts = torch.tensor([*x.shape, x.element_size(), unfit, infinite, heavy], dtype=torch.int64, device=x.device)
    everywhere = gather(facts, group).tolist()
    sizes, widths, precisions, unfits, infinites, heavies = (list(column) for column in zip(*everywhere, strict=True))
    if len(set(widths)) > 1 or len(set(precisions)) > 1:
        raise ValueError(f"ranks disagree: features {widths}, bytes per number {precisions}")
    if any(infinites):
        raise ValueError(f"rows contain NaN or infinity on rank {infinites.index(1)} of {len(sizes)}")
    if any(unfits):
        raise ValueError("sample_weight must hold one finite number >= 0 for each row")
    if sum(sizes) < n_clusters:
        raise ValueError(f"{sum(sizes)} rows for {n_clusters} clusters; give at least as many rows as clusters")
    if sum(heavies) == 0:
        raise ValueError(f"all {sum(sizes)} rows have weight 0")
    return Shard(x, weights, sum(sizes[: rank(group)]), sum(sizes), group)


def chunks(n_rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices of `n_rows` rows, each of which with `width` float64 numbers a row fits a CPU's cache."""
    budget = CHUNK_BYTES if device.type == "cpu" else 256 * CHUNK_BYTES
    rows = max(64, budget // (8 * width))
    return [slice(start, start + rows) for start in range(0, n_rows, rows)]


def positive(name: str, value: float, *, zero: bool = False) -> None:
    """ValueError unless `value` is above 0 (or 0 itself where `zero` is allowed)."""
    if value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}={value} must be {'at least' if zero else 'above'} 0")


def warn(message: str) -> None:
    """A ConvergenceWarning that points at the caller of `fit`."""
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
