"""Images inside tar files, as WebDataset lays them out: read in place, never unpacked."""

import errno
import json
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.listing import NOT_UTF8, Listing, is_hidden, is_image_name, no_image_by_name, printable
from data.sources.base import DataConfig
from data.sources.truth import Labels, parent_folders, with_labels
from utils import distributed
from utils.errors import UserError

Skipped = list[tuple[str, str]]
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
COMPRESSED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
LABEL_ENDINGS = (".cls", ".json", ".txt")
LARGEST_LABEL = 2**20  # bytes of a member that may hold a class


@dataclass
class Shard:
    """What one tar file holds. prefix: put before its images' names. changed: time of its last change in ns.

    images: first byte and size by name. labels: by ending, class by name without the ending.
    """

    path: Path
    prefix: str
    changed: int = 0
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=list)

    def label(self, image: str, ending: str) -> str | None:
        """The class that the member beside the image tells, of the same name up to its last dot or to its first."""
        by_name = self.labels.get(ending, {})
        return by_name.get(posixpath.splitext(image)[0]) or by_name.get(_sample(image)) or None


def list_shards(config: DataConfig) -> Listing:
    """The images in the tar file `data.root`, or in those of that folder and its subfolders, found by their headers.

    Rows are in sorted order of the shards' names and, within a shard, of the images' names: whatever order they were
    packed in, a tar of a folder has the rows of the folder. With several shards a name begins with its shard's.
    Of a damaged shard what lies before the damage is used. Members that belong to an image (of the same name up to the
    first dot) are passed over in silence. "folders" as `data.truth` is the first that there is of: .cls members, .json
    members with "label" or "cls", folders right above the images, .txt members.

    Raises:
        UserError: no such file or folder, no tar file or no image in it, a compressed one, or no classes as asked for.
    """
    root = Path(config.root)
    files, skipped = _find_shards(root)
    shards = []
    for file in tqdm(files, desc=f"listing {root}", delay=2, disable=not distributed.is_main()):
        shard = Shard(file, f"{file.relative_to(root).as_posix()}/" if len(files) > 1 else "")
        _read_headers(shard, labelled=config.truth == "folders")
        shards.append(shard)
        skipped += shard.skipped
    rows = [(number, name) for number, shard in enumerate(shards) for name in sorted(shard.images)]
    if not rows:
        first = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise UserError(str(root), f"no image in its {len(files)} tar files{first}")
    places = torch.tensor([(number, *shards[number].images[name]) for number, name in rows])  # (N, 3)
    changed = torch.tensor([shard.changed for shard in shards])[places[:, 0]]
    listing = Listing(
        where=str(root),
        names=[shards[number].prefix + name for number, name in rows],
        stamps=torch.stack([places[:, 2], changed], 1),  # (N, 2)
        read=_reader(files, places),
        skipped=skipped,
    )
    labels = _labels([(shards[number], name) for number, name in rows]) if config.truth == "folders" else None
    return with_labels(listing, config, root, labels)


def _find_shards(root: Path) -> tuple[list[Path], Skipped]:
    """The tar files in sorted order of their names, and what else lies in the folder."""
    if not root.exists():
        raise UserError("data.root", f"'{root}' is not there", "give a tar file or a folder of them")
    if root.is_file():
        files, others = [root], []
    else:
        below = [
            Path(folder, name)
            for folder, subfolders, names in os.walk(root)
            if not any(is_hidden(part) for part in Path(folder).relative_to(root).parts)
            for name in names
            if not is_hidden(name)
        ]
        below.sort(key=lambda file: file.relative_to(root).as_posix())
        endings = (".tar", *COMPRESSED_ENDINGS)
        files = [file for file in below if file.name.lower().endswith(endings)]
        others = [file for file in below if not file.name.lower().endswith(endings)]
    for file in files:
        if file.name.lower().endswith(COMPRESSED_ENDINGS):
            raise _compressed(file, file.suffix[1:])
    if not files:
        raise UserError("data.root", f"no tar file in '{root}'", "give a tar file or a folder of them")
    return files, [(printable(file.relative_to(root).as_posix()), "not a tar file by its name") for file in others]


def _compressed(file: Path, how: str) -> UserError:
    return UserError(
        str(file), f"is compressed ({how}): its images cannot be read in place", "unpack it to a plain .tar"
    )


def _read_headers(shard: Shard, *, labelled: bool) -> None:
    """Fill the shard from one pass over its headers; of what members hold only the classes are read."""
    name = printable(shard.prefix.rstrip("/") or str(shard.path))
    beside: list[str] = []
    try:
        with shard.path.open("rb") as file:
            facts, begin = os.fstat(file.fileno()), file.read(6)
            for magic, how in COMPRESSED.items():
                if begin.startswith(magic):
                    raise _compressed(shard.path, how)
            file.seek(0)
            shard.changed = facts.st_mtime_ns
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in _members(tar):
                        _take(shard, member, facts.st_size, beside)
                        if labelled and member.isreg() and member.name.lower().endswith(LABEL_ENDINGS):
                            _take_label(shard, member, file.fileno())
                    # tarfile stops at a bad header as at the end; the end is marked by zeros, or is the file's own
                    file.seek(tar.offset)
                    rest = file.read(tarfile.BLOCKSIZE)
                if rest.strip(b"\0"):
                    raise tarfile.ReadError(f"bad header at byte {tar.offset}")
            except (tarfile.TarError, ValueError, ArithmeticError, MemoryError) as error:  # all by bad headers
                shard.skipped.append((name, f"damaged ({error}): used are its first {len(shard.images)} images"))
    except OSError as error:
        shard.skipped.append(
            (name, f"cannot be read ({error.strerror}): used are its first {len(shard.images)} images")
        )
    samples = {_sample(image) for image in shard.images}
    strangers = (other for other in beside if _sample(other) not in samples)
    shard.skipped += [(shard.prefix + printable(other), no_image_by_name(other)) for other in strangers]


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members in their order, none of them kept by `tar`, their names without a leading ./ or /."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        if member.size < 0:  # the next header would be one that was read before, without end
            raise tarfile.ReadError("a negative size")
        member.name = posixpath.normpath(member.name).lstrip("/")
        if not any(is_hidden(part) for part in member.name.split("/")):
            yield member


def _take(shard: Shard, member: tarfile.TarInfo, file_size: int, beside: list[str]) -> None:
    """Enter the member among the images, among what is left out with a reason, or into `beside`, to be seen later."""
    reason = None
    if member.isdir():
        return
    if not is_image_name(member.name):
        beside.append(member.name)
        return
    if printable(member.name) != member.name:
        reason = NOT_UTF8
    elif not member.isreg():
        reason = "a link inside a tar file is not followed" if member.islnk() or member.issym() else "not a plain file"
    elif member.offset_data + member.size > file_size:
        reason = "cut off: its tar file ends before it does"
    else:
        if member.name in shard.images:
            shard.skipped.append((shard.prefix + member.name, "is in its tar file twice; the last counts"))
        shard.images[member.name] = (member.offset_data, member.size)
    if reason is not None:
        shard.skipped.append((shard.prefix + printable(member.name), reason))


def _take_label(shard: Shard, member: tarfile.TarInfo, descriptor: int) -> None:
    """Read the class out of the member: its first line, or "label" or "cls" of a JSON object."""
    if member.size > LARGEST_LABEL:
        return
    text = os.pread(descriptor, member.size, member.offset_data).decode("utf-8", "replace").strip()
    stem, ending = posixpath.splitext(member.name)
    if ending.lower() == ".json":
        try:
            value = json.loads(text)
        except ValueError:
            return
        told = [value[key] for key in ("label", "cls") if key in value] if isinstance(value, dict) else []
        text = str(told[0]) if told and isinstance(told[0], str | int) else ""
    if text:
        shard.labels.setdefault(ending.lower(), {})[stem] = text.splitlines()[0].strip()


def _sample(name: str) -> str:
    """WebDataset's key of a member: its name up to the first dot behind the last slash."""
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.split(".", 1)[0])


def _labels(rows: list[tuple[Shard, str]]) -> Labels:
    """The class of each image by the first kind of hint that any image has."""

    def told_by(ending: str) -> Labels:
        return [shard.label(name, ending) for shard, name in rows]

    hints = (
        lambda: told_by(".cls"),
        lambda: told_by(".json"),
        lambda: parent_folders([name for _, name in rows]),
        lambda: told_by(".txt"),  # last: in sets of images with captions each is another
    )
    return next((labels for labels in (hint() for hint in hints) if any(labels)), [None] * len(rows))


def _reader(files: list[Path], places: Tensor) -> Callable[[int], bytes]:
    """`Listing.read` of members: places (N, 3) int64 number of the file, first byte, size."""

    def read(item: int) -> bytes:
        number, start, size = places[item].tolist()
        # opened anew each time: threads share no position, and thousands of shards no limit of open files
        descriptor = os.open(files[number], os.O_RDONLY)
        try:
            parts = []
            while size > 0:
                parts.append(os.pread(descriptor, size, start))
                if not parts[-1]:
                    raise OSError(errno.EIO, "its tar file has become shorter")
                start, size = start + len(parts[-1]), size - len(parts[-1])
            return b"".join(parts)
        finally:
            os.close(descriptor)

    return read
