"""What is refused, what is warned of, and the form in which rows are computed with. n rows of one rank, D features."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from torch_clustering._collectives import Group, gather, home, rank, world

try:
    from sklearn.exceptions import ConvergenceWarning, NotFittedError
except ImportError:

    class ConvergenceWarning(UserWarning):  # type: ignore[no-redef]
        """The result is valid but less than was asked for: fewer clusters, or iterations ended before convergence."""

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """A model was asked for what it has not learnt yet."""


__all__ = ["ConvergenceWarning", "NotFittedError", "Shard"]

CHUNK_BYTES = 1 << 21
MESSAGE_BYTES = 1 << 9


@dataclass(frozen=True)
class Shard:
    """This rank's rows of a data set.

    x (n, D) float32 or float64; weights (n,) float64, to be read only: without weights it is one number, expanded;
    first: global id of row 0; n_rows = N over all ranks.
    """

    x: Tensor
    weights: Tensor
    first: int
    n_rows: int
    group: Group | None


def to_tensor(x: Any) -> Tensor:
    """`x` as a tensor of numbers without gradient; tensors and arrays of floating point are not copied.

    Raises:
        TypeError: sparse, or objects that are no numbers.
        ValueError: complex numbers or text.
    """
    if issparse(x) or (isinstance(x, Tensor) and x.layout != torch.strided):
        raise TypeError("Sparse data was passed, but dense data is required. Convert it to a dense array.")
    rows = x.detach() if isinstance(x, Tensor) else _from_array(np.asarray(x))
    if rows.is_complex():
        raise ValueError(f"Complex data not supported: {rows.dtype}")
    return rows


def _from_array(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {array.dtype}")
    if array.dtype.kind not in "fiubO":
        raise ValueError(f"rows must be numbers, not {array.dtype}")
    wide = array.dtype.kind == "O" or array.dtype.itemsize > 8
    array = array.astype(np.float64 if wide else array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    with warnings.catch_warnings():  # of arrays that are not writable: rows are only read
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def as_rows(x: Any) -> Tensor:
    """(n, D) tensor of `x`: float32 and float64 stay, everything else becomes float32; without gradient."""
    rows = to_tensor(x)
    if rows.ndim != 2:
        raise ValueError(
            f"Expected 2D array (n, D), got {rows.ndim}D array instead: shape {tuple(rows.shape)}. "
            "Reshape your data with reshape(-1, 1) if it has a single feature, reshape(1, -1) if it is one row."
        )
    if rows.shape[1] == 0:
        raise ValueError(f"0 feature(s) (shape={tuple(rows.shape)}) while a minimum of 1 is required.")
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def check_features(x: Tensor, expected: int) -> Tensor:
    """`x` itself; ValueError with both numbers when its width is not the one that was fitted."""
    if x.shape[1] != expected:
        raise ValueError(f"rows have {x.shape[1]} features, the model was fitted to {expected}")
    return x


def check_finite(x: Tensor) -> None:
    """ValueError if a number of `x` (n, D) is NaN or infinite. Makes no mask of the size of `x`."""
    if bool(x.sum().isfinite()):
        return
    parts = chunks(len(x), x.shape[1], x.device)  # a sum of finite numbers may overflow
    if not all(bool(x[part].isfinite().all()) for part in parts):
        raise ValueError("Input X contains NaN or infinity (inf)")


@contextmanager
def refused_together(group: Group | None) -> Iterator[None]:
    """A ValueError or TypeError inside the block on one rank is raised on all ranks. Collective.

    Of several ranks' errors the first rank's is told, as a ValueError. Nothing inside the block may be collective.
    """
    error: Exception | None = None
    try:
        yield
    except (TypeError, ValueError) as caught:
        error = caught
    if world(group) == 1:
        if error is not None:
            raise error
        return
    text = str(error or "").encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0")
    message = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(home(group))
    messages = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gather(message, group).tolist()]
    for number, told in enumerate(messages):
        if told:
            raise ValueError(f"rank {number} of {len(messages)}: {told}") from error


def make_shard(x: Any, sample_weight: Any, n_clusters: int, group: Group | None, *, replicated: bool = False) -> Shard:
    """This rank's rows in their place among all rows; what is wrong on one rank is raised on all. Collective.

    Args:
        x: (n, D) this rank's rows; n may be 0.
        sample_weight: (n,) numbers >= 0, or None.
        n_clusters: the least number of rows of all ranks.
        replicated: every rank has given all rows, and keeps an equal share of them.
    """
    with refused_together(group):
        x = as_rows(x)
        weights, given = row_weights(sample_weight, x), len(x)
        if home(group) == "cuda" and not x.is_cuda:
            raise ValueError(
                "the rows are on the CPU and the process group speaks NCCL: move them to CUDA, or use gloo"
            )
        if replicated:
            share = slice(given * rank(group) // world(group), given * (rank(group) + 1) // world(group))
            x, weights = x[share], weights[share]
        check_finite(x)
    heavy = len(x) if sample_weight is None else int(weights.count_nonzero())
    facts = torch.tensor([*x.shape, x.element_size(), heavy, given], dtype=torch.int64, device=x.device)
    columns = zip(*gather(facts, group).tolist(), strict=True)
    sizes, widths, precisions, heavies, givens = (list(column) for column in columns)
    if len(set(widths)) > 1 or len(set(precisions)) > 1:
        raise ValueError(f"ranks disagree: features {widths}, bytes per number {precisions}")
    if replicated and len(set(givens)) > 1:
        raise ValueError(f"ranks disagree: {givens} rows, of which layout='replicated' wants all on every rank")
    if sum(sizes) < n_clusters:
        raise ValueError(f"{sum(sizes)} rows for {n_clusters} clusters; give at least as many rows as clusters")
    if sum(heavies) == 0:
        raise ValueError(f"all {sum(sizes)} rows have weight zero (0)")
    return Shard(x, weights, sum(sizes[: rank(group)]), sum(sizes), group)


def row_weights(sample_weight: Any, x: Tensor) -> Tensor:
    """(n,) float64 weights of the rows `x`; 1 each without `sample_weight`, which takes no memory."""
    if sample_weight is None:
        return torch.ones((), dtype=torch.float64, device=x.device).expand(len(x))
    weights = to_tensor(sample_weight).to(x.device, torch.float64)
    if weights.shape != (len(x),):
        raise ValueError(f"sample_weight must hold one number for each of {len(x)} rows: shape {tuple(weights.shape)}")
    if bool((weights < 0).any()) or not bool(weights.sum().isfinite()):
        raise ValueError("sample_weight must hold finite numbers >= 0")
    return weights


def chunks(n_rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices of `n_rows` rows, each of which with `width` float64 numbers a row fits a CPU's cache."""
    budget = CHUNK_BYTES if device.type == "cpu" else 256 * CHUNK_BYTES
    rows = max(64, budget // (8 * width))
    return [slice(start, start + rows) for start in range(0, n_rows, rows)]


def part_of(part: slice | Tensor, start: int, end: int) -> slice | Tensor:
    """Entries start to end of `part`, a slice or positions of rows."""
    return slice((part.start or 0) + start, (part.start or 0) + end) if isinstance(part, slice) else part[start:end]


def positive(name: str, value: float, *, zero: bool = False) -> None:
    """ValueError unless `value` is a number above 0 (or 0 itself where `zero` is allowed)."""
    if not isinstance(value, Real) or not (value >= 0 if zero else value > 0):
        raise ValueError(f"{name}={value} must be {'at least' if zero else 'above'} 0")


def whole(name: str, value: int) -> None:
    """ValueError unless `value` is a whole number above 0."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}={value} must be a whole number above 0")


def one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """ValueError with the choices unless `value` is one of them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is none of: {', '.join(map(repr, choices))}")


def warn(message: str) -> None:
    """A ConvergenceWarning that points at the caller of `fit`."""
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
