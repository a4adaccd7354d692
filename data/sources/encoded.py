"""Images that lie encoded somewhere, as a source: photographs of any sizes, brought to squares."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.listing import Listing
from data.pixels import open_pixels
from data.sources.base import Cut, DataConfig, Source, describe_rows
from utils.errors import UserError

DEFAULT_SIZE = 96


class EncodedImages(Source):
    """The readable images of a listing, in its order, as (3, S, S); S is `data.image_size`, else `default_size`.

    words: what they are, for the protocol. n_train: so many items of the listing, from its first, are the published
    train part, the others the test part; None: there are no parts. Classes are numbered in the order of their names.

    Raises:
        UserError: no image can be read, or the cache that is asked for cannot be written.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, customary for photographs

    def __init__(
        self,
        name: str,
        listing: Listing,
        config: DataConfig,
        *,
        words: str = "all images",
        default_size: int = DEFAULT_SIZE,
        n_train: int | None = None,
    ) -> None:
        size = config.image_size or default_size
        self._pixels = pixels = open_pixels(listing, config, size)
        self._names, self._truth, self.n_classes, self._class_names = listing.names, None, None, None
        if listing.labels is not None:
            classes = tuple(sorted({label for label in listing.labels if label}))
            numbers = {label: number for number, label in enumerate(classes)}
            truth = [numbers[label] if label else -1 for label in listing.labels]
            self._truth, self.n_classes, self._class_names = torch.tensor(truth)[pixels.kept], len(classes), classes
        self._is_train = None if n_train is None else pixels.kept < n_train
        self.name, self.n_rows, self.image_shape = name, len(pixels.kept), (3, size, size)
        squashed = ", squashed" if config.resize == "squash" else ""
        self.protocol = describe_rows(f"{words} at {size} px{squashed}", self.n_rows)
        self.skipped, self.streams = [*listing.skipped, *pixels.skipped], pixels.streams

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) uint8; of all images it may be a file mapped into memory, not to be written to."""
        return self._pixels.read(rows)

    def path(self, row: int) -> str:
        """The name in the listing: a file relative to `data.root`, with forward slashes."""
        return self._names[int(self._pixels.kept[row])]

    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        """(B,) int64, -1 where the class is unknown; None if classes are neither published nor asked for."""
        return self._truth if rows is None or self._truth is None else self._truth[rows]

    def class_names(self) -> tuple[str, ...] | None:
        """The labels as folders or the CSV have them, in sorted order; None without classes."""
        return self._class_names

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """Train rows against test rows where there are both."""
        if self._is_train is None or self._is_train.all() or not self._is_train.any():
            return None
        return self._is_train.nonzero().flatten(), (~self._is_train).nonzero().flatten()

    def sizes(self, rows: Tensor) -> Tensor:
        """(B, 2) int64 height and width of the originals."""
        return self._pixels.sizes[rows] if self.streams else super().sizes(rows)

    def crops(self, rows: Tensor, cuts: list[Cut]) -> list[Tensor]:
        """(B, 3, side, side) uint8 for each cut, from the full originals."""
        return self._pixels.crops(rows, cuts)


def own_images(name: str, list_images: Callable[[DataConfig], Listing], config: DataConfig) -> EncodedImages:
    """A user's own images, which have no parts, as `list_images` finds them under `data.root`."""
    if config.split != "train+test":
        raise UserError("data.split", f"own images have no {config.split} part", "leave it at train+test")
    return EncodedImages(name, list_images(config), config, words=f"all images of the {name}")
