"""What a run says: metrics.jsonl always, a console line per epoch, Weights & Biases and TensorBoard as mirrors."""

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field
from tqdm import tqdm

from utils import distributed
from utils.config import Section
from utils.files import json_ready


class LogConfig(Section):
    """What is recorded and where it is mirrored."""

    every_steps: int = Field(50, ge=1, description="optimiser steps between two rows of metrics.jsonl")
    wandb: bool = Field(False, description="mirror to Weights & Biases (works offline: WANDB_MODE=offline)")
    wandb_project: str = Field("emblem", description="its project")
    wandb_entity: str | None = Field(None, description="its entity")
    tensorboard: bool = Field(False, description="mirror to TensorBoard event files in the run's folder")


class Log:
    """Rank 0 prints and writes; other ranks are silent. `folder` None (run.debug) writes nothing."""

    def __init__(self, config: LogConfig, folder: Path | None, header: dict[str, Any]) -> None:
        self.main = distributed.is_main()
        self.folder = folder if self.main else None
        self.file = None
        self.mirrors: list[Any] = []
        self.bar: tqdm[Any] | None = None
        if self.folder is None:
            return
        self.file = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._line({"header": True, "time": time.time(), **header})
        if config.wandb:
            self.mirrors.append(_WandbMirror(config, self.folder, header))
        if config.tensorboard:
            self.mirrors.append(_TensorboardMirror(self.folder))

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_bar()
        for mirror in self.mirrors:
            mirror.close()
        if self.file is not None:
            self.file.close()

    def say(self, text: str) -> None:
        """Print a line on rank 0, above a progress bar if one is drawn."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Print a warning on rank 0."""
        if self.main:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    def metrics(self, phase: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """Append one row; phase is train, estep or eval."""
        if self.file is not None:
            self._line({"time": time.time(), "step": step, "epoch": round(epoch, 4), "phase": phase, **values})
            for mirror in self.mirrors:
                mirror.write(phase, step, values)

    def progress(self, done: int, total: int, text: str) -> None:
        """Move the bar on a terminal; in a log file the epoch lines tell the same."""
        if not self.main or not sys.stderr.isatty():
            return
        if self.bar is None:
            self.bar = tqdm(total=total, initial=done, unit="step", leave=False, file=sys.stderr, dynamic_ncols=True)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def close_bar(self) -> None:
        """Take the progress bar off the screen."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _line(self, row: dict[str, Any]) -> None:
        assert self.file is not None
        self.file.write(json.dumps(json_ready(row)) + "\n")
        self.file.flush()


class _WandbMirror:
    def __init__(self, config: LogConfig, folder: Path, header: dict[str, Any]) -> None:
        import wandb

        if not os.environ.get("WANDB_MODE") and not (
            os.environ.get("WANDB_API_KEY") or Path("~/.netrc").expanduser().exists()
        ):
            os.environ["WANDB_MODE"] = "offline"  # without a login an upload would ask on the terminal and wait
        self.run = wandb.init(
            project=config.wandb_project, entity=config.wandb_entity, name=folder.name, id=folder.name, resume="allow",
            dir=str(folder), config=header, settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        self.run.log({f"{phase}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


class _TensorboardMirror:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


def duration(seconds: float) -> str:
    """Seconds as 0:07, 12:40 or 3:05:10."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
