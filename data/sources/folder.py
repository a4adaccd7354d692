"""A folder of photographs, of any sizes and in any subfolders."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import torch

from data.listing import IMAGE_ENDINGS, NOT_UTF8, Listing, is_hidden, is_image_name, no_image_by_name, printable
from data.sources.base import DataConfig
from data.sources.truth import parent_folders, with_labels
from utils.errors import UserError


def list_folder(config: DataConfig) -> Listing:
    """`list_tree` of `data.root`, with the classes that `data.truth` asks for.

    Raises:
        UserError: no such folder, no image file in it, or no classes where they should be.
    """
    root = Path(config.root)
    if not root.is_dir():
        problem = f"'{root}' is {'not a folder' if root.exists() else 'not there'}"
        raise UserError("data.root", problem, "give the folder that holds the images")
    return with_labels(list_tree(root), config, root)


def list_tree(root: Path, *, labelled: bool = False) -> Listing:
    """The files under the folder that end as images do, in sorted order of their paths relative to it.

    Links to files are followed, links to folders are not. Hidden files and what file managers leave behind are passed
    over in silence; what else is no image by its name is in `skipped`. `labelled`: an image's class is the folder right
    above it.

    Raises:
        UserError: no image file in it.
    """
    found: dict[str, tuple[int, int]] = {}
    skipped: list[tuple[str, str]] = []
    subfolders = [""]
    while subfolders:
        prefix = subfolders.pop()
        try:
            entries = list(os.scandir(root / prefix))
        except OSError as error:
            skipped.append((printable(prefix), f"a folder that cannot be opened ({error.strerror})"))
            continue
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if is_hidden(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                subfolders.append(f"{name}/")
                continue
            outcome = stamp_or_reason(root / name)
            if isinstance(outcome, str):
                skipped.append((printable(name), outcome))
            else:
                found[name] = outcome
    if not found:
        raise UserError("data.root", f"no image under '{root}'", f"known endings: {' '.join(IMAGE_ENDINGS)}")
    names = sorted(found)
    stamps = torch.tensor([found[name] for name in names], dtype=torch.int64)  # (N, 2)
    labels = parent_folders(names) if labelled else None
    return Listing(str(root), names, stamps, file_reader(root, names), sorted(skipped), labels)


def stamp_or_reason(path: Path, *, any_ending: bool = False) -> tuple[int, int] | str:
    """Size in bytes and time of the last change in ns of a file to be read, or why it is not to be."""
    if printable(str(path)) != str(path):
        return NOT_UTF8
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
        return "a link to nowhere" if path.is_symlink() else f"cannot be read ({getattr(error, 'strerror', error)})"
    if stat.S_ISDIR(facts.st_mode):
        return "a link to a folder is not followed" if path.is_symlink() else "a folder"
    if not any_ending and not is_image_name(path.name):
        return no_image_by_name(path.name)
    if not stat.S_ISREG(facts.st_mode):
        return "not a file with content (a pipe or device)"
    return facts.st_size, facts.st_mtime_ns


def file_reader(root: Path, names: list[str]) -> Callable[[int], bytes]:
    """`Listing.read` of files, their names relative to the folder or absolute."""
    return lambda item: (root / names[item]).read_bytes()
