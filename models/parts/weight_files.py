"""Files of weights as tables of tensors; none of their code runs."""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import read_json, sha256_of

Table = dict[str, Tensor]  # by dotted name


def read_tensors(path: Path) -> Table:
    """Every tensor in a file, or in the newest checkpoint of a run folder, by its dotted name. No code of it runs.

    Raises:
        UserError: an unreadable or damaged file, or one with other objects than tensors and plain values.
    """
    file = _file(path)
    try:
        file.open("rb").close()
    except OSError as error:
        raise UserError(str(file), f"cannot be read: {error.strerror}") from None
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # training options, in many published files
            content = torch.load(file, map_location="cpu", weights_only=True)
        table = dict(_walk(content))
    except Exception as error:  # torch, zip, pickle and safetensors each have their own for a damaged file
        found = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if found is None:
            raise UserError(str(file), "is damaged, or no file of weights", "bring it again") from None
        remedy = "save the network's state_dict alone: torch.save(network.state_dict(), FILE)"
        raise UserError(str(file), f"holds {found[1]}, which only running its code could read", remedy) from None
    if not table:
        raise UserError(str(file), "holds no tensors")
    return table


def _file(path: Path) -> Path:
    """The file itself; of a run folder its newest checkpoint. One of ours is held against its checksum."""
    if path.is_dir():
        inside = [path / "checkpoints" / "last.pt", path / "last.pt"]
        path = next((file for file in inside if file.exists()), inside[0])
    if not path.is_file():
        raise UserError("encoder.checkpoint", f"{path} does not exist")
    file = path.resolve()
    manifest = file.parent / "manifest.json"
    known = read_json(manifest) if manifest.is_file() else {}
    entries = known.get("checkpoints", []) if isinstance(known, dict) else []
    if any(entry.get("file") == file.name and entry.get("sha256") != sha256_of(file) for entry in entries):
        raise UserError(str(path), "is damaged: its checksum does not hold", "take another checkpoint")
    return path


def _walk(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, inner in content.items():
            yield from _walk(inner, f"{name}.{key}" if name else str(key))
