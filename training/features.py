"""Cached features in place of images, for methods that train heads on a frozen encoder."""

import time

from torch import Tensor

from data.store import RowStore
from training.build import Run
from training.embed import map_rows
from utils import distributed
from utils.duration import duration

TELL_SECONDS = 30


class FeatureStore(RowStore):
    """The encoder's output of every clean image, (D,) floating point each, whole on the device of every rank."""

    def __init__(self, features: Tensor) -> None:
        self.n_rows, self.device, self._features = len(features), features.device, features

    def images(self, rows: Tensor) -> Tensor:
        """(B, D) features of `rows` (B,) int64 on any device."""
        return self._features.index_select(0, rows.to(self.device, non_blocking=True))


def feed_features(run: Run) -> str:
    """Encode every row once and let the method be fed with that; its encoder has its final weights. Collective.

    Rows that only train are no part of it. Returns what to tell the user.
    """
    rows = run.store.shard(distributed.rank(), distributed.world())
    started, progress = time.monotonic(), Progress(len(rows))

    def encode(images: Tensor) -> Tensor:
        features = run.method.encode(images)
        progress.add(len(images))
        return features

    own = map_rows(encode, run.method, run.store, run.views, rows, run.settings.optim.precision)  # (n, D)
    features = distributed.gather_rows(own)  # (N, D): any rank may ask for any row
    run.feed.store, run.feed.views = FeatureStore(features), None
    took = duration(time.monotonic() - started)
    return f"features of {len(features):,} images, {features.shape[1]} wide, encoded once in {took}"


class Progress:
    """Tells now and then how far rank 0 has come with its part of the images, and how long it has still to go."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self.started = self.told = time.monotonic()

    def add(self, n_images: int) -> None:
        """Count images that are done; say so where nothing has been said for `TELL_SECONDS`."""
        self.done, now = self.done + n_images, time.monotonic()
        if now - self.told >= TELL_SECONDS and distributed.is_main():
            left = (now - self.started) / self.done * (self.total - self.done)
            print(f"encoded {self.done / self.total:.0%} of the images  left {duration(left)}", flush=True)
            self.told = now
