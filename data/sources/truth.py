"""Classes of own images, to score by and never to train on: read only where `data.truth` asks for them."""

import os
import posixpath
from dataclasses import replace
from pathlib import Path

from data.listing import Listing
from data.sources.base import DataConfig
from data.sources.table import read_table
from utils import distributed
from utils.errors import UserError, visible

Labels = list[str | None]


def with_labels(listing: Listing, config: DataConfig, root: Path, by_folders: Labels | None = None) -> Listing:
    """The listing with the classes that `data.truth` asks for: none, those of the folders, or those of a CSV.

    by_folders: the classes to take for "folders", if not the folders right above the images. A CSV's paths are names of
    the listing, or relative to `root`, or absolute. Images without a class and paths that are no image of the listing
    are counted in a line each.

    Raises:
        UserError: no image has a class, or the CSV cannot be read or gives one image two classes.
    """
    if config.truth == "none":
        return listing
    if config.truth == "folders":
        labels, place = by_folders or parent_folders(listing.names), "data.truth"
        if not any(labels):
            raise UserError(place, f"no class folders in '{listing.where}'", "data.truth=none, or a CSV (path,label)")
    else:
        place = config.truth
        labels = _from_csv(Path(config.truth), listing, root)
    unknown = [name for name, label in zip(listing.names, labels, strict=True) if label is None]
    if unknown:
        _warn(place, f"{len(unknown)} of {len(labels)} images have no class there and are not scored", unknown[0])
    return replace(listing, labels=labels)


def parent_folders(names: list[str]) -> Labels:
    """The name of the folder right above each file, None for a name without one."""
    parents = (posixpath.basename(posixpath.dirname(name)) for name in names)
    return [parent if parent not in ("", "..") else None for parent in parents]


def name_below(root: Path, path: str) -> str:
    """How a listing names the path: relative to the folder where it was given so or lies below, else absolute."""
    path = os.path.normpath(path)
    if os.path.isabs(path):
        below = os.path.relpath(path, root)
        path = path if below.split(os.sep)[0] == ".." else below
    return Path(path).as_posix()


def _from_csv(file: Path, listing: Listing, root: Path) -> Labels:
    """Each image's class in the CSV."""
    table = read_table(file)
    if table.labels is None:
        raise UserError(str(file), "no column named label", "a CSV with the columns path and label")
    given: dict[str, str] = {}
    for path, label in zip(table.paths, table.labels, strict=True):
        if label and given.setdefault(name_below(root, path), label) != label:
            raise UserError(str(file), f"'{path}' has two classes, '{given[name_below(root, path)]}' and '{label}'")
    strangers = given.keys() - set(listing.names)
    if len(strangers) == len(given):
        raise UserError(
            str(file),
            f"none of its {len(given)} paths with a class is an image of '{listing.where}'",
            f"images are named like '{listing.names[0]}'",
        )
    if strangers:
        _warn(str(file), f"{len(strangers)} of {len(given)} paths are no image of '{listing.where}'", min(strangers))
    return [given.get(name) for name in listing.names]


def _warn(place: str, problem: str, first: str) -> None:
    if distributed.is_main():
        print(visible(f"warning: {place}: {problem} (the first: {first})"), flush=True)
