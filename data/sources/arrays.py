"""Published sets that are arrays of pixels: parts of equal image shape, labelled or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.sources.base import Source, describe_rows
from utils.errors import UserError

LABELLED_SPLITS = ("train+test", "train", "test")
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Facts:
    """What is known of a set before its files are read; as in `Source`. class_names: () where there are none."""

    name: str
    n_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """images: (n, C, H, W) uint8, in memory or memory-mapped. labels: (n,) class ids, None where they have none."""

    images: np.ndarray
    labels: np.ndarray | None


def parts_of(name: str, split: str, splits: Sequence[str] = LABELLED_SPLITS) -> list[str]:
    """The parts that `split` joins, in row order. Raises UserError unless it is one of the set's `splits`."""
    if split not in splits:
        raise UserError("data.split", f"{name} has no '{split}'", f"it has {', '.join(splits)}")
    return split.split("+")


class ArraySource(Source):
    """The rows of `parts` (name -> images and labels) in their order.

    Unlabelled images beside labelled ones are extra rows; alone they are the rows, without truth.
    """

    def __init__(self, facts: Facts, split: str, parts: Mapping[str, Part]) -> None:
        self._sizes = {name: len(part.images) for name, part in parts.items()}
        self._blocks = [part.images for part in parts.values()]
        self._images: Tensor | None = None
        if not any(isinstance(block, np.memmap) for block in self._blocks):
            self._images = torch.from_numpy(np.concatenate(self._blocks) if len(parts) > 1 else self._blocks[0])
            self._blocks = []
        labels = [part.labels for part in parts.values() if part.labels is not None]
        self._truth = torch.from_numpy(np.concatenate(labels).astype(np.int64)) if labels else None
        self.name, self.mean, self.std, self.skipped = facts.name, facts.mean, facts.std, []
        self.n_classes = facts.n_classes if labels else None
        self._class_names = facts.class_names if labels else ()
        n_all = sum(self._sizes.values())
        self.n_rows = n_all if self._truth is None else len(self._truth)
        self.n_extra = n_all - self.n_rows
        self.image_shape = next(iter(parts.values())).images.shape[1:]
        self.protocol = describe_rows(split.removesuffix(f"+{UNLABELLED}"), self.n_rows)
        if self.n_extra:
            self.protocol += f", and {self.n_extra:,} unlabelled to train on"

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8; of a memory-mapped set, a copy."""
        if self._images is not None:
            return self._images if rows is None else self._images[rows]
        if rows is None:
            return torch.from_numpy(np.concatenate(self._blocks))
        wanted, first = rows.numpy(), 0
        images = np.empty((len(wanted), *self.image_shape), np.uint8)
        for block in self._blocks:
            here = (wanted >= first) & (wanted < first + len(block))
            images[here] = block[wanted[here] - first]
            first += len(block)
        return torch.from_numpy(images)

    def path(self, row: int) -> str:
        """The part and the number within it, for instance 'test/00012'."""
        for part, size in self._sizes.items():
            if row < size:
                return f"{part}/{row:05d}"
            row -= size
        raise IndexError(f"row {row} is beyond the last row")

    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        """(B,) int64, the published class; None of unlabelled images."""
        return self._truth if rows is None or self._truth is None else self._truth[rows]

    def class_names(self) -> tuple[str, ...] | None:
        """The published ones, if there are such and there is truth."""
        return self._class_names or None

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """Train rows against test rows where both are there."""
        if not {"train", "test"} <= self._sizes.keys():
            return None
        return torch.arange(self._sizes["train"]), torch.arange(self._sizes["train"], self.n_rows)
