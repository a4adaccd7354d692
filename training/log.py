"""What a run says: metrics.jsonl always, a console line per epoch, Weights & Biases and TensorBoard as mirrors."""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from utils import distributed
from utils.config import Section
from utils.errors import UserError
from utils.files import json_ready, write_text
from utils.yaml_text import Values, read_yaml


class LogConfig(Section):
    """What is recorded and where it is mirrored."""

    every_steps: int = Field(50, ge=1, description="optimiser steps between two rows of metrics.jsonl")
    wandb: bool = Field(False, description="mirror to Weights & Biases (works offline: WANDB_MODE=offline)")
    wandb_project: str = Field("emblem", description="its project")
    wandb_entity: str | None = Field(None, description="its entity")
    wandb_checkpoint: bool = Field(False, description="give it the newest checkpoint, too, when the run has ended")
    tensorboard: bool = Field(False, description="mirror to TensorBoard event files in the run's folder")


class Log:
    """Rank 0 prints and writes; other ranks are silent. `folder` None (run.debug) writes nothing."""

    def __init__(self, config: LogConfig, folder: Path | None, header: dict[str, Any]) -> None:
        self.main = distributed.is_main()
        self.folder = folder if self.main else None
        self.file: int | None = None  # a descriptor: no buffer loses lines when the disk is full
        self.unwritten = b""
        self.mirrors: list[Any] = []
        self.bar: tqdm[Any] | None = None
        if self.folder is None:
            return
        if config.wandb:
            self.mirrors.append(_WandbMirror(config, self.folder, header))
        if config.tensorboard:
            self.mirrors.append(_TensorboardMirror(self.folder, header))
        _drop_half_a_line(self.folder / "metrics.jsonl")
        self.file = os.open(self.folder / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._line({"header": True, "time": time.time(), **header})

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_bar()
        if self.file is not None:
            os.close(self.file)
        self._mirror(lambda mirror: mirror.close(completed=kind is None))

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
            self._mirror(lambda mirror: mirror.write(phase, step, values))

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

    def _mirror(self, tell: Callable[[Any], None]) -> None:
        """Tell each mirror; one that fails is left out from then on: metrics.jsonl is the record, the run goes on."""
        for mirror in list(self.mirrors):
            try:
                tell(mirror)
            except Exception as error:
                self.mirrors.remove(mirror)
                self.warn(f"{mirror.key} mirrors no more: {_one_line(error)}")

    def _line(self, row: dict[str, Any]) -> None:
        """Append a row; where the disk is full it is kept, with one warning, until there is room again."""
        assert self.file is not None
        complete = not self.unwritten
        self.unwritten += (json.dumps(json_ready(row)) + "\n").encode()
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[os.write(self.file, self.unwritten) :]
        except OSError as error:
            if complete:
                self.warn(f"metrics.jsonl cannot be written: {error.strerror}; its rows wait until it can")


class _WandbMirror:
    """One W&B run for the folder, however often it is resumed: its id is kept there, in wandb_id.txt."""

    key = "log.wandb"

    def __init__(self, config: LogConfig, folder: Path, header: dict[str, Any]) -> None:
        import wandb

        self.wandb, self.folder, self.with_checkpoint = wandb, folder, config.wandb_checkpoint
        if not os.environ.get("WANDB_MODE") and not (
            os.environ.get("WANDB_API_KEY") or Path("~/.netrc").expanduser().exists()
        ):
            os.environ["WANDB_MODE"] = "offline"  # without a login an upload would ask on the terminal and wait
        kept = folder / "wandb_id.txt"  # a name is no id: W&B forbids some, and two runs may have one
        if not kept.is_file():
            write_text(kept, secrets.token_hex(4) + "\n")
        self.id = kept.read_text(encoding="utf-8").strip()
        try:
            self.run = wandb.init(
                project=config.wandb_project, entity=config.wandb_entity, name=folder.name, id=self.id, resume="allow",
                dir=str(folder), config={**_config(folder), "environment": header}, allow_val_change=True,
                settings=wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
        except Exception as error:
            problem = f"W&B does not start: {_one_line(error)}"
            raise UserError(self.key, problem, "WANDB_MODE=offline needs no network; log.wandb=false") from None
        # an axis of our own: W&B drops rows whose step goes back, as the steps of a resumed run do
        self.run.define_metric("*", step_metric="step")

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        self.run.log({**{f"{phase}/{name}": value for name, value in values.items()}, "step": step})

    def close(self, *, completed: bool) -> None:
        try:
            if completed:
                self._give("report", self.folder / "report.html")
            if completed and self.with_checkpoint:
                self._give("checkpoint", (self.folder / "checkpoints" / "last.pt").resolve())
        finally:
            self.run.finish(exit_code=0 if completed else 1)

    def _give(self, kind: str, path: Path) -> None:
        if path.is_file():
            artifact = self.wandb.Artifact(f"{kind}-{self.id}", type=kind)
            artifact.add_file(str(path))
            self.run.log_artifact(artifact)


class _TensorboardMirror:
    key = "log.tensorboard"

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.step = folder, int(header.get("resumed_at_step", 0))
        purge = self.step + 1 if self.step else None  # rows that a resumed run goes through again
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        for name, values in {**_config(folder), "environment": header}.items():
            lines = json.dumps(json_ready(values), indent=2, ensure_ascii=False).splitlines()
            self.writer.add_text(name, "\n".join(f"    {line}" for line in lines), self.step)  # Markdown: as it is

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        self.step = step
        for name, value in values.items():
            self.writer.add_scalar(f"{phase}/{name}", value, step)

    def close(self, *, completed: bool) -> None:
        picture = self.folder / "clusters.png"
        if completed and picture.is_file():
            with Image.open(picture) as image:
                self.writer.add_image("clusters", np.asarray(image.convert("RGB")), self.step, dataformats="HWC")
        self.writer.close()


def _config(folder: Path) -> Values:
    path = folder / "config.yml"
    return read_yaml(path)[0] if path.is_file() else {}


def _drop_half_a_line(path: Path) -> None:
    """Cut off what a killed run left of its last row, so that the next one begins a line."""
    if path.is_file():
        written = path.read_bytes()
        if not written.endswith(b"\n"):
            os.truncate(path, written.rfind(b"\n") + 1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
