"""The pixels of a listing: decoded once, into memory or a file mapped into it, or each time they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from data.decode import decode_crops, decode_square, probe
from data.decode_all import Fault, attempt, each_readable, n_threads
from data.listing import Listing
from data.pixel_cache import GIB, CachedArray, CacheError, tell
from utils import distributed
from utils.errors import UserError

if TYPE_CHECKING:  # data.sources is built on this file
    from data.sources.base import Cut, DataConfig

T = TypeVar("T")


class Pixels(ABC):
    """Squares of the readable images of a listing, by row.

    kept: (n,) int64, the item of the listing that each row is, in order. skipped: names of the others, each with the
    reason. streams: images are decoded each time they are asked for; then `sizes` (n, 2) int64, height and width of
    the originals, and `crops` exist.
    """

    streams: bool = False
    sizes: Tensor

    def __init__(self, listing: Listing, faults: list[Fault]) -> None:
        is_row = torch.ones(len(listing), dtype=torch.bool)
        is_row[[fault.number for fault in faults]] = False
        self.kept = is_row.nonzero().flatten()
        self.skipped = [(listing.names[fault.number], fault.reason) for fault in faults]

    @abstractmethod
    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) uint8 on the CPU of `rows` (B,) int64; None: of all, uncopied where they lie decoded."""

    def crops(self, rows: Tensor, cuts: "list[Cut]") -> list[Tensor]:
        """One (B, 3, side, side) uint8 for each of `cuts`, from the originals of `rows` (B,). Streams only."""
        raise TypeError("only streamed images are cut from their originals")


class Decoded(Pixels):
    """All squares in one block (n, 3, S, S) uint8, in memory or mapped from a file, then not to be written to.

    What is cut from them in training is cut from the squares, not from the originals.
    """

    def __init__(self, listing: Listing, faults: list[Fault], block: Tensor) -> None:
        super().__init__(listing, faults)
        self._block = block

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Copies of the rows asked for alone."""
        return self._block if rows is None else self._block.index_select(0, rows)


class Streamed(Pixels):
    """Images decoded by several threads each time they are asked for, from files that may be larger than memory.

    Squares equal those that are decoded once. Crops are cut from the full originals, not from the squares.
    """

    streams = True

    def __init__(
        self,
        listing: Listing,
        faults: list[Fault],
        sizes: Tensor,
        size: int,
        rule: Literal["crop", "squash"],
        threads: int,
    ) -> None:
        super().__init__(listing, faults)
        self.sizes, self._size, self._rule, self._listing = sizes, size, rule, listing
        self._pool = ThreadPoolExecutor(threads)

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Decoded now."""
        items = self.kept if rows is None else self.kept[rows]
        block = np.empty((len(items), 3, self._size, self._size), dtype=np.uint8)

        def fill(place: int, item: int) -> None:
            block[place] = self._make(item, lambda data: decode_square(data, self._size, self._rule)).transpose(2, 0, 1)

        list(self._pool.map(fill, range(len(items)), items.tolist()))
        return torch.from_numpy(block)

    def crops(self, rows: Tensor, cuts: "list[Cut]") -> list[Tensor]:
        """Decoded now, each original once for all cuts."""
        blocks = [np.empty((len(rows), 3, cut.side, cut.side), dtype=np.uint8) for cut in cuts]
        boxes = [[tuple(box) for box in cut.boxes.tolist()] for cut in cuts]
        flipped = [cut.flipped.tolist() for cut in cuts]

        def fill(place: int, item: int) -> None:
            wanted = [(box[place], flip[place], cut.side) for box, flip, cut in zip(boxes, flipped, cuts, strict=True)]
            for block, crop in zip(blocks, self._make(item, lambda data: decode_crops(data, wanted)), strict=True):
                block[place] = crop.transpose(2, 0, 1)

        list(self._pool.map(fill, range(len(rows)), self.kept[rows].tolist()))
        return [torch.from_numpy(block) for block in blocks]

    def _make(self, item: int, make: Callable[[bytes], T]) -> T:
        made = attempt(self._listing, item, make)
        if isinstance(made, Fault):
            name, changed = self._listing.names[item], "the images have changed since the start: start again"
            raise UserError(self._listing.where, f"{name}: {made.reason}", changed)
        return made


def open_pixels(listing: Listing, config: "DataConfig", size: int) -> Pixels:
    """The images of `listing` as squares of `size` pixels, kept as `data.store` says.

    auto: a file of at most `data.cache_gib` in `data.cache`; larger sets are streamed. Where that folder is of no use,
    sets up to `data.memory_gib` are decoded into memory, larger ones streamed.

    Raises:
        UserError: no image can be read; or data.store=cache, and the cache cannot be written.
    """
    n_bytes = len(listing) * 3 * size * size
    if config.store == "memory":
        return _in_memory(listing, config, size)
    if config.store == "stream" or (config.store == "auto" and n_bytes > config.cache_gib * GIB):
        return _streamed(listing, config, size)
    try:
        return _cached(listing, config, size)
    except CacheError as fault:
        if config.store == "cache":
            remedy = "set data.cache to another folder, or data.store=stream to keep nothing"
            raise UserError("data.cache", str(fault), remedy) from None
        small = n_bytes <= config.memory_gib * GIB
        _tell_once(f"data.cache: {fault}; images are {'decoded into memory' if small else 'decoded each time'} instead")
        return (_in_memory if small else _streamed)(listing, config, size)


def _cached(listing: Listing, config: "DataConfig", size: int) -> Pixels:
    kind = f"{config.name}-{size}px-{config.resize}"
    array = CachedArray(config.cache, kind, config.split, listing, (3, size, size), np.uint8)
    block, faults = array.open(lambda faults: _squares(listing, config, size, faults, alone=True))
    return Decoded(listing, faults, block)


def _in_memory(listing: Listing, config: "DataConfig", size: int) -> Pixels:
    faults: list[Fault] = []
    try:
        block = torch.empty((len(listing), 3, size, size), dtype=torch.uint8)
    except RuntimeError:
        gib = len(listing) * 3 * size * size / GIB
        raise UserError("data.store", f"there are no {gib:.1f} GiB of memory", "data.store=cache uses a file") from None
    for row, square in enumerate(_squares(listing, config, size, faults, alone=False)):
        block[row] = torch.from_numpy(square)
    return Decoded(listing, faults, block[: len(listing) - len(faults)])


def _streamed(listing: Listing, config: "DataConfig", size: int) -> Pixels:
    """Every image is decoded once to know that it can be; the sizes found are kept in the cache folder if possible."""

    def probe_all(faults: list[Fault], *, alone: bool) -> Iterator[np.ndarray]:
        return _each(listing, config, lambda data: np.array(probe(data), dtype=np.int64), faults, alone=alone)

    array = CachedArray(config.cache, f"{config.name}-sizes", config.split, listing, (2,), np.int64)
    try:
        sizes, faults = array.open(lambda faults: probe_all(faults, alone=True))
    except CacheError as fault:
        _tell_once(f"data.cache: {fault}; all images are looked at again at each start")
        faults = []
        sizes = torch.from_numpy(np.stack(list(probe_all(faults, alone=False))))
    return Streamed(listing, faults, sizes, size, config.resize, n_threads(config.workers, alone=False))


def _squares(
    listing: Listing, config: "DataConfig", size: int, faults: list[Fault], *, alone: bool
) -> Iterator[np.ndarray]:
    """(3, size, size) uint8 of each readable image."""

    def square(data: bytes) -> np.ndarray:
        return np.ascontiguousarray(decode_square(data, size, config.resize).transpose(2, 0, 1))

    return _each(listing, config, square, faults, alone=alone)


def _each(
    listing: Listing, config: "DataConfig", make: Callable[[bytes], np.ndarray], faults: list[Fault], *, alone: bool
) -> Iterator[np.ndarray]:
    """`make` of each readable image; `alone`: the other ranks of the machine wait for this one."""
    threads = n_threads(config.workers, alone=alone)
    return each_readable(listing, make, threads, faults, shown=alone or distributed.is_main())


def _tell_once(line: str) -> None:
    """What all ranks find alike is said by one."""
    if distributed.is_main():
        tell(line)
