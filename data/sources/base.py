"""What every image source offers, and the section that chooses one."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from utils.config import Section

Split = Literal["train+test", "train", "test", "unlabelled", "train+unlabelled", "train+test+unlabelled"]
GIB = 2**30


class DataConfig(Section):
    """Which images are clustered, and how their pixels are kept."""

    name: str = Field(
        "digits", description="data set, or folder, list or shards for own images; main.py list names all"
    )
    root: Path = Field(
        Path("data_files"), description="the images: their folder, list or tar shards; or where downloads are kept"
    )
    split: Split = Field(
        "train+test",
        description="which rows: train+test (train first), train, test; unlabelled ones (STL-10) only train",
    )
    truth: str = Field(
        "none", description="own images' classes, to score by alone: none, folders or a CSV (path,label)"
    )
    image_size: int | None = Field(
        None, ge=4, description="side in pixels of encoded images once read; null: 96, tiny_imagenet 64, imagenet 224"
    )
    resize: Literal["crop", "squash"] = Field(
        "crop", description="to a square: crop keeps the middle of the longer side, squash bends the picture"
    )
    download: bool = Field(True, description="fetch the data set if it is not under data.root")
    store: Literal["auto", "memory", "cache", "stream"] = Field(
        "auto",
        description="where pixels lie: auto, memory, cache (decoded once, on disk) or stream (decoded each time)",
    )
    cache: Path = Field(Path("data_files/cache"), description="folder of decoded images")
    cache_gib: float = Field(50.0, gt=0, description="auto: larger caches are not made, the images are streamed")
    memory_gib: float = Field(
        4.0, ge=0, description="auto: sets up to this lie whole in memory, on the GPU if it has room"
    )
    workers: int | None = Field(
        None, ge=1, description="decoding threads of a rank; null: cores / ranks of the machine"
    )


class Cut(NamedTuple):
    """What is cut from each of B originals: boxes (B, 4) int64 top, left, height, width in pixels; mirrored where
    `flipped` (B,) bool; brought to a square of `side` pixels. On the CPU.
    """

    boxes: Tensor
    flipped: Tensor
    side: int


class Source(ABC):
    """Images by row, and what is known about them.

    name, protocol: words for tables ("train+test, 60,000 rows"). n_rows: N, the rows that are clustered and scored.
    n_extra: rows after those, for training alone. image_shape: (C, H, W). n_classes: None where unknown.
    mean, std: per channel, of pixels from 0 to 1, to normalise with. skipped: files that are no rows, each with the
    reason. streams: rows are decoded each time they are asked for; then `sizes` and `crops` exist.
    """

    name: str
    protocol: str
    n_rows: int
    n_extra: int = 0
    image_shape: tuple[int, int, int]
    n_classes: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: list[tuple[str, str]]
    streams: bool = False

    @abstractmethod
    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8 on the CPU of `rows` (B,) int64; None: of all, extra ones too, possibly uncopied."""

    @abstractmethod
    def path(self, row: int) -> str:
        """Where the row comes from: a file name relative to `data.root`, or split and number."""

    @abstractmethod
    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        """(B,) int64 class of `rows` (None: of all), -1 = unknown; None without classes. For `evaluation/` alone."""

    def class_names(self) -> tuple[str, ...] | None:
        """The name of each class by its number; None where they have numbers alone. For `evaluation/` alone."""
        return None

    @abstractmethod
    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """Rows of the kNN bank and of its queries, int64; None means each row against all others."""

    def sizes(self, rows: Tensor) -> Tensor:
        """(B, 2) int64 height and width of the originals of `rows` (B,). Streams only."""
        raise TypeError(f"{self.name} is not streamed")

    def crops(self, rows: Tensor, cuts: list[Cut]) -> list[Tensor]:
        """One (B, C, side, side) uint8 for each of `cuts`, from the originals of `rows` (B,). Streams only.

        An original is decoded once for all cuts. Bilinear with antialias.
        """
        raise TypeError(f"{self.name} is not streamed")


def describe_rows(words: str, n_rows: int) -> str:
    """'train+test, 60,000 rows'."""
    return f"{words}, {n_rows:,} rows"
