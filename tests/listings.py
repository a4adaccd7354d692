"""A made folder of images, listed without a data set, kept in every way, and a record of what was read of it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.decode import decode_square
from data.listing import Listing
from data.pixels import Pixels, open_pixels
from data.sources.base import DataConfig

SIZE = 11  # of the squares


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture: what a resize or JPEG changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def fill(folder: Path, n_images: int = 5) -> None:
    """Images 0.png, 1.jpg, 2.png, ... of different shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n_images):
        picture(37 + 3 * number, 53 - 2 * number, number).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")


def listing_of(folder: Path, record: Path | None = None) -> Listing:
    """The files of `folder` in the order of their names; each reading adds a line to `record`."""
    names = sorted(os.listdir(folder))

    def read(number: int) -> bytes:
        if record:
            with record.open("a") as file:
                file.write(f"{names[number]}\n")
        return (folder / names[number]).read_bytes()

    stats = [(folder / name).stat() for name in names]
    stamps = torch.tensor([(stat.st_size, stat.st_mtime_ns) for stat in stats], dtype=torch.int64).view(-1, 2)
    return Listing(str(folder), names, stamps, read, [])


def make_images(folder: Path) -> Path:
    """Five images and, between them, an empty file and one that is no image."""
    fill(folder)
    (folder / "1a.jpg").write_bytes(b"")
    (folder / "3a.png").write_bytes(b"no image")
    return folder


def config_for(cache: Path, store: str = "cache", **words: Any) -> DataConfig:
    return DataConfig.model_validate({"name": "folder", "cache": cache, "store": store, "workers": 2, **words})


def opened(images: Path, store: str = "cache", record: Path | None = None, **words: Any) -> Pixels:
    return open_pixels(listing_of(images, record), config_for(images.parent / "cache", store, **words), SIZE)


def expected(images: Path, rule: Any = "crop") -> torch.Tensor:
    """(n, 3, S, S) of the intact images, decoded one by one."""
    names = [name for name in sorted(os.listdir(images)) if len(name) == 5]
    squares = [decode_square((images / name).read_bytes(), SIZE, rule) for name in names]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def files(cache: Path, ending: str) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name.endswith(ending))
