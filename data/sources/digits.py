"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with the library."""

import torch
from torch import Tensor

from data.sources.arrays import parts_of
from data.sources.base import DataConfig, Source, describe_rows

QUERY_EVERY = 5  # one set without a published split: rows i mod 5 = 0 are the test rows, the rest train


class Digits(Source):
    """The digits, (1, 8, 8), pixel values 0 to 16 spread over uint8."""

    name = "digits"
    n_classes = 10
    image_shape = (1, 8, 8)
    mean, std = (0.305260,), (0.376049,)  # of pixel / 16 over all rows

    def __init__(self, config: DataConfig) -> None:
        from sklearn.datasets import load_digits

        parts_of(self.name, config.split)
        digits = load_digits()
        every = torch.arange(len(digits.images))
        is_test = every % QUERY_EVERY == 0
        rows = {"train+test": every, "train": every[~is_test], "test": every[is_test]}[config.split]
        pixels = torch.from_numpy(digits.images)[rows, None]  # (N, 1, 8, 8) 0 to 16
        self._images = (pixels * 255 / 16).round().to(torch.uint8)
        self._truth = torch.from_numpy(digits.target).long()[rows]
        self._rows, self._is_test = rows, is_test[rows]
        self.n_rows = len(rows)
        self.protocol = describe_rows(config.split, self.n_rows)
        self.skipped = []

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, 1, 8, 8) uint8."""
        return self._images if rows is None else self._images[rows]

    def path(self, row: int) -> str:
        """The number of the image in scikit-learn's file."""
        return f"digits/{int(self._rows[row]):04d}"

    def read_truth(self, rows: Tensor | None = None) -> Tensor:
        """(B,) int64, the digit."""
        return self._truth if rows is None else self._truth[rows]

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """Train rows against test rows where both are loaded."""
        if self._is_test.all() or not self._is_test.any():
            return None
        return (~self._is_test).nonzero().flatten(), self._is_test.nonzero().flatten()
