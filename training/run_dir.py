"""The folder of a run: made once by rank 0, never overwritten."""

import csv
import io
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sources.base import Source
from data.sources.remembered import facts_of
from utils import distributed
from utils.doctor import environment
from utils.errors import UserError
from utils.files import write_json, write_text


@dataclass(frozen=True)
class RunDirectory:
    """Where the parts of a run lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config, which reproduces the run."""
        return self.path / "config.yml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints and their manifest."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """What is known of the images that it is trained on, so that it can be loaded where they are not."""
        return self.path / "images.json"

    @property
    def status(self) -> Path:
        """What became of the run."""
        return self.path / "status.json"

    def set_status(self, status: str, step: int, **more: Any) -> None:
        """Record running, completed or failed with the step reached. Rank 0 writes."""
        if distributed.is_main():
            launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
            write_json(self.status, {"status": status, "step": step, "launch": launch, "time": time.time(), **more})

    def describe_images(self, source: Source) -> None:
        """Write images.json, and skipped.csv where files are no images, with the reason. Rank 0 writes."""
        if not distributed.is_main():
            return
        write_json(self.images, facts_of(source))
        if source.skipped:
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([("path", "reason"), *source.skipped])
            write_text(self.path / "skipped.csv", table.getvalue())


def create_run(folder: Path, name: str | None, config_name: str, config_text: str) -> RunDirectory:
    """Make runs/NAME with its config and environment. NAME is the config's name and the time unless given. Collective.

    Raises UserError on every rank when the name is taken or the folder cannot be written.
    """
    problem = None
    path = folder / (name or f"{config_name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if distributed.is_main():
        try:
            path = _make(path, numbered=name is None)
        except FileExistsError:
            problem = ("run.name", f"{path} exists", "choose another name, or go on with: main.py resume " + str(path))
        except OSError as error:
            problem = ("run.folder", f"{path} cannot be made: {error.strerror}", "")
    path, problem = distributed.broadcast_object((path, problem))
    if problem:
        raise UserError(*problem)
    directory = RunDirectory(path)
    if distributed.is_main():
        write_text(directory.config, config_text)
        write_json(
            path / "environment.json", {**environment(), "command": " ".join(sys.argv), "world": distributed.world()}
        )
    directory.set_status("running", 0)
    return directory


def find_run(path: Path) -> RunDirectory:
    """The run in `path`. Raises UserError when there is none."""
    if not (path / "config.yml").is_file():
        raise UserError(str(path), "no run here (config.yml is missing)", "give the folder of a run, as in runs/NAME")
    return RunDirectory(path)


def _make(path: Path, *, numbered: bool) -> Path:
    """Make `path`, or with `numbered` the first free of path, path-2, path-3: two runs may start in one second."""
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if not numbered:
                raise
            number += 1
