"""From settings to a run: data, networks, optimiser, clock, and what a checkpoint says."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from data.batch import Batch
from data.sampler import Sampler, part
from data.sources.base import Source
from data.store import Store, open_source
from data.views import Views
from models import METHODS
from models.method import Method
from models.parts.encoders import build_encoder
from models.state import ClusterState
from training.checkpoint import load_checkpoint, restore
from training.optim import build_optimizer
from training.run_dir import RunDirectory
from training.settings import Settings
from utils import distributed
from utils.clock import Clock
from utils.doctor import environment
from utils.draws import Draws, derived_seed
from utils.errors import UserError
from utils.group_batchnorm import convert_batchnorm


@dataclass
class Run:
    """Everything a run is made of. `state` and `clock` move with training."""

    settings: Settings
    source: Source
    store: Store
    views: Views
    method: Method
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    clock: Clock
    state: ClusterState | None
    device: torch.device
    directory: RunDirectory | None = None

    def rest_of_epoch(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Phase and global batch (global_batch,) of each step that the present epoch still has, equal on all ranks."""
        phases, labels = self.method.phases, None
        if self.method.resample and self.state is not None:
            labels = self.state.labels
        first, start = divmod(self.clock.step_in_epoch, self.sampler.steps_per_epoch)
        epoch = self.clock.whole_epochs
        for number, phase in enumerate(phases[first:], first):
            for rows in self.sampler.epoch(epoch * len(phases) + number, start, labels, self.method.n_clusters):
                yield phase, rows
            start = 0

    def batches(self, rows: torch.Tensor, clock: Clock, phase: str = "train") -> Iterator[Batch]:
        """This rank's micro-batches of the optimiser step whose global batch is `rows` (global_batch,)."""
        optim = self.settings.optim
        for micro in range(optim.accumulation):
            own, start = part(rows, micro, optim.accumulation, distributed.rank(), distributed.world())
            draws = Draws(self.settings.run.seed, clock.step, start, start + len(own), len(rows))
            partners = self.method.partners(own, self.state, clock)  # (B, m) or None
            added = [] if partners is None else list(partners.unbind(1))
            yield Batch(
                views=self.views(self.store.images(own), draws)
                + [self.views.partner(self.store.images(who), draws, place) for place, who in enumerate(added)],
                rows=own.to(self.device, non_blocking=True),
                positions=torch.arange(start, start + len(own), device=self.device),
                draws=draws,
                phase=phase,
            )

    def facts(self) -> dict[str, Any]:
        """What metrics.jsonl says of the run before its first row."""
        name = str(self.directory.path) if self.directory else "debug"
        return {"run": name, "world": distributed.world(), "resumed_at_step": self.clock.step, **environment()}

    def introduction(self) -> str:
        """A few lines on what is about to be trained, for the console."""
        optim, parameters = self.settings.optim, sum(p.numel() for p in self.method.parameters() if p.requires_grad)
        ranks = "1 rank" if distributed.world() == 1 else f"{distributed.world()} ranks"
        begun = f", going on at step {self.clock.step}" if self.clock.step else ""
        return (
            f"{self.settings.method.name} on {self.source.name} ({self.source.protocol}), "
            f"{ranks} on {self.device.type}\n"
            f"encoder {self.settings.encoder.name}, {parameters:,} parameters learnt, {optim.epochs} epochs of "
            f"{self.clock.steps_per_epoch} steps{begun}\n"
            f"learning rate {optim.learning_rate} * {optim.global_batch} / 256 = {optim.peak_learning_rate:.4g}"
        )


def start(settings: Settings) -> torch.device:
    """Join the other ranks and set torch up as the settings ask; returns this rank's device. Collective."""
    device = distributed.pick_device()
    distributed.start(device, settings.run.timeout_seconds)
    torch.backends.cudnn.benchmark = not settings.run.deterministic
    torch.use_deterministic_algorithms(settings.run.deterministic)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for then
    if distributed.is_main():
        warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    else:
        warnings.simplefilter("ignore")  # every rank is told the same; rank 0 says it
    torch.autograd.set_detect_anomaly(settings.run.debug, check_nan=settings.run.debug)
    return device


def build_run(settings: Settings, device: torch.device) -> Run:
    """A run before its first step. Collective. Raises UserError for settings that the data cannot serve."""
    source = open_source(settings.data)
    n_clusters = _n_clusters(settings, source)
    sampler = Sampler(source.n_rows, settings.optim.global_batch, settings.run.seed)
    dtype = torch.float64 if settings.optim.precision == "fp64" else torch.float32
    method = build_method(settings, source.image_shape, n_clusters, device, dtype)
    clock = Clock(0, sampler.steps_per_epoch * len(method.phases), settings.optim.epochs, settings.run.max_steps)
    return Run(
        settings=settings,
        source=source,
        store=Store(source, device),
        views=Views(settings.views, source.image_shape, source.mean, source.std, dtype),
        method=method,
        optimizer=build_optimizer(settings.optim, method.parameter_groups()),
        sampler=sampler,
        clock=clock,
        state=None,
        device=device,
    )


def build_method(
    settings: Settings, image_shape: tuple[int, int, int], n_clusters: int, device: torch.device, dtype: torch.dtype
) -> Method:
    """The method with its encoder, initialised by (seed, "init") alone. Collective."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(settings.run.seed, "init"))
        encoder, feature_dim = build_encoder(settings.encoder, image_shape)
        build = METHODS[settings.method.name]
        method: Method = build(encoder, feature_dim, settings.method, settings.estep, n_clusters)  # type: ignore[call-arg, arg-type]
    convert_batchnorm(method, settings.method.bn_groups)
    return method.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def open_run(settings: Settings, directory: RunDirectory, device: torch.device) -> Run:
    """A run as its newest good checkpoint left it, to be judged. Collective."""
    run = build_run(settings, device)
    resume_run(run, directory)
    return run


def resume_run(run: Run, directory: RunDirectory) -> None:
    """Bring `run` to where its newest good checkpoint stands. Raises UserError when there is none."""
    checkpoint = load_checkpoint(directory.checkpoints, run.device, _warn)
    run.state = restore(checkpoint, run.method, run.optimizer)
    run.clock = Clock(checkpoint["step"], run.clock.steps_per_epoch, run.clock.epochs, run.clock.stop_step)
    run.directory = directory


def _n_clusters(settings: Settings, source: Source) -> int:
    n_clusters = settings.estep.n_clusters or source.n_classes
    if n_clusters is None:
        raise UserError("estep.n_clusters", f"missing: {source.name} has no classes to count", "say how many clusters")
    if n_clusters > source.n_rows:
        place = str(settings.data.root) if settings.data.name == "folder" else "estep.n_clusters"
        raise UserError(
            place,
            f"{source.n_rows} images for n_clusters={n_clusters}",
            f"add images or set estep.n_clusters to {source.n_rows} or fewer",
        )
    return n_clusters


def _warn(text: str) -> None:
    if distributed.is_main():
        print(f"warning: {text}", flush=True)
