"""What a long linear evaluation has reached, in a file beside its result: stopped, it goes on at its last epoch."""

import io
import time
from pathlib import Path
from typing import Any

import torch

from evaluation.linear_settings import LinearSettings
from utils import distributed
from utils.files import sha256_of, write_bytes


class ProgressFile:
    """One file, written by rank 0 at most every `run.checkpoint_minutes`, and removed at the end.

    It counts for the same settings and weights alone: `of` is a word on the latter.
    """

    def __init__(self, path: Path, settings: LinearSettings, of: str) -> None:
        self.path, self._key = path, sha256_of((settings.to_yaml() + of).encode())
        self._seconds, self._saved = 60 * settings.run.checkpoint_minutes, time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last for these settings; None where there is no such file. Collective: equal on all ranks."""
        content = None
        if distributed.is_main() and self.path.is_file():
            try:
                content = torch.load(self.path, map_location="cpu", weights_only=True)
            except Exception:  # torch, zip and pickle each have their own for a damaged file: begin anew
                content = None
        content = distributed.broadcast_object(content)
        return content["state"] if isinstance(content, dict) and content.get("key") == self._key else None

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` if the last one is old enough. Rank 0 writes."""
        if distributed.is_main() and time.monotonic() - self._saved >= self._seconds:
            buffer = io.BytesIO()
            torch.save({"key": self._key, "state": state}, buffer)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, buffer.getbuffer())
            self._saved = time.monotonic()

    def remove(self) -> None:
        """The result is written: nothing is left to go on with."""
        if distributed.is_main():
            self.path.unlink(missing_ok=True)
