"""Data sets that torchvision downloads, checks and unpacks: CIFAR-10 and Fashion-MNIST."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.sources.base import DataConfig, Source, describe_rows
from utils import compat, distributed
from utils.errors import UserError


@dataclass(frozen=True)
class Facts:
    """What torchvision does not say about a set: `torchvision_name` is its class there, the rest as in `Source`."""

    name: str
    torchvision_name: str
    n_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


# the means and deviations of the published recipes
CIFAR10 = Facts("cifar10", "CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
FASHION_MNIST = Facts("fashion_mnist", "FashionMNIST", 10, (0.2860,), (0.3530,))


class TorchvisionSet(Source):
    """A published set with a train and a test part; rows in that order. Collective: one rank of a machine downloads.

    Raises:
        UserError: the files are neither under `data.root` nor to be had.
    """

    def __init__(self, facts: Facts, config: DataConfig) -> None:
        parts = _open(facts, config)
        self._images = torch.cat([_channels_first(part.data) for part in parts.values()])
        self._truth = torch.cat([torch.as_tensor(part.targets, dtype=torch.int64) for part in parts.values()])
        self._sizes = {split: len(part.data) for split, part in parts.items()}
        self.name, self.n_classes, self.mean, self.std = facts.name, facts.n_classes, facts.mean, facts.std
        self.n_rows = len(self._images)
        self.image_shape = (self._images.shape[1], self._images.shape[2], self._images.shape[3])
        self.protocol = describe_rows(config.split, self.n_rows)
        self.skipped = []

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8."""
        return self._images if rows is None else self._images[rows]

    def path(self, row: int) -> str:
        """The part and the number within it, for instance 'test/00012'."""
        for split, size in self._sizes.items():
            if row < size:
                return f"{split}/{row:05d}"
            row -= size
        raise IndexError(f"row {row} is beyond the last row, {self.n_rows - 1}")

    def read_truth(self, rows: Tensor | None = None) -> Tensor:
        """(B,) int64, the published class."""
        return self._truth if rows is None else self._truth[rows]

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """Train rows against test rows where both are loaded."""
        if len(self._sizes) < 2:
            return None
        return torch.arange(self._sizes["train"]), torch.arange(self._sizes["train"], self.n_rows)


def _open(facts: Facts, config: DataConfig) -> dict[str, Any]:
    """torchvision's data set of each part asked for: 'train', 'test'. Collective."""
    compat.prepare_torchvision()
    from torchvision import datasets

    make = getattr(datasets, facts.torchvision_name)
    # every rank comes back from here and then decides the same: an error inside would leave the others waiting
    outcome = distributed.once_per_machine(lambda: _find_or_download(make, facts, config))
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _find_or_download(make: Callable[..., Any], facts: Facts, config: DataConfig) -> dict[str, Any] | UserError:
    root = Path(config.root)
    splits = config.split.split("+")
    try:
        return {split: make(root, train=split == "train", download=False) for split in splits}
    except RuntimeError:  # "Dataset not found or corrupted."
        if not config.download:
            return UserError("data.root", f"no intact {facts.name} under '{root}'", "data.download=true fetches it")
    try:
        return {split: make(root, train=split == "train", download=True) for split in splits}
    except (OSError, RuntimeError) as failure:
        reason = " ".join(str(failure).split())
        return UserError(
            "data.root",
            f"no intact {facts.name} under '{root}', and the download failed ({reason})",
            "check the network, or put the files there",
        )


def _channels_first(images: Any) -> Tensor:
    """(n, C, H, W) uint8 from an array or tensor (n, H, W, C) or (n, H, W)."""
    block = torch.as_tensor(images)
    return block[:, None] if block.ndim == 3 else block.permute(0, 3, 1, 2).contiguous()
