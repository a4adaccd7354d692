"""Where results go, checked before the work whose results they are."""

import os
from pathlib import Path

from utils.errors import UserError


def check_file(option: str, path: Path) -> None:
    """Raise UserError unless a file `path`, the value of `option`, could be written."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        problem = "a folder" if path.is_dir() else f"'{path.parent}' is no folder that can be written to"
        raise UserError(f"{option} {path}", problem, "name a file in a folder that is there")


def check_folder(option: str, path: Path) -> None:
    """Raise UserError unless files could be written in a folder `path`, which need not be there yet."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{option} {path}", f"'{there}' is no folder that can be written to")
