"""Features for linear classifiers, batch by batch: encoded once and kept by their ranks, or anew from views."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from data.loader import ahead
from data.sampler import Sampler, part
from evaluation.linear_subject import Subject
from evaluation.progress import Progress
from training.embed import map_rows
from training.feed import MADE_AHEAD, views_of
from training.step import autocast
from utils import distributed
from utils.draws import Draws

Read = Callable[[Tensor], Tensor]
Batches = Iterator[tuple[Tensor, Tensor]]  # features (B, W) and classes (B,) of this rank's rows of each global batch


def encode_rows(subject: Subject, read: Read, rows: Tensor, precision: str, what: str) -> tuple[Tensor, Tensor]:
    """Features (n, W) of this rank's contiguous part of `rows`, from clean images, and their classes (n,)."""
    rank, world = distributed.rank(), distributed.world()
    own = rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
    progress = Progress(f"encoding {what} images", len(own))

    def tell(images: Tensor) -> Tensor:
        progress.add(len(images))
        return read(images)

    features = map_rows(tell, subject.encoder, subject.store, subject.views, own, precision)
    return features, subject.rows.truth[own].to(features.device)


class Cached:
    """Features of clean images, each kept by the rank that encoded it: a rank has those rows of a batch that it holds.

    steps_per_epoch: of global batches; rows left over at an epoch's end are dropped.
    """

    def __init__(self, features: Tensor, classes: Tensor, sampler: Sampler) -> None:
        self._features, self._classes, self._sampler = features, classes, sampler
        self.steps_per_epoch = sampler.steps_per_epoch
        rank, world = distributed.rank(), distributed.world()
        self._first = rank * sampler.n_rows // world

    def epoch(self, number: int) -> Batches:
        """The batches of an epoch, counted from 0."""
        for places in self._sampler.epoch(number):
            own = places - self._first
            if distributed.world() > 1:
                own = own[(own >= 0) & (own < len(self._features))]
            own = own.to(self._features.device)
            yield self._features[own], self._classes[own]


class Online:
    """Features of random views, encoded as they are asked for: a rank has an equal part of each batch."""

    def __init__(self, subject: Subject, read: Read, sampler: Sampler, precision: str, seed: int) -> None:
        self._subject, self._read, self._sampler = subject, read, sampler
        self._precision, self._seed = precision, seed
        self.steps_per_epoch = sampler.steps_per_epoch

    def epoch(self, number: int) -> Batches:
        """The batches of an epoch, counted from 0."""
        for images, classes in view_batches(self._subject, self._sampler, number, self._seed):
            with torch.no_grad(), autocast(self._precision, images.device):
                features = self._read(images)
            yield features if features.dtype == torch.float64 else features.float(), classes


def view_batches(subject: Subject, sampler: Sampler, epoch: int, seed: int) -> Batches:
    """This rank's views (B, C, H, W) of each global batch of an epoch, with their classes."""
    store, rows, truth = subject.store, subject.rows.fitted, subject.rows.truth

    def make(job: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
        step, places = job
        own, start = part(places, 0, 1, distributed.rank(), distributed.world())
        draws = Draws(seed, epoch * sampler.steps_per_epoch + step, start, start + len(own), len(places))
        [view] = views_of(store, subject.views, rows[own], draws)
        return view, truth[rows[own]].to(store.device)

    yield from ahead(enumerate(sampler.epoch(epoch)), make, store.device, 0 if store.resident else MADE_AHEAD)
