"""What a linear evaluation is asked for: a protocol's file over the run that it judges."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from data.sources import SOURCES
from data.store import DataConfig
from data.views import ViewsConfig
from evaluation.transfer import words_of
from models.parts.encoders import EncoderConfig
from training import settings as training_settings
from training.init_from import stored_settings
from training.optim import OptimConfig
from training.settings import RunConfig
from utils.config import Composed, Section, compose, document, dump, validate
from utils.config_docs import in_yaml
from utils.errors import UserError, did_you_mean

PROTOCOLS = Path("config/linear")
RUN_KEYS = ("seed", "folder", "deterministic", "checkpoint_minutes", "timeout_seconds")  # of `run`, those that count
NETWORK_KEYS = ("size", "test_crop", "sobel", "normalize")  # of `views`: how the network was shown clean images
Tokens = Literal["output", "last1", "last4", "last1+mean", "last4+mean"]


class LinearConfig(Section):
    """A classifier on a trained encoder: what it sees, what is learnt, how one of several is chosen."""

    name: Literal["linear"] = Field(description="linear evaluation, in place of a method")
    checkpoint: Path | None = Field(
        None, description="what is judged: the folder of a run, or a file of weights for `encoder` on `data`"
    )
    mode: Literal["cached", "online"] = Field(
        "cached", description="cached: features of clean images, encoded once; online: of views, encoded every epoch"
    )
    finetune: bool = Field(False, description="learn the whole encoder too; mode has to be online")
    labels: float = Field(1.0, gt=0, le=1, description="share of the train labels that is used, drawn class by class")
    learning_rates: tuple[float, ...] = Field(
        (), description="one classifier for each, in place of optim.learning_rate; frozen encoders train all at once"
    )
    tokens: tuple[Tokens, ...] = Field(
        ("output",),
        description="features, a classifier for each: the encoder's output; of a timm ViT the class tokens of the last "
        "1 or 4 blocks, with or without the mean patch",
    )
    held_out: float = Field(
        0.05, gt=0, lt=1, description="share of those labels that chooses between several classifiers"
    )
    encoder_lr_scale: float = Field(1.0, gt=0, description="finetune: learning rate of the encoder over the other's")
    bn_groups: int = Field(1, ge=1, description="finetune: BatchNorm statistics over this many groups of a batch")

    @model_validator(mode="after")
    def _belong_together(self) -> "LinearConfig":
        if not self.tokens or len(set(self.tokens)) < len(self.tokens):
            raise ValueError("tokens names features, each once")
        rates = self.learning_rates
        if len(set(rates)) < len(rates) or not all(rate > 0 for rate in rates):
            raise ValueError("learning_rates are above 0, each once")
        if "output" in self.tokens and len(self.tokens) > 1:
            raise ValueError("tokens: output stands alone")
        if self.finetune and (self.mode != "online" or self.tokens != ("output",)):
            raise ValueError("finetune needs mode: online and tokens: [output]")
        return self


@dataclass(frozen=True)
class LinearSettings:
    """Every section of a linear evaluation, validated and frozen. protocol: the name of its file."""

    run: RunConfig
    data: DataConfig
    views: ViewsConfig
    encoder: EncoderConfig
    method: LinearConfig
    optim: OptimConfig
    protocol: str

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Of the classifiers, per 256 rows."""
        return self.method.learning_rates or (self.optim.learning_rate,)

    def to_yaml(self) -> str:
        """All sections with every default written out."""
        return dump({f.name: getattr(self, f.name) for f in fields(self) if f.name != "protocol"})


def sections() -> dict[str, type[Section]]:
    """The model of each section."""
    return {
        "run": RunConfig,
        "data": DataConfig,
        "views": ViewsConfig,
        "encoder": EncoderConfig,
        "method": LinearConfig,
        "optim": OptimConfig,
    }


def is_linear(composed: Composed) -> bool:
    """Whether a config asks for a linear evaluation instead of training."""
    method = composed.values.get("method")
    return isinstance(method, dict) and method.get("name") == "linear"


def open_protocol(name: str, data: str | None, words: list[str]) -> Composed:
    """The protocol `name` of config/linear, or in a file of one's own. data: as `main.py evaluate --data` takes it.

    Raises:
        UserError: no such protocol, a file of something else, or a word that is no `section.key=value`.
    """
    path = Path(name) if name.endswith((".yml", ".yaml")) else PROTOCOLS / f"{name}.yml"
    if not path.is_file():
        known = sorted(file.stem for file in PROTOCOLS.glob("*.yml"))
        raise UserError("--protocol", f"{name} is none{did_you_mean(name, known)}", f"one of {', '.join(known)}")
    composed = compose([path], [*words_of(data), *words])
    if not is_linear(composed):
        raise UserError(str(path), "is no linear evaluation (method.name: linear)", "train with it: main.py train")
    return composed


def load_linear(composed: Composed, checkpoint: Path | None, world: int) -> LinearSettings:
    """The settings for one checkpoint, by default the config's own, on `world` ranks.

    A run brings its data, its encoder and how its network sees clean images; the config changes all but the encoder.
    Train and test part are both loaded unless the config names a split.

    Raises:
        UserError: a wrong key or value, no checkpoint, or settings that do not fit together.
    """
    given = checkpoint or _given_checkpoint(composed)
    values = {section: dict(keys) for section, keys in composed.values.items()}
    values.setdefault("method", {})["checkpoint"] = str(given)
    for key in values.get("run", {}):
        if key in RunConfig.model_fields and key not in RUN_KEYS:
            raise UserError(f"run.{key}", "means nothing in a linear evaluation", f"of run only {', '.join(RUN_KEYS)}")
    if (given / "config.yml").is_file():
        own = stored_settings(given).to_values()  # brings the run's plugins, too
        for key, value in values.get("encoder", {}).items():
            if own["encoder"].get(key) != value:
                problem = f"{given} is a run with another, {in_yaml(own['encoder'].get(key))}"
                raise UserError(f"encoder.{key}", problem, "leave it out")
        values["encoder"] = {**own["encoder"], "pretrained": False, "checkpoint": None}
        values["data"] = {**own["data"], "split": "train+test", **values.get("data", {})}
        network = {key: own["views"][key] for key in NETWORK_KEYS}
        values["views"] = {**network, **values.get("views", {})}
    else:
        values["encoder"] = {**values.get("encoder", {}), "checkpoint": str(given)}
    found = validate(replace(composed, values=values), sections())
    settings = LinearSettings(protocol=composed.name, **found)  # type: ignore[arg-type]
    _check(settings, world)
    return settings


def _given_checkpoint(composed: Composed) -> Path:
    found: Any = composed.values.get("method", {}).get("checkpoint")
    if not isinstance(found, str):
        raise UserError("method.checkpoint", "missing: what is to be judged?", "method.checkpoint=runs/NAME")
    return Path(found)


def _check(settings: LinearSettings, world: int) -> None:
    optim, method = settings.optim, settings.method
    if settings.data.name not in SOURCES:
        raise UserError("data.name", f"'{settings.data.name}' is unknown{did_you_mean(settings.data.name, SOURCES)}")
    if optim.accumulation > 1:
        raise UserError("optim.accumulation", "a linear evaluation has none", "leave it out")
    if method.mode == "online" and optim.global_batch % world:
        raise UserError("optim.global_batch", f"{optim.global_batch} is not divisible by {world} ranks")
    if settings.views.n_views != 1 or settings.views.local is not None or settings.views.early is not None:
        problem, remedy = "a linear evaluation sees one view of an image", "set it to 1, without local and early"
        raise UserError("views.n_views", problem, remedy)


def reference() -> str:
    """docs/config.md: every key of every section, those of linear evaluation among the methods'."""
    known: dict[str, Any] = dict(training_settings.sections())
    return document({**known, "method": {**known["method"], "linear": LinearConfig}})


if __name__ == "__main__":
    print(reference(), end="")  # make docs
