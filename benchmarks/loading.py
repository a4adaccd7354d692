"""How fast images come out of every way to keep them.

    python benchmarks/loading.py --images FOLDER --size 96

Images per second of wall-clock time: decoding a folder into a new cache, then one epoch of shuffled batches of 256
from the cache (its rows copied, or the mapped file used as it is), from memory, and streamed: as squares, and as two
crops of each original. With one thread and with all cores; with Pillow alone and, where it is installed, with
simplejpeg. All files have been read before, so that nothing waits for the disk. Medians of the repeats.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from data import decode
from data.sources.base import Cut, DataConfig
from data.store import Store, open_source

BATCH = 256
BAR = 5  # loading an epoch from the cache against decoding it
CPU = torch.device("cpu")


class Rate(NamedTuple):
    """Images per second of one way; `decoder` and `threads` where something is decoded."""

    way: str
    decoder: str
    threads: int
    images_per_second: float


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="photographs, in any subfolders")
    parser.add_argument("--size", type=int, default=96, help="side of squares and crops (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each measurement (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        base = DataConfig(name="folder", root=options.images, image_size=options.size, cache=Path(folder, "first"))
        n_images = open_source(base).n_rows
        print(f"{n_images} images of {options.images} at {options.size} px; {n_cores()} cores")
        rates = measure(base, options.repeats)
    print("\n| way | decoder | threads | images/s |\n|---|---|---|---|")
    for rate in rates:
        print(f"| {rate.way} | {rate.decoder} | {rate.threads} | {rate.images_per_second:,.0f} |")
    decoding = max(rate.images_per_second for rate in rates if rate.way == "streamed, squares")
    cached = next(rate.images_per_second for rate in rates if rate.way == "cached, rows copied")
    print(
        f"\nan epoch from the cache loads {cached / decoding:.1f} times faster than decoding at its best (bar: {BAR})"
    )
    return 0


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def measure(base: DataConfig, repeats: int) -> list[Rate]:
    """All ways, `base.root` having been decoded into `base.cache` before."""
    rates, installed = [], decode.simplejpeg
    for decoder in ("Pillow", "simplejpeg") if installed else ("Pillow",):
        decode.simplejpeg = installed if decoder == "simplejpeg" else None
        for threads in sorted({1, n_cores()}):
            ways = {
                "decoded into a cache": partial(decode_all, base, threads),
                "streamed, squares": partial(epoch, opened(base, "stream", threads=threads)),
                "streamed, two crops": partial(
                    epoch_of_crops, opened(base, "stream", threads=threads), base.image_size
                ),
            }
            rates += [Rate(way, decoder, threads, speed(work, repeats)) for way, work in ways.items()]
    decode.simplejpeg = installed
    kept = {
        "cached, rows copied": opened(base, "cache", memory_gib=0.0),
        "cached, resident": opened(base, "cache"),
        "in memory": opened(base, "memory"),
    }
    return rates + [Rate(way, "-", 1, speed(partial(epoch, store), 5 * repeats)) for way, store in kept.items()]


def opened(base: DataConfig, way: str, threads: int | None = None, memory_gib: float = 4.0) -> Store:
    """The images kept in one way."""
    config = base.model_copy(update={"store": way, "workers": threads, "memory_gib": memory_gib})
    return Store(open_source(config), CPU, config)


def decode_all(base: DataConfig, threads: int) -> int:
    """Number of images decoded into a cache that is new."""
    with tempfile.TemporaryDirectory(dir=base.cache.parent) as folder:
        return open_source(base.model_copy(update={"cache": Path(folder), "workers": threads})).n_rows


def epoch(store: Store) -> int:
    """Number of rows, each loaded once, shuffled."""
    for rows in shuffled(store):
        store.images(rows)
    return store.n_rows


def epoch_of_crops(store: Store, size: int) -> int:
    """As `epoch`, two crops of 0.7 of the sides of each original."""
    for rows in shuffled(store):
        sizes = store.sizes(rows)
        boxes = torch.cat([sizes // 7, (sizes * 0.7).long()], dim=1)  # (B, 4)
        store.crops(rows, [Cut(boxes, torch.full((len(rows),), flip), size) for flip in (False, True)])
    return store.n_rows


def shuffled(store: Store) -> tuple[Tensor, ...]:
    """Batches of rows."""
    return torch.randperm(store.n_rows, generator=torch.Generator().manual_seed(0)).split(BATCH)


def speed(work: Callable[[], int], repeats: int) -> float:
    """Images per second, the median of the repeats, where `work` gives the number of its images."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - started))
    return statistics.median(rates)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
