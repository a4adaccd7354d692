"""Cached features in place of images, for methods that train heads on a frozen encoder."""

import time

import torch
from torch import Tensor

from data.store import Store
from data.views import Views
from training.build import Run
from training.embed import map_rows
from utils import distributed
from utils.draws import Draws


class FeatureStore(Store):
    """The encoder's output of every clean image, (D,) floating point each, whole on the device of every rank."""

    def __init__(self, features: Tensor) -> None:
        self.image_shape, self.n_rows, self.device = tuple(features.shape[1:]), len(features), features.device  # type: ignore[assignment]
        self.streams, self.resident = False, True
        self._block, self._n_images = features, len(features)


class NoViews(Views):
    """Features as they are: one view, never changed."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self.image_shape, self.dtype, self.n_all = (width,), dtype, 1  # type: ignore[assignment]

    def __call__(self, images: Tensor, draws: Draws) -> list[Tensor]:
        """[(B, D)] the features."""
        return [images]

    def partner(self, images: Tensor, draws: Draws, place: int) -> Tensor:
        """(B, D) the features of other images that join the batch."""
        return images

    def clean(self, images: Tensor) -> Tensor:
        """(B, D) the features."""
        return images


def feed_features(run: Run) -> str:
    """Encode every row once and let the method be fed with that; its encoder has its final weights. Collective.

    Rows that only train are no part of it. Returns what to tell the user.
    """
    started, rows = time.monotonic(), run.store.shard(distributed.rank(), distributed.world())
    own = map_rows(run.method.encode, run.method, run.store, run.views, rows, run.settings.optim.precision)
    features = distributed.gather_rows(own)  # (N, D): any rank may ask for any row
    run.feed.store, run.feed.views = FeatureStore(features), NoViews(features.shape[1], features.dtype)
    took = time.monotonic() - started
    return f"features of {len(features):,} images, {features.shape[1]} wide, encoded once in {took:.1f} s"
