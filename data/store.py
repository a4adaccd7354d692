"""All images of a run as one uint8 block on the device."""

import torch
from torch import Tensor

from data.sources import SOURCES
from data.sources.base import DataConfig, Source
from utils.errors import UserError, did_you_mean

__all__ = ["DataConfig", "Store", "open_source"]


def open_source(config: DataConfig) -> Source:
    """The images that `data` names. Collective: on several ranks one of a machine downloads, the others wait.

    Raises:
        UserError: an unknown name, or images that are not there and cannot be had.
    """
    if config.name not in SOURCES:
        raise UserError("data.name", f"'{config.name}' is unknown{did_you_mean(config.name, SOURCES)}")
    return SOURCES[config.name](config)


class Store:
    """The N images of a source, (N, C, H, W) uint8, on one device; `len(store)` is N."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self.image_shape, self.device = source.image_shape, device
        self._block = source.read().to(device)

    def __len__(self) -> int:
        return len(self._block)

    def images(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) uint8 on the store's device, of `rows` (B,) int64 on any device."""
        return self._block.index_select(0, rows.to(self._block.device, non_blocking=True))

    def shard(self, rank: int, world: int) -> Tensor:
        """int64 rows, on the CPU, of this rank's contiguous block: r N // world up to (r + 1) N // world."""
        return torch.arange(rank * len(self) // world, (rank + 1) * len(self) // world)
