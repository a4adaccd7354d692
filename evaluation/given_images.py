"""What a user gives to look at (files, folders, globs, a list, pictures, a tensor), as squares for a run's network."""

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin
from torch import Tensor

from data.decode import decode_square
from data.decode_all import Fault, each_readable, n_threads
from data.listing import Listing, printable
from data.sources.base import DataConfig
from data.sources.folder import file_reader, list_tree, stamp_or_reason
from data.sources.image_list import list_file
from utils.errors import UserError

Word = str | Path
Given = Word | Image.Image | Sequence[Word] | Sequence[Image.Image] | Tensor | Listing
LIST_ENDINGS = (".csv", ".tsv", ".txt")


class Squares(ABC):
    """n images as (C, H, W) uint8, in the order in which they were given.

    names: of all that were given. skipped: what is no image, by name, with the reason; whole once `blocks` has ended.
    """

    names: list[str]
    skipped: list[tuple[str, str]]

    @abstractmethod
    def blocks(self, length: int) -> Iterator[Tensor]:
        """(length, C, H, W) uint8 of the readable images in turn, the last block perhaps shorter."""

    @abstractmethod
    def kept(self) -> list[int]:
        """The places in `names` of the n images that `blocks` gave."""

    @abstractmethod
    def read(self, places: list[int]) -> Tensor:
        """(B, C, H, W) uint8 of the readable images at these places in `names`."""


class Pixels(Squares):
    """Images that have the network's shape already."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels, self.skipped = pixels, []
        self.names = [f"image {number}" for number in range(len(pixels))]

    def blocks(self, length: int) -> Iterator[Tensor]:
        """Uncopied, on the tensor's own device."""
        return iter(self._pixels.split(length))

    def kept(self) -> list[int]:
        """All."""
        return list(range(len(self._pixels)))

    def read(self, places: list[int]) -> Tensor:
        """Copied."""
        return self._pixels[places]


class Listed(Squares):
    """Encoded images of any sizes, decoded as those of a training set are, with a line of progress; none are kept.

    shape: (C, S, S), C being 1 (grey) or 3. rule: how an image becomes a square (`data.resize`).
    """

    def __init__(self, listing: Listing, shape: tuple[int, int, int], rule: Literal["crop", "squash"]) -> None:
        self._listing, self._shape, self._rule = listing, shape, rule
        self._faults: list[Fault] = []
        self.names, self.skipped = listing.names, list(listing.skipped)

    def blocks(self, length: int) -> Iterator[Tensor]:
        """Decoded now, a few ahead. Raises UserError where not one image can be read."""
        self._faults.clear()
        threads = n_threads(None, alone=True)
        squares = each_readable(self._listing, self._square, threads, self._faults, shown=True)
        while block := list(islice(squares, length)):
            yield torch.from_numpy(np.stack(block))
        self.skipped = [*self._listing.skipped, *((self.names[fault.number], fault.reason) for fault in self._faults)]

    def kept(self) -> list[int]:
        """Those that were not named in `skipped`."""
        faulty = {fault.number for fault in self._faults}
        return [place for place in range(len(self.names)) if place not in faulty]

    def read(self, places: list[int]) -> Tensor:
        """Decoded again."""
        return torch.from_numpy(np.stack([self._square(self._listing.read(place)) for place in places]))

    def _square(self, data: bytes) -> np.ndarray:
        pixels = decode_square(data, self._shape[1], self._rule)  # (S, S, 3)
        if self._shape[0] == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def open_given(images: Given, shape: tuple[int, int, int], rule: Literal["crop", "squash"]) -> Squares:
    """What was given, to be brought to `shape` (C, H, W) by `rule`.

    Raises:
        UserError: nothing is there, or the network does not take squares.
        TypeError: a tensor that is not (B, 1 or 3, H, W) uint8.
    """
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise TypeError(f"{images.dtype} of shape {tuple(images.shape)} is not (B, 1 or 3, H, W) uint8")
        if images.shape[1:] == shape and len(images):
            return Pixels(images)
    if shape[1] != shape[2]:
        problem = f"the images of this run are {shape[1]} x {shape[2]} pixels, and others are brought to squares alone"
        raise UserError("IMAGES", problem, "give a uint8 tensor of that shape to run.predict")
    return Listed(images if isinstance(images, Listing) else list_given(images), shape, rule)


def list_given(images: Given) -> Listing:
    """The images as a listing. A single folder or list names its images as training on it does; more words as given.

    In a folder, what is no image by its name is passed over; a file that is named is looked at whatever its ending.

    Raises:
        UserError: no images, a path that is not there, a glob without a match, or a folder or list without an image.
    """
    if isinstance(images, Listing):
        return images
    if isinstance(images, Tensor):
        arrays = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        images = [Image.fromarray(array[..., 0] if array.shape[2] == 1 else array) for array in arrays]
    given = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    if not given:
        raise UserError("IMAGES", "no images given", "name files, folders, globs or a list of paths")
    pictures = [one for one in given if isinstance(one, Image.Image)]
    if len(pictures) == len(given):
        names = [f"image {number}" for number in range(len(pictures))]
        stamps = torch.zeros(len(pictures), 2, dtype=torch.int64)
        return Listing("the pictures", names, stamps, lambda item: _encoded(pictures[item]), [])
    paths = [path for word in given for path in _matches(str(word))]
    if len(paths) == 1 and _is_list(paths[0]):
        return list_file(DataConfig(name="list", root=paths[0]))
    return _list_folder(paths[0]) if len(paths) == 1 and paths[0].is_dir() else _list_paths(paths)


def root_of(listing: Listing) -> Path:
    """What relative names in a listing made by `list_given` are relative to."""
    where = Path(listing.where)
    if where.is_dir():
        return where
    return where.parent if _is_list(where) else Path()


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in LIST_ENDINGS and path.is_file()


def _matches(word: str) -> list[Path]:
    """The path itself, or those that a glob stands for."""
    if os.path.lexists(word):
        return [Path(word)]
    if not glob.has_magic(word):
        raise UserError(word, "no such file or folder")
    found = sorted(glob.glob(word, recursive=True))
    if not found:
        raise UserError(word, "no file is named like that")
    return [Path(path) for path in found]


def _list_folder(folder: Path) -> Listing:
    try:
        return list_tree(folder)
    except UserError as error:
        raise UserError(str(folder), error.problem, error.remedy) from None


def _list_paths(paths: list[Path]) -> Listing:
    """Files, and the images in folders, by paths as they were given."""
    found: dict[str, tuple[int, int]] = {}
    skipped: list[tuple[str, str]] = []

    def add(name: str, outcome: tuple[int, int] | str) -> None:
        if not isinstance(outcome, str) and name in found:
            outcome = "given again; the first counts"
        if isinstance(outcome, str):
            skipped.append((printable(name), outcome))
        else:
            found[name] = outcome

    for path in paths:
        if path.is_dir():
            listing = _list_folder(path)
            for name, (size, time) in zip(listing.names, listing.stamps.tolist(), strict=True):
                add((path / name).as_posix(), (size, time))
            skipped += [((path / name).as_posix(), reason) for name, reason in listing.skipped]
        else:
            add(path.as_posix(), stamp_or_reason(path, any_ending=True))
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} ... {paths[-1]}"
    if not found:
        raise UserError(where, f"no image in it: {skipped[0][0]} {skipped[0][1]}")
    stamps = torch.tensor(list(found.values()), dtype=torch.int64)  # (N, 2)
    return Listing(where, list(found), stamps, file_reader(Path(), list(found)), skipped)


def _encoded(picture: Image.Image) -> bytes:
    """A picture without loss as the bytes of a file: what is done to files is then done to it."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    elif picture.mode not in TiffImagePlugin.SAVE_INFO:
        picture = picture.convert("RGB")
    file = BytesIO()
    picture.save(file, "TIFF", compression="raw")
    return file.getvalue()
