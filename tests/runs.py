"""Small runs for tests: the tiny encoder on real digits, built like any run."""

from pathlib import Path
from typing import Any

import torch

from training.begin import new_run
from training.build import Run
from training.checkpoint import snapshot, write_checkpoint
from training.settings import Settings, load_settings
from utils import distributed
from utils.config import compose

TWO_LAYERS = {"hidden_dim": 11, "projection_dim": 7}
METHODS: dict[str, dict[str, Any]] = {
    "byol": {**TWO_LAYERS, "ema_momentum": 0.9, "views_in_one_forward": True},
    "propos": {**TWO_LAYERS, "ema_momentum": 0.9, "warmup_epochs": 1, "latent_std": 0.01},
    "simclr": TWO_LAYERS,
    "moco": {**TWO_LAYERS, "ema_momentum": 0.9, "queue_size": 192, "symmetric": "mean"},
    "simsiam": {"hidden_dim": 32, "predictor_dim": 5},  # narrower ones give rows of zeros before training
    "pcl": {
        **TWO_LAYERS, "ema_momentum": 0.9, "queue_size": 192, "warmup_epochs": 1, "n_prototypes": [13, 29],
    },
    "cc": TWO_LAYERS,
    "pica": {"over_clusters": []},  # with more heads, all but one are idle in a step
    "gcc": {**TWO_LAYERS, "warmup_epochs": 1},
    "and": {"projection_dim": 7, "n_neighbors": 2},
    "scan": {"n_heads": 2, "n_neighbors": 5},
    "selflabel": {"threshold": 0.11},
    # a narrower projector gives rows that lie too close together to have one nearest center
    "swav": {"hidden_dim": 32, "projection_dim": 7, "n_prototypes": 13, "freeze_epochs": 0, "queue_size": 96},
    "dino": {
        "hidden_dim": 11, "bottleneck_dim": 7, "out_dim": 13, "freeze_epochs": 0, "ema_momentum": 0.9,
    },
    "temi": {"n_heads": 2, "n_neighbors": 5, "hidden_dim": 11, "bottleneck_dim": 7, "freeze_epochs": 0},
}  # fmt: skip
ROOT = Path(__file__).parent.parent


def tiny_settings(method: str = "propos", **changes: Any) -> Settings:
    """Settings of a run of seconds; `changes` are section__key=value."""
    words = {
        "data.name": "digits", "encoder.name": "tiny", "method.name": method, "optim.global_batch": 64,
        "optim.epochs": 3, "optim.learning_rate": 0.1, "optim.warmup_epochs": 1, "estep.n_init": 1,
        "estep.final_n_init": 2, "log.every_steps": 5, "run.checkpoint_minutes": 0,
    }  # fmt: skip
    words |= {f"method.{key}": value for key, value in METHODS.get(method, {}).items()}
    words |= {name.replace("__", "."): value for name, value in changes.items()}
    views = ROOT / "config" / "base" / "views_digits.yml"
    lines = [f"{key}={_word(value)}" for key, value in words.items()]
    return load_settings(compose([views], lines), distributed.world())


def tiny_run(method: str = "propos", **changes: Any) -> Run:
    """A run before its first step, on the CPU."""
    return new_run(tiny_settings(method, **changes), torch.device("cpu"))


def save(run: Run) -> Path:
    """A checkpoint of the run as it stands, in its folder."""
    assert run.directory is not None
    taken = snapshot(run.method, run.optimizer, run.state, run.clock, run.settings.to_yaml(), done=run.clock.finished)
    return write_checkpoint(run.directory.checkpoints, taken)


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
