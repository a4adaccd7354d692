"""What the training loop eats: passes over rows, and their micro-batches, made ahead where pixels must be fetched."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.batch import UNLABELLED, Batch
from data.loader import ahead
from data.sampler import Sampler, part
from data.sources.base import Source
from data.store import RowStore
from data.views import Views
from models.method import Method
from models.state import ClusterState
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws

MADE_AHEAD = 2  # micro-batches, where pixels come from a disk


class Pass(NamedTuple):
    """One way through a set of rows; an epoch has one or more. `batch.phase` names it.

    place, per_epoch: the number of this pass among the epoch's passes over the same rows, and how many these are.
    """

    phase: str
    sampler: Sampler
    place: int = 0
    per_epoch: int = 1


def passes_of(method: Method, source: Source, global_batch: int, seed: int) -> list[Pass]:
    """The passes of an epoch: first over the rows that only train, where there are any, then the method's own."""
    sampler, n_own = Sampler(source.n_rows, global_batch, seed), len(method.phases)
    passes = [Pass(phase, sampler, place, n_own) for place, phase in enumerate(method.phases)]
    if source.n_extra:
        extra = Sampler(source.n_extra, global_batch, seed, first_row=source.n_rows, name=UNLABELLED)
        passes.insert(0, Pass(UNLABELLED, extra))
    return passes


@dataclass
class Feed:
    """Makes this rank's micro-batches. `waited`: seconds that the consumer has waited for them so far.

    views: None where the store's rows are features, which are their own only view. early: of the first epochs, as many
    as it says, where their views are others.
    """

    store: RowStore
    views: Views | None
    method: Method
    passes: list[Pass]
    seed: int
    accumulation: int
    early: tuple[int, Views] | None = None
    waited: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of all passes."""
        return sum(each.sampler.steps_per_epoch for each in self.passes)

    def rest_of_epoch(self, clock: Clock, state: ClusterState | None) -> Generator[Batch, None, None]:
        """The micro-batches that the epoch at `clock` still has, `accumulation` of them a step.

        To be closed by a consumer that leaves early.
        """

        def jobs() -> Iterator[tuple[str, Tensor, Clock, int]]:
            now = clock
            for phase, rows in self._rest_of_rows(clock, state):
                for micro in range(self.accumulation):
                    yield phase, rows, now, micro
                now = now.tick()

        def make(job: tuple[str, Tensor, Clock, int]) -> Batch:
            return self._batch(*job, state)

        made = ahead(jobs(), make, self.store.device, 0 if self.store.resident else MADE_AHEAD)
        try:
            while True:
                started = time.monotonic()
                batch = next(made, None)
                self.waited += time.monotonic() - started
                if batch is None:
                    return
                yield batch
        finally:
            made.close()

    def _rest_of_rows(self, clock: Clock, state: ClusterState | None) -> Iterator[tuple[str, Tensor]]:
        """Phase and global batch (global_batch,) of each step to come, equal on all ranks."""
        labels = state.labels if self.method.resample and state is not None else None
        start = clock.step_in_epoch
        for phase, sampler, place, per_epoch in self.passes:
            if start < sampler.steps_per_epoch:
                number = clock.whole_epochs * per_epoch + place
                own_labels = None if phase == UNLABELLED else labels
                for rows in sampler.epoch(number, start, own_labels, self.method.n_clusters):
                    yield phase, rows
            start = max(0, start - sampler.steps_per_epoch)

    def _batch(self, phase: str, rows: Tensor, clock: Clock, micro: int, state: ClusterState | None) -> Batch:
        own, start = part(rows, micro, self.accumulation, distributed.rank(), distributed.world())
        everyones, first = part(rows, micro, self.accumulation, 0, 1)
        draws = Draws(self.seed, clock.step, start, start + len(own), len(rows))
        seen = None if phase == UNLABELLED else state  # rows of this phase have no place in the state
        partners = self.method.partners(everyones, draws, seen, clock)  # (n, m) or None
        added = [] if partners is None else list(partners[start - first :][: len(own)].unbind(1))
        device = self.store.device
        views = self.early[1] if self.early is not None and clock.whole_epochs < self.early[0] else self.views
        return Batch(
            views=views_of(self.store, views, own, draws)
            + [self._partner(views, who, draws, place) for place, who in enumerate(added)],
            rows=own.to(device, non_blocking=True),
            positions=torch.arange(start, start + len(own), device=device),
            draws=draws,
            phase=phase,
        )

    def _partner(self, views: Views | None, rows: Tensor, draws: Draws, place: int) -> Tensor:
        """The view of other rows (B,) that join the batch. place: 0 for the first set of them, 1 for the second."""
        images = self.store.images(rows)
        return images if views is None else views.partner(images, draws, place)


def views_of(store: RowStore, views: Views | None, rows: Tensor, draws: Draws) -> list[Tensor]:
    """The views of `rows` (B,): cut from the originals where these are streamed, else from the stored squares.

    views: None where the store's rows are features, which are their own only view.
    """
    if views is None:
        return [store.images(rows)]
    if not store.streams:
        return views(store.images(rows), draws)
    sizes = store.sizes(rows)
    crops = store.crops(rows, [views.boxes(number, draws, sizes) for number in range(views.n_all)])
    return [views.finish(crop, number, draws) for number, crop in enumerate(crops)]
