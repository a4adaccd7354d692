"""The images of a run as its folder remembers them: what is known of them is at hand, a look at them opens them."""

from functools import cached_property
from typing import Any

from torch import Tensor

from data.sources.base import DataConfig, Source
from data.store import open_source
from utils.errors import UserError

FACTS = ("name", "protocol", "n_rows", "n_extra", "image_shape", "n_classes", "mean", "std")


def facts_of(source: Source) -> dict[str, Any]:
    """What is known of a source without a look at its images, as plain values."""
    return {name: getattr(source, name) for name in FACTS}


class Remembered(Source):
    """A source by its `facts_of`. Its images need not be there until the first of them is asked for.

    Raises:
        UserError: by every look at an image, its name or its class, where they are not there or are others by now.
    """

    def __init__(self, facts: dict[str, Any], config: DataConfig) -> None:
        self.name, self.protocol, self.n_classes = facts["name"], facts["protocol"], facts["n_classes"]
        self.n_rows, self.n_extra = facts["n_rows"], facts["n_extra"]
        channels, height, width = facts["image_shape"]
        self.image_shape, self.mean, self.std = (channels, height, width), tuple(facts["mean"]), tuple(facts["std"])
        self.skipped, self._config = [], config

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8."""
        return self._source.read(rows)

    def path(self, row: int) -> str:
        """As the source itself names it."""
        return self._source.path(row)

    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        """(B,) int64 or None."""
        return self._source.read_truth(rows)

    def class_names(self) -> tuple[str, ...] | None:
        """As the source itself names them."""
        return self._source.class_names()

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """As the source itself is split."""
        return self._source.knn_split()

    @cached_property
    def _source(self) -> Source:
        try:
            source = open_source(self._config)
        except UserError as error:
            raise UserError(error.place, f"the images of the run are not here: {error.problem}", error.remedy) from None
        for name in ("n_rows", "image_shape"):
            found, known = getattr(source, name), getattr(self, name)
            if found != known:
                problem = f"other images than those of the run: {name} is {found}, was {known}"
                raise UserError("data.root", problem, "put back what the run was trained on")
        return source
