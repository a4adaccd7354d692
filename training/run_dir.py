"""The folder of a run: made once by rank 0, never overwritten."""

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sources.base import Source
from data.sources.remembered import facts_of
from data.sources.table import table_text
from utils import distributed
from utils.doctor import environment
from utils.errors import UserError
from utils.files import read_json, write_json, write_text
from utils.process import is_restart, launch_id


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
        """Record running, preempted, completed or failed with the step reached. Rank 0 writes."""
        if distributed.is_main():
            values = {"status": status, "step": step, "launch": launch_id(), "time": time.time(), **more}
            write_json(self.status, values)

    def describe_images(self, source: Source) -> None:
        """Write images.json, and skipped.csv where files are no images, with the reason. Rank 0 writes."""
        if not distributed.is_main():
            return
        write_json(self.images, facts_of(source))
        if source.skipped:
            write_text(self.path / "skipped.csv", table_text([("path", "reason"), *source.skipped]))


def create_run(folder: Path, name: str | None, config_name: str, config_text: str) -> RunDirectory:
    """Make runs/NAME with its config and environment. NAME is the config's name and the time unless given. Collective.

    Raises UserError on every rank when the name is taken or the folder cannot be written.
    """
    problem = None
    path = folder / (name or f"{config_name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if distributed.is_main():
        try:
            path = _make(path, config_text, numbered=name is None)
        except FileExistsError:
            problem = ("run.name", f"{path} exists", "choose another name, or go on with: main.py resume " + str(path))
        except OSError as error:
            problem = ("run.folder", f"{path} cannot be made: {error.strerror}", "")
    path, problem = distributed.broadcast_object((path, problem))
    if problem:
        raise UserError(*problem)
    return RunDirectory(path)


def begun_by_this_launch(folder: Path) -> RunDirectory | None:
    """The run in `folder` that the attempt before this one had begun; None where there is none, or no such attempt.

    Collective: what one launcher counts as a restart, another may not.
    """
    if not distributed.any_rank(is_restart()):
        return None
    found = None
    if distributed.is_main():
        for status in sorted(folder.glob("*/status.json"), key=_age):
            with contextlib.suppress(UserError):
                if read_json(status).get("launch") == launch_id():
                    found = status.parent
                    break
    found = distributed.broadcast_object(found)
    return None if found is None else RunDirectory(found)


def run_of_this_name(name: str | None, folder: Path) -> RunDirectory | None:
    """The run `folder/name` where it is there, as rank 0 sees it. Collective.

    Raises UserError on every rank where not all see what rank 0 sees: each reads the run's checkpoints itself.
    """
    there = name is not None and RunDirectory(folder / name).config.is_file()
    if distributed.any_rank(there) and distributed.any_rank(not there):
        raise UserError("run.folder", f"{folder} is not the same on all ranks", "put it where all machines see it")
    return RunDirectory(folder / name) if there and name is not None else None


def find_run(path: Path) -> RunDirectory:
    """The run in `path`. Raises UserError when there is none."""
    if not (path / "config.yml").is_file():
        raise UserError(str(path), "no run here (config.yml is missing)", "give the folder of a run, as in runs/NAME")
    return RunDirectory(path)


def _make(path: Path, config_text: str, *, numbered: bool) -> Path:
    """Make the folder `path`, or with `numbered` the first free of path, path-2, path-3: two may start in one second.

    It is filled beside and renamed into place: a run that is there has its config. Raises FileExistsError, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
        made = RunDirectory(Path(beside) / path.name)
        made.path.mkdir()
        write_text(made.config, config_text)
        facts = {**environment(), "command": " ".join(sys.argv), "world": distributed.world()}
        write_json(made.path / "environment.json", facts)
        made.set_status("running", 0)
        number = 1
        while True:
            candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
            if not candidate.exists():
                made.path.rename(candidate)
                return candidate
            if not numbered:
                raise FileExistsError(candidate)
            number += 1


def _age(path: Path) -> float:
    """Seconds since the file was written, about."""
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
