"""Data sets without an open address, built from the official files that the user has: `main.py prepare NAME`."""

import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from data.prepare_inputs import Part, find_tiny, find_train, find_val
from data.sources.imagenet import N_CLASSES, check_classes, count_files
from data.sources.imagenet_subsets import IMAGENET10, IMAGENET_DOGS
from data.sources.tiny_imagenet import N_CLASSES as N_TINY
from data.workshop import progress, workshop
from utils import compat
from utils.errors import UserError, did_you_mean

Say = Callable[[str], None]
Counts = dict[str, Counter[str]]  # of a part's folder: images of each class

CLASSES: dict[str, Sequence[str] | int] = {
    "imagenet10": IMAGENET10,
    "imagenet_dogs": IMAGENET_DOGS,
    "tiny_imagenet": N_TINY,
    "imagenet": N_CLASSES,
}
# images of each class, by set and part; ImageNet's own train part has a total alone, 732 to 1,300 in a class
PER_CLASS = {
    ("imagenet10", "train"): 1300,
    ("imagenet_dogs", "train"): 1300,
    ("tiny_imagenet", "train"): 500,
    ("tiny_imagenet", "val"): 50,
    ("imagenet", "val"): 50,
}
IMAGENET_TRAIN = 1_281_167


def prepare(name: str, source: Path, root: Path, say: Say) -> Path:
    """Build the set `name` as `root`/NAME/{train,val}/WNID/FILE from what lies in `source`; returns its folder.

    Files of an unpacked tree are hard-linked, copied where that cannot be. Nothing is there before all is. A class
    with another number of images than published is told by `say`.

    Raises:
        UserError: no such set, classes are missing, an archive is damaged, or another set lies in the place.
    """
    if name not in CLASSES:
        raise UserError("prepare", f"'{name}' is not prepared{did_you_mean(name, CLASSES)}")
    target = root / name
    if not _is_there(name, target, say):
        parts = _find(name, source, say)
        try:
            with workshop(target) as temporary:
                if not _is_there(name, target, say):
                    _build(name, parts, temporary / name, say)
                    os.rename(temporary / name, target)
        except (OSError, zipfile.BadZipFile, zlib.error) as failure:
            raise UserError(str(target), f"cannot be made ({failure})") from None
    return target


def _is_there(name: str, target: Path, say: Say) -> bool:
    """Whether the set lies in its place; it was put there whole. Raises UserError if another one does."""
    if not target.exists():
        return False
    for part in ("train", "val"):
        if part == "train" or (target / part).is_dir():
            counts = count_files(target / part) if (target / part).is_dir() else {}
            check_classes(name, target / part, counts, CLASSES[name])
            say(f"{target / part} is there already: {sum(counts.values()):,} images of {len(counts)} classes")
    return True


def _find(name: str, source: Path, say: Say) -> list[Part]:
    """The parts of the set in `source`, no class missing. Raises UserError."""
    if not source.exists():
        raise UserError("--from", f"'{source}' is not there", "give the folder of the official files")
    looked: list[str] = []
    if name == "tiny_imagenet":
        parts = find_tiny(source, looked)
        wanted = sorted({wnid for part in parts for wnid in part.classes})  # their names are in no list here
        if len(wanted) != N_TINY:
            problem = f"{len(wanted)} of the {N_TINY} classes of {name} are there"
            raise UserError("--from", problem, f"looked for {', '.join(looked)}")
    elif name == "imagenet":
        wanted = _all_wnids()
        val = find_val(source, looked)
        if val is None:
            say(f"no val images, so there will be no split test; looked for {', '.join(looked)}")
        parts = [find_train(source, wanted, looked), *([val] if val else [])]
    else:
        wanted = list(IMAGENET10 if name == "imagenet10" else IMAGENET_DOGS)
        parts = [find_train(source, wanted, looked)]
    for part in parts:
        missing = [wnid for wnid in wanted if wnid not in part.classes]
        if missing:
            some = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
            problem = f"{len(missing)} of the {len(wanted)} classes of {name} are missing in {part.folder}: {some}"
            raise UserError("--from", problem, f"looked for {', '.join(looked)}")
    return parts


def _build(name: str, parts: Sequence[Part], folder: Path, say: Say) -> None:
    """Write all images, then compare their number with what was published."""
    for part in parts:
        counts: Counter[str] = Counter()
        expected = PER_CLASS.get((name, part.folder))
        total = expected * len(part.classes) if expected else IMAGENET_TRAIN
        with progress(f"{name} {part.folder}", " images", total) as bar:
            for wnid, file_name, content in part.images():
                _put(content, folder / part.folder / wnid / file_name, first=not counts[wnid])
                counts[wnid] += 1
                bar.update()
        empty = sorted(part.classes - counts.keys())
        if empty:
            raise UserError("--from", f"no image in {part.folder} of {', '.join(empty)}")
        for wnid in sorted(counts):
            if expected and counts[wnid] != expected:
                say(f"{part.folder}/{wnid}: {counts[wnid]:,} images, the papers count {expected:,}")
        if not expected and counts.total() != total:
            say(f"{part.folder}: {counts.total():,} images, {total:,} are published")
        say(f"{part.folder}: {counts.total():,} images of {len(counts)} classes")


def _put(content: Path | bytes, target: Path, first: bool) -> None:
    if first:
        target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
        return
    try:
        os.link(content.resolve(), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(content, target)


def _all_wnids() -> list[str]:
    """The thousand WordNet ids of ILSVRC 2012, as timm lists them."""
    compat.prepare_torchvision()
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())
