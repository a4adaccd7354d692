"""Encoded images in row order, wherever they lie: in a folder, named by a list, inside tar shards."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
NOT_UTF8 = "its name is not UTF-8"
LEFT_BY_PROGRAMS = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})  # file managers' own, lower case


@dataclass(frozen=True)
class Listing:
    """The N files (or members of archives) that should be images; whether they are is known once they are decoded.

    where: folder or file, as messages name it. names: N, unique, with forward slashes, as assignments.csv shows them.
    stamps: (N, 2) int64, size in bytes and time of the last change in ns: a changed file has another stamp.
    read(i): the encoded bytes of item i; safe in several threads; OSError when it cannot be read.
    skipped: what lies there and is no row, by name, with the reason in a few words.
    labels: N, the name of each item's class, None where unknown; None as a whole unless asked for. The source made
    of the listing gives them to scores alone.
    """

    where: str
    names: list[str]
    stamps: Tensor
    read: Callable[[int], bytes]
    skipped: list[tuple[str, str]]
    labels: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.names)


def is_image_name(name: str) -> bool:
    """Whether the name ends as image files do, in capitals or not."""
    return posixpath.splitext(name)[1].lower() in IMAGE_ENDINGS


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: .DS_Store, ._x.jpg, __MACOSX, Thumbs.db."""
    return name.startswith(".") or name.lower() in LEFT_BY_PROGRAMS


def printable(name: str) -> str:
    """The name, its bytes that are not UTF-8 written as \\udcNN: those cannot stand in a table."""
    return name.encode("utf-8", "backslashreplace").decode()


def no_image_by_name(name: str) -> str:
    """The reason to skip a file by its ending alone."""
    return f"not an image by its name ({posixpath.splitext(name)[1] or 'no ending'})"
