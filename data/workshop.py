"""Folders that are whole or not there: made beside their place by one process, then moved into it."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.files import locked


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A new empty folder beside `target`, for one process at a time: the others wait at its lock.

    What is to stay is moved out of it; the rest is removed, now or, after a kill, by the next one who comes. Raises
    OSError where nothing can be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock"), lambda: _tell_waiting(target)):
        for leftover in target.parent.glob(f".{target.name}.tmp.*"):  # who made them is dead: we have the lock
            shutil.rmtree(leftover, ignore_errors=True)
        folder = target.with_name(f".{target.name}.tmp.{os.getpid()}")
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def progress(what: str, unit: str, total: int | None = None, items: Iterable[Any] | None = None) -> "tqdm[Any]":
    """A bar on stderr with rate and remaining time, from the third second on; in a log a line every 30 s."""
    return tqdm(
        items, desc=what, unit=unit, unit_scale=unit == "B", total=total, delay=2,
        mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True,
    )  # fmt: skip


def _tell_waiting(target: Path) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"waiting for the process that is making {target}", file=sys.stderr, flush=True)
