"""Files that are whole or not there: written beside, flushed to the disk, then renamed into place; and locks."""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

Bytes = bytes | bytearray | memoryview


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which replaces `path` when the block has ended well. The folder must exist.

    A crash, or an error in the block, leaves the old content: never a part of the new.
    """
    beside = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_bytes(path: Path, data: Bytes) -> None:
    """Replace the file at once, by `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of the value as indented JSON; NaN and infinities become 'NaN', 'Infinity', '-Infinity'."""
    write_text(path, json.dumps(json_ready(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError when it cannot be read or is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(str(path), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(path), f"is damaged: {error}") from None


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path` (made if missing, never removed): one holder at a time, over processes and threads.

    Waits as long as another holds it, after one call of `on_wait`. The kernel lets go when the holder ends, however
    it ends. Raises OSError where the file cannot be made or the file system knows no locks.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_of(data: Bytes | Path) -> str:
    """Hexadecimal SHA-256 of the bytes, or of a file's content."""
    if not isinstance(data, Path):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_ready(value: Any) -> Any:
    """The value with dicts, lists and numbers that JSON knows; paths become text."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _flush_folder(folder: Path) -> None:
    """Bring the new name itself to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
