"""The images of a run by row, on the device: from one block that lies there, or fetched as they are asked for."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from data.sources import SOURCES
from data.sources.base import GIB, Cut, DataConfig, Source
from utils.errors import UserError, did_you_mean

__all__ = ["DataConfig", "RowStore", "Store", "open_source"]


def open_source(config: DataConfig) -> Source:
    """The images that `data` names. One process of a machine downloads or decodes, the others wait at its lock.

    Raises:
        UserError: an unknown name, or images that are not there and cannot be had.
    """
    if config.name not in SOURCES:
        raise UserError("data.name", f"'{config.name}' is unknown{did_you_mean(config.name, SOURCES)}")
    return SOURCES[config.name](config)


class RowStore(ABC):
    """What a network is fed with, by row, on one device: the images of a source (`Store`), or features of them.

    n_rows: N, the rows that are clustered. resident: all rows lie on the device, in one block; else a consumer does
    well to have them fetched ahead (`data.loader.ahead`). streams: as in `Source`; then `sizes` and `crops` exist.
    """

    n_rows: int
    device: torch.device
    resident: bool = True
    streams: bool = False

    @abstractmethod
    def images(self, rows: Tensor) -> Tensor:
        """(B, ...) on the store's device, of `rows` (B,) int64 on any device."""

    def sizes(self, rows: Tensor) -> Tensor:
        """(B, 2) int64 on the CPU, height and width of the originals of `rows`. Streams only."""
        raise TypeError("not streamed")

    def crops(self, rows: Tensor, cuts: list[Cut]) -> list[Tensor]:
        """One (B, C, side, side) uint8 for each of `cuts`, on the store's device, from the originals. Streams only."""
        raise TypeError("not streamed")

    def shard(self, rank: int, world: int) -> Tensor:
        """int64 rows, on the CPU, of this rank's contiguous block: r N // world up to (r + 1) N // world."""
        return torch.arange(rank * self.n_rows // world, (rank + 1) * self.n_rows // world)


class Store(RowStore):
    """The images of a source on one device, (C, H, W) uint8 each; `len(store)` counts those that only train, too.

    They are resident up to `data.memory_gib`, on a GPU if they also take at most half of its free memory; else rows are
    fetched from the source one batch at a time.
    """

    def __init__(self, source: Source, device: torch.device, config: DataConfig) -> None:
        self.n_rows, self.device, self.streams = source.n_rows, device, source.streams
        self._source, self._n_images = source, source.n_rows + source.n_extra
        n_bytes = self._n_images * math.prod(source.image_shape)
        self.resident = not source.streams and n_bytes <= min(config.memory_gib * GIB, _room(device))
        self._block = source.read().to(device) if self.resident else None

    def __len__(self) -> int:
        return self._n_images

    def images(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) uint8 on the store's device, of `rows` (B,) int64 on any device."""
        if self._block is not None:
            return self._block.index_select(0, rows.to(self.device, non_blocking=True))
        return self._send(self._source.read(rows.cpu()))

    def sizes(self, rows: Tensor) -> Tensor:
        """(B, 2) int64 on the CPU, height and width of the originals of `rows`."""
        return self._source.sizes(rows.cpu())

    def crops(self, rows: Tensor, cuts: list[Cut]) -> list[Tensor]:
        """One (B, C, side, side) uint8 for each of `cuts`, on the store's device, from the originals."""
        return [self._send(crop) for crop in self._source.crops(rows.cpu(), cuts)]

    def _send(self, images: Tensor) -> Tensor:
        """To the device; to a GPU through pinned memory, so that neither side waits for the copy."""
        if self.device.type != "cuda":
            return images.to(self.device)
        return images.pin_memory().to(self.device, non_blocking=True)


def _room(device: torch.device) -> float:
    """Bytes on the device that images may take."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else math.inf
