"""What every image source offers, and the section that chooses one."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from utils.config import Section

Split = Literal["train+test", "train", "test"]


class DataConfig(Section):
    """Which images are clustered."""

    name: str = Field("digits", description="data set: digits, cifar10, fashion_mnist or folder (images, no labels)")
    root: Path = Field(Path("data_files"), description="folder of the images, or where downloads are kept")
    split: Split = Field("train+test", description="which rows: train+test (train first), train or test")
    image_size: int | None = Field(None, ge=4, description="side in pixels of a folder's images once read; null: 96")
    download: bool = Field(True, description="fetch the data set if it is not under data.root")


class Source(ABC):
    """Images by row, and what is known about them.

    name, protocol: words for tables ("train+test, 60,000 rows"). n_rows: N. image_shape: (C, H, W).
    n_classes: None where unknown. mean, std: per channel, of pixels from 0 to 1, to normalise with.
    skipped: files that are no rows, each with the reason.
    """

    name: str
    protocol: str
    n_rows: int
    image_shape: tuple[int, int, int]
    n_classes: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: list[tuple[str, str]]

    @abstractmethod
    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8 on the CPU of `rows` (B,) int64; of all N rows, possibly without a copy, for None."""

    @abstractmethod
    def path(self, row: int) -> str:
        """Where the row comes from: a file name relative to `data.root`, or split and number."""

    @abstractmethod
    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        """(B,) int64 class of `rows` (None: of all), -1 = unknown; None without classes. For `evaluation/` alone."""

    @abstractmethod
    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """Rows of the kNN bank and of its queries, int64; None means each row against all others."""


def describe_rows(words: str, n_rows: int) -> str:
    """'train+test, 60,000 rows'."""
    return f"{words}, {n_rows:,} rows"
