"""Checkpoints: one file with everything, checksummed, written whole or not at all, the newest kept."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.method import Method
from models.state import ClusterState
from utils.clock import Clock
from utils.errors import UserError
from utils.files import read_json, replacing, sha256_of, write_json

KEPT = 2
FORMAT = 2
MANIFEST = "manifest.json"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A run as it stood, in tensors of its own on the CPU: training may go on while it is written."""

    content: dict[str, Any]
    step: int
    epoch: int
    inside_epoch: bool

    @property
    def name(self) -> str:
        """Its file: epoch_0012.pt after an epoch, epoch_0012_step_0000345.pt inside the next one."""
        return f"epoch_{self.epoch:04d}" + (f"_step_{self.step:07d}" if self.inside_epoch else "") + ".pt"


def snapshot(
    method: Method,
    optimizer: Optimizer,
    state: ClusterState | None,
    clock: Clock,
    config: str,
    *,
    before_end: ClusterState | None = None,
    done: bool = False,
    loss_scale: dict[str, Any] | None = None,
) -> Snapshot:
    """Everything a run is: weights, buffers and queues, optimiser, cluster state, step, config.

    done: `state` is that of the E-step after the last step; the one that training had used is `before_end`, so that
    the run can be made longer. loss_scale: of fp16.
    """
    content = {
        "format": FORMAT,
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": None if state is None else state.to_dict(),
        "before_end": None if before_end is None else before_end.to_dict(),
        "done": done,
        "loss_scale": loss_scale,
        "step": clock.step,
        "config": config,
    }
    return Snapshot(_own_copy(content), clock.step, clock.whole_epochs, clock.step_in_epoch > 0)


def write_checkpoint(folder: Path, taken: Snapshot, keep_every: int | None = None) -> Path:
    """Write a snapshot into `folder`, point last.pt at it, and drop all but the two newest. One process calls.

    It is synchronised to disk and renamed into place, and the manifest is written last: a crash at any point leaves
    the former one valid. keep_every: checkpoints after every so many epochs stay.
    Raises OSError where the disk is full or the folder cannot be written; what was there before then stands.
    """
    folder.mkdir(exist_ok=True)
    _sweep(folder)
    path = folder / taken.name
    with replacing(path) as file:
        try:
            torch.save(taken.content, file)
        except RuntimeError as error:  # torch's, in place of the error of the file that it writes to
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from None
        file.flush()
        checksum, size = sha256_of(Path(file.name)), file.tell()
    whole = keep_every is not None and not taken.inside_epoch and taken.epoch % keep_every == 0
    entry = {
        "file": path.name, "sha256": checksum, "size_bytes": size, "step": taken.step, "epoch": taken.epoch,
        "kept": whole,
    }  # fmt: skip
    known = [old for old in _entries(folder, _silent) if old["step"] < taken.step and old["file"] != path.name]
    kept = [entry, *known[: KEPT - 1], *(old for old in known[KEPT - 1 :] if old.get("kept"))]
    write_json(folder / MANIFEST, {"checkpoints": kept})
    _point_last_at(path)
    names = {old["file"] for old in kept}
    for file_path in folder.glob("epoch_*.pt"):
        if file_path.name not in names:
            file_path.unlink(missing_ok=True)
    return path


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has come as far as to write one, be it damaged by now."""
    return (folder / MANIFEST).is_file()


def load_checkpoint(folder: Path, device: torch.device, warn: Callable[[str], None]) -> dict[str, Any]:
    """The newest checkpoint whose checksum holds, on `device`; a damaged newer one is named through `warn`.

    Raises UserError when there is none, or when a newer version of this software wrote it.
    """
    entries = _entries(folder, warn)
    for entry in entries:
        path = folder / entry["file"]
        problem = _problem(path, entry)
        if problem is None:
            try:
                content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError) as error:
                problem = f"cannot be read ({' '.join(str(error).split())[:80]})"
            else:
                return _readable(content, path)
        warn(f"{path}: {problem}; falling back to the checkpoint before it")
    problem = "every checkpoint is damaged" if entries else "no checkpoint yet"
    raise UserError(str(folder), problem, "start the run again under another name")


def restore(checkpoint: dict[str, Any], method: Method, optimizer: Optimizer | None) -> ClusterState | None:
    """Put a checkpoint's content into `method` and `optimizer`; returns its cluster state."""
    method.load_state_dict(checkpoint["method"])
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
    return None if checkpoint["state"] is None else ClusterState.from_dict(checkpoint["state"])


def _readable(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """`content` with what earlier formats did not know."""
    written = content.get("format", 1)
    if written > FORMAT:
        problem = f"written by a newer version (format {written}, this one reads up to {FORMAT})"
        raise UserError(str(path), problem, "install that version")
    return {"before_end": None, "done": None, "loss_scale": None, **content}


def _own_copy(value: Any) -> Any:
    """`value` with each tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _own_copy(inner) for key, inner in value.items()}
    return type(value)(_own_copy(inner) for inner in value) if isinstance(value, list | tuple) else value


def _entries(folder: Path, warn: Callable[[str], None]) -> list[Entry]:
    """What the manifest lists, newest first; where it is damaged, the files that are whole by their own checksums."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return []
    try:
        found: list[Entry] = read_json(manifest)["checkpoints"]
        if all((folder / entry["file"]).parent == folder and int(entry["step"]) >= 0 for entry in found):
            return found
    except (UserError, KeyError, TypeError, ValueError):
        pass
    warn(f"{manifest}: is damaged; taking the newest file that is whole")
    return [{"file": path.name, "step": 0} for path in sorted(folder.glob("epoch_*.pt"), reverse=True)]


def _problem(path: Path, entry: Entry) -> str | None:
    if not path.is_file():
        return "the file is missing"
    if "sha256" not in entry:  # of a damaged manifest: a checkpoint is a zip archive, with a checksum for each part
        try:
            with zipfile.ZipFile(path) as archive:
                return None if archive.testzip() is None else "a checksum in it does not hold"
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return "it is damaged"
    if path.stat().st_size != entry["size_bytes"]:
        return f"{path.stat().st_size} bytes instead of {entry['size_bytes']}"
    return None if sha256_of(path) == entry["sha256"] else "its checksum does not hold"


def _sweep(folder: Path) -> None:
    """Remove what a killed writer has left half-written."""
    for left in folder.glob("*.tmp.*"):
        left.unlink(missing_ok=True)


def _point_last_at(path: Path) -> None:
    """last.pt -> path, replaced in one step."""
    link = path.with_name(f"last.pt.tmp.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    os.replace(link, path.with_name("last.pt"))


def _silent(text: str) -> None:
    """Say nothing: the next checkpoint replaces what is damaged."""
