"""From settings to a run: data, networks, optimiser, clock, and what a checkpoint says."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from data.sources.base import Source
from data.store import Store, open_source
from data.views import Views
from models import METHODS
from models.method import Method
from models.parts.encoders import EncoderConfig, build_encoder, check_takes, freeze_encoder
from models.parts.weights import load_encoder_weights
from models.state import ClusterState
from training.checkpoint import load_checkpoint, restore
from training.feed import Feed, passes_of
from training.numerics import Guard
from training.optim import build_optimizer
from training.run_dir import RunDirectory
from training.settings import RunConfig, Settings
from utils import distributed, process_group
from utils.clock import Clock
from utils.doctor import environment
from utils.draws import derived_seed
from utils.errors import UserError
from utils.group_batchnorm import convert_batchnorm
from utils.yaml_text import parse_value


@dataclass
class Run:
    """Everything a run is made of. `state` and `clock` move with training.

    done: the E-step after the last step has been made, and `state` is its; `before_end` is the one training had used.
    """

    settings: Settings
    source: Source
    store: Store
    views: Views
    method: Method
    optimizer: torch.optim.Optimizer
    feed: Feed
    clock: Clock
    state: ClusterState | None
    device: torch.device
    guard: Guard
    done: bool = False
    before_end: ClusterState | None = None
    directory: RunDirectory | None = None
    told: list[str] = field(default_factory=list)  # what the user is to know of how it was built

    def facts(self) -> dict[str, Any]:
        """What metrics.jsonl says of the run before its first row."""
        name = str(self.directory.path) if self.directory else "debug"
        return {"run": name, "world": distributed.world(), "resumed_at_step": self.clock.step, **environment()}

    def introduction(self) -> str:
        """A few lines on what is about to be trained, for the console."""
        optim, parameters = self.settings.optim, sum(p.numel() for p in self.method.parameters() if p.requires_grad)
        ranks = "1 rank" if distributed.world() == 1 else f"{distributed.world()} ranks"
        begun = f", going on at step {self.clock.step}" if self.clock.step else ""
        told = list(self.told)
        if self.source.skipped:
            told.append(f"{len(self.source.skipped)} files are no rows: skipped.csv")
        return (
            f"{self.settings.method.name} on {self.source.name} ({self.source.protocol}), "
            f"{ranks} on {self.device.type}\n"
            f"encoder {self.settings.encoder.name}, {parameters:,} parameters learnt, {optim.epochs} epochs of "
            f"{self.clock.steps_per_epoch} steps{begun}\n"
            f"learning rate {optim.learning_rate} * {optim.global_batch} / 256 = {optim.peak_learning_rate:.4g}"
            + "".join(f"\n{line}" for line in told)
        )


def start(run: RunConfig, lost: Callable[[str], None] = lambda text: None) -> torch.device:
    """Join the other ranks and set torch up as the section `run` asks; returns this rank's device. Collective.

    lost: called with one line, in another thread, when a rank is stopped, dead or cut off; this process ends then.
    """
    device = distributed.pick_device()
    process_group.join(device, run.timeout_seconds, lost)
    torch.backends.cudnn.benchmark = not run.deterministic
    torch.use_deterministic_algorithms(run.deterministic)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for then
    if distributed.is_main():
        warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    else:
        warnings.simplefilter("ignore")  # every rank is told the same; rank 0 says it
    torch.autograd.set_detect_anomaly(run.debug, check_nan=run.debug)
    return device


def build_run(settings: Settings, device: torch.device, *, fresh: bool = True, source: Source | None = None) -> Run:
    """A run before its first step. Collective. Raises UserError for settings that the data cannot serve.

    fresh: its encoder starts from the weights that the settings name; else a checkpoint is about to bring its own.
    source: the images that `settings.data` names; by default they are opened.
    """
    source = source or open_source(settings.data)
    n_clusters, optim = _n_clusters(settings, source), settings.optim
    dtype = torch.float64 if optim.precision == "fp64" else torch.float32
    views = Views(settings.views, source.image_shape, source.mean, source.std, dtype)
    method, told = build_method(settings, views.output_shape, source, n_clusters, device, dtype, fresh=fresh)
    passes = passes_of(method, source, optim.global_batch, settings.run.seed)
    store = Store(source, device, settings.data)
    early = _early_views(settings, views, source, method)
    feed = Feed(store, views, method, passes, settings.run.seed, optim.accumulation, early)
    return Run(
        settings=settings,
        source=source,
        store=store,
        views=views,
        method=method,
        optimizer=build_optimizer(optim, method.parameter_groups()),
        feed=feed,
        clock=Clock(0, feed.steps_per_epoch, optim.epochs, settings.run.max_steps),
        state=None,
        device=device,
        guard=Guard(optim, method, device),
        told=told,
    )


def build_method(
    settings: Settings,
    image_shape: tuple[int, int, int],
    source: Source,
    n_clusters: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    fresh: bool = True,
) -> tuple[Method, list[str]]:
    """The method with its encoder, initialised by (seed, "init"), and what is to be told of it. Collective.

    fresh: the encoder then starts from the weights that the settings name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(settings.run.seed, "init"))
        encoder, feature_dim = build_encoder(settings.encoder, image_shape)
        told = load_encoder_weights(encoder, _first_weights(settings), image_shape) if fresh else []
        freeze_encoder(encoder, settings.encoder)
        build = METHODS[settings.method.name]
        method: Method = build(encoder, feature_dim, settings.method, settings.estep, n_clusters)  # type: ignore[call-arg, arg-type]
        method.prepare(source.n_rows, source.n_extra)
    convert_batchnorm(method, settings.method.bn_groups)
    return method.to(device=device, dtype=dtype, memory_format=torch.channels_last), told  # type: ignore[call-overload]


def _early_views(settings: Settings, views: Views, source: Source, method: Method) -> tuple[int, Views] | None:
    """The epochs of `views.early` and their views, which the encoder is shown to take."""
    early = settings.views.early
    if early is None or method.input == "features":
        return None
    config = settings.views.model_copy(update={"size": early.size})
    smaller = Views(config, source.image_shape, source.mean, source.std, views.dtype)
    check_takes(method.final_encoder, settings.encoder.name, smaller.output_shape, "views.early.size")
    return early.epochs, smaller


def compile_networks(run: Run) -> None:
    """Have torch.compile translate the networks when they are first called, where `optim.compile` asks for it."""
    if run.settings.optim.compile:
        for network in run.method.children():
            network.compile()


def restore_run(run: Run, directory: RunDirectory, *, goes_on: bool = True) -> None:
    """Bring `run` to where its newest good checkpoint stands. Raises UserError when there is none that fits.

    goes_on: its optimiser, too: it is to be trained on.
    """
    checkpoint = load_checkpoint(directory.checkpoints, run.device, _warn)
    if goes_on:
        _require_own(checkpoint, run, directory)
    try:
        run.state = restore(checkpoint, run.method, run.optimizer if goes_on else None)
    except (ValueError, RuntimeError) as error:  # torch's: other groups of parameters, or other tensors
        what = "optimiser" if isinstance(error, ValueError) else "network"
        problem = f"its {what} is that of another version ({' '.join(str(error).split())[:160]})"
        remedy = "begin a new run, from its encoder: run.init_from"
        raise UserError(str(directory.checkpoints), problem, remedy) from None
    run.guard.load_state_dict(checkpoint["loss_scale"])
    run.clock = Clock(checkpoint["step"], run.clock.steps_per_epoch, run.clock.epochs, run.clock.stop_step)
    run.done = run.clock.finished if checkpoint["done"] is None else checkpoint["done"]
    before = checkpoint["before_end"]
    run.before_end = None if before is None else ClusterState.from_dict(before)
    if run.done and not run.clock.finished:  # it is made longer
        run.state, run.done = run.before_end, False
    run.directory = directory


def _require_own(checkpoint: dict[str, Any], run: Run, directory: RunDirectory) -> None:
    """Raise UserError where the checkpoint is another run's: of another method, network or number of clusters."""
    stored, now = parse_value(checkpoint["config"], str(directory.checkpoints)) or {}, run.settings.to_values()
    for section, key in (("method", "name"), ("encoder", "name"), ("estep", "n_clusters")):
        there, here = stored.get(section, {}).get(key), now[section][key]
        if section in stored and there != here:
            problem = f"this checkpoint has {section}.{key}={there}, the run {here}"
            raise UserError(str(directory.checkpoints), problem, "bring back the run's own checkpoints")


def _first_weights(settings: Settings) -> EncoderConfig:
    """Where the encoder of a new run starts from: a run to go on from is a checkpoint like others."""
    start = settings.run.init_from
    return settings.encoder if start is None else settings.encoder.model_copy(update={"checkpoint": start})


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
