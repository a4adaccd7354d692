"""`main.py predict`: the clusters of any images by a run, as CSV and folders of links, and what lies near an image."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from data.sources.table import table_text
from data.workshop import workshop
from evaluation.given_images import list_given, root_of
from evaluation.load_run import LoadedRun, Predictions, load_run
from evaluation.near_images import show_nearest
from evaluation.places import check_file, check_folder
from evaluation.predict import write_table
from evaluation.scores import cluster_sizes
from training.run_dir import find_run
from utils.errors import UserError, visible
from utils.files import write_text

LISTED = 20  # skipped files that the console names


def predict_images(path: Path, images: Sequence[str], out: Path, folders: Path | None, near: Path | None) -> None:
    """Write `out` (and its neighbour .skipped.csv), and the folders and the nearest images that are asked for.

    One process does it: under a launcher rank 0, while the others leave. Without `images` the nearest are searched
    among those of the run's data set, and no CSV is written.

    Raises:
        UserError: a path or run that is not there, nothing to do, no image that can be read, no clusters, or a place
            that cannot be written to.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    find_run(path)
    listing = list_given(images) if images or near is None else None
    _check_places(out, folders, images)
    if near is not None and not near.is_file():
        raise UserError(str(near), "no such file", "--near takes one image")
    run = load_run(path)
    _tell_state(run)
    if near is not None:
        run.embed(near)  # refused now where it is no image, not when the rest is written
    found, squares = None, None
    if listing is not None:
        squares = run.squares(listing)
        found = run.predict(squares)
        _write(run, found, out)
        if folders is not None:
            make_folders(found, root_of(listing), folders, run.run.method.n_clusters)
            print(f"wrote {folders}: a folder for each cluster")
    if near is not None:
        print(show_nearest(run, near, found, squares, out.with_suffix(".near.png")))


def make_folders(found: Predictions, root: Path, target: Path, n_clusters: int) -> None:
    """Make `target` with a folder for each cluster that has images, and in it links to them; copies where links fail.

    root: what relative paths are relative to. Of images of one name in a cluster the second is called NAME-2.
    Whole or not there. Raises UserError where it cannot be written.
    """
    width = len(str(n_clusters - 1))
    try:
        with workshop(target) as temporary:
            made = temporary / "made"
            made.mkdir()
            for path, cluster in zip(found.paths, found.cluster.tolist(), strict=True):
                folder = made / f"{cluster:0{width}d}"
                folder.mkdir(exist_ok=True)
                _link((root / path).resolve(), _free_name(folder, Path(path)))
            os.rename(made, target)  # also where an empty folder is
    except OSError as error:
        raise UserError(str(target), f"cannot be made ({error.strerror or error})") from None


def _free_name(folder: Path, path: Path) -> Path:
    place, number = folder / path.name, 1
    while os.path.lexists(place):
        number += 1
        place = folder / f"{path.stem}-{number}{path.suffix}"
    return place


def _link(image: Path, place: Path) -> None:
    try:
        place.symlink_to(image)
    except OSError:  # a file system or a system that has none
        shutil.copy2(image, place)


def _check_places(out: Path, folders: Path | None, images: Sequence[str]) -> None:
    """Raise UserError now for what could not be written when all is computed."""
    check_file("--out", out)
    if out.exists() and any(os.path.lexists(word) and out.samefile(word) for word in images):
        raise UserError(f"--out {out}", "it is one of IMAGES", "give another file")
    if folders is None:
        return
    if not images:
        raise UserError("--folders", "no images given", "name files, folders, globs or a list of paths")
    check_folder("--folders", folders)
    if folders.is_dir() and any(folders.iterdir()):
        raise UserError(f"--folders {folders}", "it is there and not empty", "give another folder")


def _tell_state(run: LoadedRun) -> None:
    clock = run.run.clock
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        print("predict: one process does all, the other ranks have left")
    if not clock.finished:
        print(f"the run stopped at epoch {clock.epoch:g} of {clock.epochs}: these are the clusters of its last E-step")


def _write(run: LoadedRun, found: Predictions, out: Path) -> None:
    """The CSV and, where files were skipped, the list of them; both are told on the console."""
    write_table(out, ["path"], [(path,) for path in found.paths], found)
    n_clusters = run.run.method.n_clusters
    sizes = cluster_sizes(found.cluster, n_clusters)
    print(f"wrote {out}: {len(found.paths):,} images in {sizes['used']} of {n_clusters} clusters")
    beside = out.with_suffix(".skipped.csv")
    if not found.skipped:
        beside.unlink(missing_ok=True)  # of an earlier call
        return
    write_text(beside, table_text([("path", "reason"), *found.skipped]))
    print(f"{len(found.skipped):,} files skipped: {beside}")
    for name, reason in found.skipped[:LISTED]:
        print(visible(f"  {name}: {reason}"))
    if len(found.skipped) > LISTED:
        print(f"  ... and {len(found.skipped) - LISTED:,} more")
