"""Checkpoints: one file with everything, checksummed, written whole or not at all, the two newest kept."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from models.method import Method
from models.state import ClusterState
from utils.errors import UserError
from utils.files import read_json, sha256_of, write_bytes, write_json

KEPT = 2
MANIFEST = "manifest.json"


def save_checkpoint(
    folder: Path, method: Method, optimizer: Optimizer, state: ClusterState | None, step: int, epoch: int, config: str
) -> Path:
    """Write `folder/epoch_NNNN.pt`, point last.pt at it, and drop all but the two newest. Rank 0 alone calls.

    Everything a run is: weights, buffers and queues, optimiser, cluster state, step, config. It is synchronised to disk
    and renamed into place, and the manifest is written last: a crash at any point leaves the former one valid.
    """
    folder.mkdir(exist_ok=True)
    content = {
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": None if state is None else state.to_dict(),
        "step": step,
        "config": config,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = folder / f"epoch_{epoch:04d}.pt"
    data = buffer.getbuffer()
    write_bytes(path, data)
    entry = {"file": path.name, "sha256": sha256_of(data), "size_bytes": len(data), "step": step, "epoch": epoch}
    known = [old for old in _entries(folder) if old["file"] != path.name]
    write_json(folder / MANIFEST, {"checkpoints": [entry, *known][:KEPT]})
    _point_last_at(path)
    for stale in known[KEPT - 1 :]:
        (folder / stale["file"]).unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path, device: torch.device, warn: Callable[[str], None]) -> dict[str, Any]:
    """The newest checkpoint whose checksum holds, on `device`; a damaged newer one is named through `warn`.

    Raises UserError when there is none.
    """
    entries = _entries(folder)
    for entry in entries:
        path = folder / entry["file"]
        problem = _problem(path, entry)
        if problem is None:
            return torch.load(path, map_location=device, weights_only=True)
        warn(f"{path}: {problem}; falling back to the checkpoint before it")
    problem = "every checkpoint is damaged" if entries else "no checkpoint yet"
    raise UserError(str(folder), problem, "start the run again under another name")


def restore(checkpoint: dict[str, Any], method: Method, optimizer: Optimizer | None) -> ClusterState | None:
    """Put a checkpoint's content into `method` and `optimizer`; returns its cluster state."""
    method.load_state_dict(checkpoint["method"])
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
    return None if checkpoint["state"] is None else ClusterState.from_dict(checkpoint["state"])


def _entries(folder: Path) -> list[dict[str, Any]]:
    manifest = folder / MANIFEST
    return read_json(manifest)["checkpoints"] if manifest.is_file() else []


def _problem(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "the file is missing"
    if path.stat().st_size != entry["size_bytes"]:
        return f"{path.stat().st_size} bytes instead of {entry['size_bytes']}"
    return None if sha256_of(path) == entry["sha256"] else "its checksum does not hold"


def _point_last_at(path: Path) -> None:
    """last.pt -> path, replaced in one step."""
    link = path.with_name(f"last.pt.tmp.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    os.replace(link, path.with_name("last.pt"))
