"""The official files of ImageNet and Tiny-ImageNet, packed or not, as images with their class."""

import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data.listing import is_hidden, is_image_name
from utils.errors import UserError

TRAIN_TAR, VAL_TAR, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
TINY_ZIP, TINY_FOLDER = "tiny-imagenet-200.zip", "tiny-imagenet-200"
PLACES = ("", "train", "Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train")  # of class folders; the last two are Kaggle's
WNID = re.compile(r"n\d{8}")
Images = Iterator[tuple[str, str, Path | bytes]]  # class, file name, the file or its content


@dataclass(frozen=True)
class Part:
    """A part of a set as it was found: images() goes once over all; classes are known before."""

    folder: str
    classes: set[str]
    images: Callable[[], Images]


def find_train(source: Path, wnids: Sequence[str] | None, looked: list[str]) -> Part:
    """ImageNet's train images of `wnids` (None: of all) in `source`; the places tried are added to `looked`.

    They come from class folders, from a tar of each class, or from the tar of these tars, of which only the wanted
    members are read.

    Raises:
        UserError: an archive is damaged.
    """
    found: dict[str, Callable[[], Images]] = {}
    for place in (source / place for place in PLACES):
        looked.append(f"{place}/WNID[.tar]")
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            if WNID.fullmatch(path.name) and path.is_dir():
                found.setdefault(path.name, partial(_of_folder, path, path.name))
            elif WNID.fullmatch(path.stem) and path.suffix == ".tar":
                found.setdefault(path.stem, partial(_of_tar, path, 0, path.stem))
    archive = source if source.is_file() else source / TRAIN_TAR
    looked.append(str(archive))
    if archive.is_file():
        for wnid, start in _class_tars(archive).items():
            found.setdefault(wnid, partial(_of_tar, archive, start, wnid))
    wanted = {wnid: found[wnid] for wnid in sorted(found) if wnids is None or wnid in wnids}
    return Part("train", {*wanted}, lambda: chain.from_iterable(images() for images in wanted.values()))


def find_val(source: Path, looked: list[str]) -> Part | None:
    """ImageNet's val images, in class folders or in their tar beside the devkit, which knows the classes."""
    folder, archive, devkit = source / "val", source / VAL_TAR, source / DEVKIT
    looked += [f"{folder}/WNID", f"{archive} with {devkit.name}"]
    folders = [path for path in sorted(folder.glob("n*")) if WNID.fullmatch(path.name) and path.is_dir()]
    if folders:
        images = (_of_folder(path, path.name) for path in folders)
        return Part("val", {path.name for path in folders}, lambda: chain.from_iterable(images))
    if not archive.is_file() or not devkit.is_file():
        return None
    classes = val_classes(devkit)

    def of_archive() -> Images:
        for _, name, content in _of_tar(archive, 0, ""):
            number = int(PurePosixPath(name).stem.rpartition("_")[2])  # ILSVRC2012_val_00000001.JPEG
            yield classes[number - 1], name, content

    return Part("val", {*classes}, of_archive)


def val_classes(devkit: Path) -> list[str]:
    """The WordNet id of each of ImageNet's val images, in their order. Raises UserError if the devkit is damaged."""
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as tar:
            members = {PurePosixPath(member.name).name: member for member in tar}
            meta, numbers = (
                tar.extractfile(members[name]).read()  # type: ignore[union-attr]
                for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
            )
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        return [wnids[int(number)] for number in numbers.split()]
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as failure:
        raise UserError(str(devkit), f"is damaged or no devkit ({failure})") from None


def find_tiny(source: Path, looked: list[str]) -> list[Part]:
    """Tiny-ImageNet's parts train and val in its zip, or in its tree; none if it is not there."""
    for tree in (source / TINY_FOLDER, source):
        looked.append(f"{tree}/train/WNID/images")
        if (tree / "train").is_dir() and (tree / "val").is_dir():
            names = [path.relative_to(tree).as_posix() for path in sorted(tree.rglob("*"))]
            return _tiny_parts(names, tree.joinpath, str(tree))
    archive = source if source.is_file() else source / TINY_ZIP
    looked.append(str(archive))
    if not archive.is_file():
        return []
    try:
        packed = zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as failure:
        raise UserError(str(archive), f"is damaged or not whole ({failure})") from None
    prefix = f"{TINY_FOLDER}/"
    names = [name.removeprefix(prefix) for name in packed.namelist()]
    return _tiny_parts(names, lambda name: packed.read(prefix + name), str(archive))


def _tiny_parts(names: list[str], read: Callable[[str], Path | bytes], where: str) -> list[Part]:
    def is_image(name: str, part: str) -> bool:
        return name.startswith(f"{part}/") and name.endswith(".JPEG")

    train = [(name.split("/")[1], name) for name in names if is_image(name, "train")]
    if "val/val_annotations.txt" not in names:
        raise UserError(where, "has no val/val_annotations.txt, which knows the classes of the val images")
    annotations = read("val/val_annotations.txt")
    text = annotations.read_text() if isinstance(annotations, Path) else annotations.decode()
    classes = dict(line.split("\t")[:2] for line in text.splitlines() if line)
    val = [(classes.get(PurePosixPath(name).name, ""), name) for name in names if is_image(name, "val")]
    if not all(wnid for wnid, _ in val):
        raise UserError(where, "val/val_annotations.txt does not know the class of every val image")
    for wnid, name in (*train, *val):  # it becomes a folder
        if not WNID.fullmatch(wnid):
            raise UserError(where, f"the class '{wnid}' of {name} is no class of ImageNet")

    def part(folder: str, pairs: list[tuple[str, str]]) -> Part:
        return Part(
            folder,
            {wnid for wnid, _ in pairs},
            lambda: ((w, PurePosixPath(name).name, read(name)) for w, name in pairs),
        )

    return [part("train", train), part("val", val)]


def _class_tars(archive: Path) -> dict[str, int]:
    """Where the tar of each class begins within the tar of all of them, in bytes."""
    starts = {}
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if WNID.fullmatch(name.stem) and name.suffix == ".tar":
                    starts[name.stem] = member.offset_data
            _check_end(file, tar.offset)
    except (OSError, tarfile.TarError) as failure:
        raise UserError(str(archive), f"is damaged or not whole ({failure})") from None
    return starts


def _check_end(file: BinaryIO, position: int) -> None:
    """Raises ReadError unless a tar's mark of its end is there: without it, `tarfile` takes a part for the whole."""
    file.seek(position)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")


def _of_folder(folder: Path, wnid: str) -> Images:
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_image_name(path.name) and not is_hidden(path.name):
            yield wnid, path.name, path


def _of_tar(archive: Path, start: int, wnid: str) -> Images:
    """The files of the tar that begins `start` bytes within `archive`, read from its first to its last."""
    try:
        with archive.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is not None:
                        yield wnid, PurePosixPath(member.name).name, content.read()
            _check_end(file, start + tar.offset)
    except (OSError, tarfile.TarError) as failure:
        raise UserError(str(archive), f"is damaged or not whole ({failure})") from None
