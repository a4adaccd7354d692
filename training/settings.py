"""The sections of a config, and the checks that need more than one of them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.sources import SOURCES
from data.store import DataConfig
from data.views import ViewsConfig
from models import METHODS
from models.method import MethodConfig
from models.parts.centers import EStepConfig
from models.parts.encoders import ENCODERS, EncoderConfig
from training.log import LogConfig
from training.optim import OptimConfig
from utils.compat import installed
from utils.config import Composed, Section, diff_keys, dump, to_values, validate
from utils.doctor import computes_bf16
from utils.errors import UserError
from utils.group_batchnorm import check_groups
from utils.plugins import load_plugins

# keys that a run may change when it goes on: they do not touch what it computes
MAY_CHANGE = (
    *("log.", "eval.", "data.root", "data.download", "data.cache", "data.memory_gib", "data.workers"),
    *("run.name", "run.folder", "run.resume", "run.max_steps", "run.checkpoint_minutes", "run.plugins"),
    *("run.timeout_seconds", "run.keep_every_epochs", "run.profile", "optim.nonfinite"),
)


class RunConfig(Section):
    """The run itself: its name, seed, length and safety."""

    name: str | None = Field(None, description="folder under run.folder; null: the config's name and the time")
    folder: Path = Field(Path("runs"), description="where runs lie")
    seed: int = Field(0, ge=0, description="every random number is a function of it")
    init_from: Path | None = Field(None, description="folder of a run that this one goes on from: encoder, clusters")
    debug: bool = Field(False, description="tiny encoder, two steps, E-step, scores; writes nothing")
    resume: Literal["never", "auto"] = Field("never", description="auto: go on with run.name if it exists")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimiser steps; schedules stay")
    deterministic: bool = Field(False, description="deterministic kernels only")
    checkpoint_minutes: float = Field(5.0, ge=0, description="time between checkpoints; 0: one after every epoch")
    keep_every_epochs: int | None = Field(None, ge=1, description="checkpoints that stay for good; null: two newest")
    profile: bool = Field(False, description="write where the time of ten steps goes: profile.txt, profile.json")
    plugins: tuple[Path, ...] = Field((), description="Python files with methods, encoders or data sets of your own")
    timeout_seconds: float = Field(600, gt=0, description="how long a rank waits for another before the run fails")


class EvalConfig(Section):
    """Scores. Labels are read here alone: they never train and never select."""

    every_epochs: int | None = Field(None, ge=1, description="epochs between scores; null: at the end only")
    knn_neighbors: int = Field(20, ge=1, description="neighbours of the weighted kNN")
    knn_temperature: float = Field(0.07, gt=0, description="its weights are exp(cos / this)")
    report: bool = Field(True, description="draw report.html at the end of the run")


TABLES: dict[str, dict[str, Any]] = {"METHODS": METHODS, "ENCODERS": ENCODERS, "SOURCES": SOURCES}


@dataclass(frozen=True)
class Settings:
    """Every section of a run, validated and frozen."""

    run: RunConfig
    data: DataConfig
    views: ViewsConfig
    encoder: EncoderConfig
    method: MethodConfig
    optim: OptimConfig
    estep: EStepConfig
    eval: EvalConfig
    log: LogConfig

    def to_values(self) -> dict[str, Any]:
        """Nested plain values, every default written out."""
        return to_values({f.name: getattr(self, f.name) for f in fields(self)})

    def to_yaml(self) -> str:
        """The resolved config, which loads to equal settings."""
        return dump({f.name: getattr(self, f.name) for f in fields(self)})


def sections() -> dict[str, type[Section] | dict[str, type[Section]]]:
    """The model of each section; for the method's one a method, since a plugin may bring more."""
    return {
        "run": RunConfig,
        "data": DataConfig,
        "views": ViewsConfig,
        "encoder": EncoderConfig,
        "method": {name: method.Config for name, method in METHODS.items()},
        "optim": OptimConfig,
        "estep": EStepConfig,
        "eval": EvalConfig,
        "log": LogConfig,
    }


def load_settings(composed: Composed, world: int) -> Settings:
    """The settings of composed files and overrides, checked for `world` ranks. Raises UserError.

    What the files of `run.plugins` name can be chosen from then on.
    """
    run = composed.values.get("run")
    plugins = run.get("plugins", []) if isinstance(run, dict) else []
    if isinstance(plugins, list):  # else the check below says what it should be
        found = load_plugins([Path(str(path)) for path in plugins], TABLES)
        for table, known in TABLES.items():
            known.update(found[table])
    settings = Settings(**validate(composed, sections()))  # type: ignore[arg-type]
    if settings.run.debug:
        settings = _debug(settings)
    check(settings, world)
    return settings


def names() -> dict[str, list[str]]:
    """What a config can name: methods, data sets, encoders; and the configs that ship."""
    configs = sorted(str(path) for path in Path("config").glob("*.yml"))
    encoders = [*ENCODERS, "timm:NAME"]
    return {"methods": list(METHODS), "data sets": list(SOURCES), "encoders": encoders, "configs": configs}


def require_same(settings: Settings, stored: Settings) -> None:
    """Raise UserError when a run that goes on is asked for other results than it was started for."""
    for key in diff_keys(stored.to_values(), settings.to_values()):
        if not key.startswith(MAY_CHANGE):
            raise UserError(
                key, "a run that goes on keeps the value it was started with", "start a new run to change it"
            )


def check(settings: Settings, world: int) -> None:
    """Raise UserError for values that no run with `world` ranks can have."""
    optim, encoder, groups = settings.optim, settings.encoder, settings.method.bn_groups
    if optim.global_batch % world:
        low = optim.global_batch // world * world
        near = f"nearest: {low} or {low + world}" if low else f"at least {world}"
        raise UserError("optim.global_batch", f"{optim.global_batch} is not divisible by {world} ranks", near)
    if optim.global_batch % optim.accumulation:
        raise UserError("optim.accumulation", f"{optim.accumulation} does not divide global_batch {optim.global_batch}")
    check_groups(groups, world)
    micro, parts = optim.global_batch // optim.accumulation, max(groups, world)
    if micro % parts:
        raise UserError(
            "optim.global_batch" if optim.accumulation == 1 else "optim.accumulation",
            f"micro-batches of {micro} rows cannot be cut into {parts} parts ({world} ranks, bn_groups {groups})",
            f"nearest: {max(1, micro // parts) * parts * optim.accumulation} rows a step",
        )
    if micro < 2 * parts:
        raise UserError(
            "optim.global_batch", f"{micro} rows in {parts} BatchNorm groups: a group needs two rows or more"
        )
    for mirror in ("wandb", "tensorboard"):
        if getattr(settings.log, mirror) and not installed(mirror):
            raise UserError(f"log.{mirror}", f"the package {mirror} is not installed", f"pip install {mirror}")
    if settings.run.init_from is not None and (encoder.checkpoint is not None or encoder.pretrained):
        named = "encoder.checkpoint" if encoder.checkpoint is not None else "encoder.pretrained"
        raise UserError("run.init_from", f"{named} names other weights to start from", "give one of the two")
    if settings.run.resume == "auto" and settings.run.name is None:
        raise UserError("run.resume", "auto needs run.name", "name the run: run.name=NAME")


def caveats(settings: Settings) -> list[str]:
    """What a run with these settings is not, one line each: told once at its start."""
    optim, encoder, told = settings.optim, settings.encoder, []
    if optim.accumulation > 1 and not METHODS[settings.method.name].exact_under_accumulation:
        micro = optim.global_batch // optim.accumulation
        told.append(
            f"optim.accumulation={optim.accumulation}: the loss sees {micro} rows at a time, which is "
            f"not the loss over {optim.global_batch}"
        )
    method = METHODS[settings.method.name]
    bare = settings.run.init_from is None and not encoder.pretrained and encoder.checkpoint is None
    if method.starts_from != "scratch" and bare:
        name = settings.method.name
        told.append(f"{name} is a second stage, and run.init_from is not set: it starts from an untrained encoder")
    if encoder.freeze and bare:
        told.append("encoder.freeze without encoder.pretrained or checkpoint: the frozen stages stay random")
    if encoder.drop_rate or encoder.drop_path_rate:
        told.append("encoder.drop_rate and drop_path_rate: results depend on the number of ranks")
    if optim.precision == "bf16" and not computes_bf16():
        told.append("optim.precision=bf16: no instructions for it here; fp32 is faster")
    return told


def _debug(settings: Settings) -> Settings:
    """The same run with a tiny encoder and two steps."""
    changed = {
        "run": settings.run.model_copy(update={"max_steps": min(2, settings.run.max_steps or 2), "init_from": None}),
        "encoder": EncoderConfig(name="tiny"),
        "log": LogConfig(every_steps=1),
    }
    return Settings(**{f.name: changed.get(f.name, getattr(settings, f.name)) for f in fields(settings)})
