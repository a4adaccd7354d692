"""A folder of photographs, of any sizes and in any subfolders, without labels."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from data.sources.base import DataConfig, Source, describe_rows
from utils import distributed
from utils.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEFAULT_SIZE = 96
READING_THREADS = 16


class Folder(Source):
    """All readable images under a folder in the order of their paths, each brought to a square.

    The short side is brought to `data.image_size` and the middle kept. A file that is no image, or cannot be decoded,
    is no row; `skipped` names it.

    Raises:
        UserError: no such folder, no image file in it, or none that can be read.
    """

    name = "folder"
    n_classes = None
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, customary for photographs

    def __init__(self, config: DataConfig) -> None:
        if config.split != "train+test":
            raise UserError("data.split", f"a folder has no {config.split} part", "leave it at train+test")
        root, size = Path(config.root), config.image_size or DEFAULT_SIZE
        files, self.skipped = _list_files(root)
        self._images, unreadable = _read_all(root, files, size)
        self.skipped += unreadable
        left_out = {path for path, _ in unreadable}
        self._paths = [path for path in files if path not in left_out]
        if not self._paths:
            raise UserError(
                str(root), f"none of its {len(files)} image files can be read ({': '.join(unreadable[0])}, ...)"
            )
        self.n_rows = len(self._paths)
        self.image_shape = (3, size, size)
        self.protocol = describe_rows(f"all images of the folder at {size} px", self.n_rows)

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8."""
        return self._images if rows is None else self._images[rows]

    def path(self, row: int) -> str:
        """The file, relative to `data.root`, with forward slashes."""
        return self._paths[row]

    def read_truth(self, rows: Tensor | None = None) -> None:
        """None: a folder has no labels."""
        return None

    def knn_split(self) -> None:
        """None: a folder has no split."""
        return None


def decode(file: Path, size: int) -> np.ndarray:
    """(size, size, 3) uint8: the image upright, on white where transparent, its short side resized, its middle kept.

    Raises whatever Pillow raises for a damaged file.
    """
    with Image.open(file) as opened:
        opened.draft("RGB", (size, size))  # a large JPEG is decoded at a half, a quarter or an eighth
        image = _to_rgb(ImageOps.exif_transpose(opened))
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(square)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _list_files(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Sorted paths of the image files relative to `root`, and what else lies there with the reason it is left out."""
    if not root.is_dir():
        raise UserError(
            "data.root",
            f"'{root}' is {'not a folder' if root.exists() else 'not there'}",
            "give the folder that holds the images",
        )
    files, skipped = [], []
    for folder, subfolders, names in os.walk(root):
        for name in (*subfolders, *names):
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if name in names and path.suffix.lower() in SUFFIXES:
                files.append(relative)
            elif name in names:
                skipped.append((relative, f"not an image by its name ({path.suffix or 'no ending'})"))
            elif path.is_symlink():
                skipped.append((relative, "a link to a folder is not followed"))
    if not files:
        raise UserError("data.root", f"no image under '{root}'", f"known endings: {' '.join(SUFFIXES)}")
    return sorted(files), sorted(skipped)


def _read_all(root: Path, files: list[str], size: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """(n, 3, size, size) uint8 of the readable files, in order, and the others with the reason."""
    block = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    unreadable = []
    for number, outcome in enumerate(_decode_all(root, files, size)):
        if isinstance(outcome, str):
            unreadable.append((files[number], outcome))
        else:
            # rows move up over the unreadable ones
            block[number - len(unreadable)] = torch.from_numpy(outcome.copy()).permute(2, 0, 1)
    return block[: len(files) - len(unreadable)], unreadable


def _decode_all(root: Path, files: list[str], size: int) -> Iterator[np.ndarray | str]:
    """Each file's pixels, or the reason why there are none, in order; a progress line after two seconds."""

    def attempt(relative: str) -> np.ndarray | str:
        try:
            return decode(root / relative, size)
        except Exception as failure:  # a damaged file may make a decoder raise anything; it is named, not hidden
            if (root / relative).is_file() and (root / relative).stat().st_size == 0:
                return "the file is empty"
            return " ".join(str(failure).replace(repr(str(root / relative)), "it").split()) or type(failure).__name__

    refresh_seconds = 0.2 if sys.stderr.isatty() else 30
    with ThreadPoolExecutor(min(READING_THREADS, os.cpu_count() or 1)) as pool:
        outcomes = pool.map(attempt, files)
        yield from tqdm(
            outcomes,
            desc=f"reading {root}",
            total=len(files),
            unit=" images",
            delay=2,
            mininterval=refresh_seconds,
            disable=not distributed.is_main(),
        )
