"""Steps of a run on noise, with few rows, as rank 0 of any number of ranks that are not there: what one costs."""

import math
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.sources.base import DataConfig, Source
from data.sources.remembered import Remembered, facts_of
from models.state import ClusterState, FeatureShard
from training.build import Run, build_run
from training.dry_run_meters import Saved, pretended
from training.embed import map_rows
from training.features import FeatureStore
from training.settings import Settings
from training.step import train_step
from utils.clock import Clock
from utils.errors import UserError

SECONDS = 2.0  # that a step on noise may take
MOST_CLUSTERED = 10_000  # rows of noise
CHUNK = 256  # of `training.embed`


class Noise(Remembered):
    """`n_rows` images as those of `like` are, which nobody looks at."""

    def __init__(self, like: Source, n_rows: int, config: DataConfig) -> None:
        super().__init__(facts_of(like) | {"n_rows": n_rows, "n_extra": 0}, config)

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8, other ones each time."""
        return torch.randint(256, (self.n_rows if rows is None else len(rows), *self.image_shape), dtype=torch.uint8)


@dataclass(frozen=True)
class Step:
    """What optimiser steps of `rows` rows a rank and micro-batch took. sent, messages: of one step."""

    rows: int
    seconds: float
    saved_bytes: int
    sent: Counter[str]
    messages: Counter[str]


class Stage:
    """Where steps of `settings` are tried out, on as few rows of noise as the method can do with."""

    def __init__(self, settings: Settings, source: Source, n_clusters: int, device: torch.device) -> None:
        """source: what is known of the images. Its run with them is known to be possible."""
        self.device, optim = device, settings.optim
        estep = settings.estep.model_copy(
            update={"n_clusters": n_clusters, "n_init": 1, "final_n_init": 1, "max_iter": 2}
        )
        data = settings.data.model_copy(update={"memory_gib": 0.0})
        run = settings.run.model_copy(update={"init_from": None, "max_steps": None})
        self.settings = replace(settings, estep=estep, data=data, run=run)
        self.n_rows = min(source.n_rows, max(2 * n_clusters, optim.global_batch, 512))
        while True:
            self.source = Noise(source, self.n_rows, data)
            try:
                self._build(1, self.smallest(1))
            except UserError:
                if self.n_rows == source.n_rows:
                    raise
                self.n_rows = min(source.n_rows, 2 * self.n_rows)  # such as prototypes that need as many rows
            else:
                break
        self.width = self._width(self._build(1, self.smallest(1)))
        self.state = self._cluster() if self.n_rows <= MOST_CLUSTERED else None

    def smallest(self, world: int) -> int:
        """Least rows of a rank in a micro-batch: two in a BatchNorm group."""
        return 2 * max(self._groups(world), world) // world

    def step(self, world: int, rows: int, repeats: int = 1) -> Step:
        """As rank 0 of `world` ranks with `rows` rows each: the median of `repeats`, after one to warm up."""
        with pretended(world) as others, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what noise looks like
            run = self._build(world, rows)
            method, clock, taken = run.method.train(), run.clock, []
            saved = Saved(tensor for tensors in (method.parameters(), method.buffers()) for tensor in tensors)
            with closing(run.feed.rest_of_epoch(clock, self.state)) as batches:
                for number in range(1 + repeats):
                    others.sent.clear()
                    others.messages.clear()
                    started = time.monotonic()
                    with nullcontext() if number else saved.hooks():
                        _, carry = train_step(
                            method, method, run.optimizer, batches, self.state, clock, run.settings.optim, run.guard
                        )
                    if carry is not None:
                        method.after_step(carry, clock)
                    taken.append(time.monotonic() - started)
        return Step(rows, statistics.median(taken[1:] or taken), saved.most, others.sent, others.messages)

    def embed_seconds(self, rows: int) -> float:
        """Of one row, where `rows` rows, 256 at most, are embedded at once."""
        run = self._build(1, self.smallest(1))
        some = torch.arange(min(rows, CHUNK, self.n_rows))
        started = time.monotonic()
        map_rows(run.method.embed, run.method, run.feed.store, run.feed.views, some, run.settings.optim.precision)
        return (time.monotonic() - started) / len(some)

    def _groups(self, world: int) -> int:
        """More groups than two a rank change neither messages nor memory, but need rows."""
        return min(self.settings.method.bn_groups, 2 * world)

    def _build(self, world: int, rows: int) -> Run:
        """At the start of its last epoch, past all warm-ups."""
        batch = rows * world * self.settings.optim.accumulation
        optim = self.settings.optim.model_copy(update={"global_batch": batch})
        method = self.settings.method.model_copy(update={"bn_groups": self._groups(world)})
        run = build_run(
            replace(self.settings, optim=optim, method=method), self.device, fresh=False, source=self.source
        )
        run.clock = Clock((optim.epochs - 1) * run.clock.steps_per_epoch, run.clock.steps_per_epoch, optim.epochs)
        run.store.resident = True  # batches are made when they are asked for, so that their time counts
        if run.method.input == "features":
            features = torch.randn(self.n_rows, self._width(run), device=self.device)
            run.feed.store, run.feed.views = FeatureStore(features), None
        return run

    def _cluster(self) -> ClusterState:
        """An E-step on noise."""
        run = self._build(1, self.smallest(1))
        method, rows = run.method.eval(), torch.arange(self.n_rows)
        dtype = torch.float64 if run.settings.optim.precision == "fp64" else torch.float32
        features = torch.randn(self.n_rows, self.width, dtype=dtype, device=self.device)
        odds = [torch.randn(self.n_rows, k, dtype=dtype, device=self.device).softmax(1) for k in method.heads]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return method.e_step(FeatureShard(rows, features, self.n_rows, 0, odds or None), None, run.clock)

    def _width(self, run: Run) -> int:
        """Columns of what the E-step clusters."""
        with torch.no_grad():
            images = run.views.clean(self.source.read(torch.arange(2)).to(self.device))
            return run.method.eval().embed(images).shape[1]


def line_through(points: Sequence[tuple[int, float]], place: int) -> float:
    """Where the line through the two points (one: and through 0) is at `place`; not below 0."""
    (x, y), (other_x, other_y) = points[0], points[-1]
    slope = y / x if x == other_x else (other_y - y) / (other_x - x)
    return max(0.0, y + slope * (place - x))


def affordable(tried: Step, most: int) -> int:
    """Rows whose step takes at most about `SECONDS`: a multiple of those that were tried."""
    return max(1, min(most // tried.rows, math.floor(SECONDS / tried.seconds))) * tried.rows
