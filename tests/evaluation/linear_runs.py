"""A run of an untrained network for tests of linear evaluation, and the words that ask for one of seconds."""

from pathlib import Path
from typing import Any

import torch

from evaluation.linear import linear
from evaluation.linear_settings import LinearSettings, load_linear, open_protocol
from tests.runs import tiny_settings
from training.begin import new_run
from training.checkpoint import snapshot, write_checkpoint
from training.run_dir import create_run
from utils.clock import Clock

CPU = torch.device("cpu")
EXACT = ["optim.precision=fp64", "optim.epochs=3", "optim.global_batch=96"]


def untrained_run(folder: Path) -> Path:
    """The folder of a run with BYOL's two networks, which differ."""
    settings = tiny_settings("byol", run__folder=folder, run__name="own", data__split="train")
    made = new_run(settings, CPU)
    with torch.no_grad():
        for parameter in made.method.final_encoder.parameters():
            parameter.mul_(1.5)
    directory = create_run(folder, "own", "own", settings.to_yaml())
    write_checkpoint(
        directory.checkpoints, snapshot(made.method, made.optimizer, None, Clock(66, 22, 3), settings.to_yaml())
    )
    return directory.path


def settings_of(run: Path, *words: str, protocol: str = "sweep") -> LinearSettings:
    return load_linear(open_protocol(protocol, None, [*EXACT, *words]), run, 1)


def evaluated(run: Path, *words: str, protocol: str = "sweep") -> dict[str, Any]:
    [result] = linear([str(run), *EXACT, *words], protocol, None)
    return result
