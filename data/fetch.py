"""Published files: found under `data.root` and checked by MD5, or downloaded, whole or not at all."""

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.workshop import progress, workshop
from utils.errors import UserError

CHUNK = 2**20
SILENCE_SECONDS = 60  # after which a server is given up


@dataclass(frozen=True)
class Published:
    """The files of a data set as its authors give them out; addresses and MD5s are those of torchvision 0.28.

    folder: where they lie under `data.root`, as torchvision puts them; `data.root` itself is looked at too.
    files: MD5 by name. archive: name and MD5 of the .tar.gz that holds them all; None: each is fetched by itself.
    urls: of the archive, else of folders that hold the files; the first that gives the right bytes.
    """

    name: str
    folder: str
    files: dict[str, str]
    urls: tuple[str, ...]
    archive: tuple[str, str] | None = None


def obtain(published: Published, names: Sequence[str], root: Path, download: bool) -> dict[str, Path]:
    """Where each of the files `names` lies, whole.

    What is missing or damaged is unpacked from the archive if it lies in `root`, else downloaded if `download`: by
    one process, while others wait. A .gz file may also lie there unpacked; its reader then checks its form.

    Raises:
        UserError: a file is neither there nor to be had.
    """
    found, damaged = _look(published, names, root)
    if len(found) == len(names):
        return found
    by_hand = published.archive is not None and (root / published.archive[0]).is_file()
    lacking = _lacking(published, names, root, found, damaged)
    if not download and not by_hand:
        raise UserError("data.root", lacking, f"data.download=true fetches it, or {_remedy(published, names, found)}")
    try:
        with workshop(root / published.name) as temporary:
            found, _ = _look(published, names, root)
            if len(found) < len(names):  # nobody fetched them while we waited
                _fetch(published, [name for name in names if name not in found], root, download, temporary)
                found, damaged = _look(published, names, root)
    except (OSError, EOFError, http.client.HTTPException, tarfile.TarError) as failure:
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise UserError(
            "data.root",
            f"{lacking}, and {'the download' if download else 'unpacking'} failed ({reason})",
            f"check {'the network' if download else 'the archive'}, or {_remedy(published, names, found)}",
        ) from None
    if len(found) < len(names):
        raise UserError("data.root", _lacking(published, names, root, found, damaged))
    return found


def md5_of(path: Path) -> str:
    """Hexadecimal MD5 of a file's content: against damage, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _look(published: Published, names: Sequence[str], root: Path) -> tuple[dict[str, Path], list[str]]:
    """The files that are whole, and the names of those that are there but damaged."""
    found, damaged = {}, []
    for name in names:
        places = [path for path in (root / published.folder / name, root / name) if path.is_file()]
        whole = [path for path in places if _is_whole(path, published.files[name])]
        unpacked = root / published.folder / name.removesuffix(".gz")
        if unpacked.is_file() and unpacked.name != name:  # its MD5 is not published
            whole.append(unpacked)
        if whole:
            found[name] = whole[0]
        elif places:
            damaged.append(name)
    return found, damaged


def _is_whole(path: Path, md5: str) -> bool:
    try:
        return md5_of(path) == md5
    except OSError:  # not ours to read, or a failing disk
        return False


def _fetch(published: Published, names: Sequence[str], root: Path, download: bool, temporary: Path) -> None:
    """Bring the files to their folder by way of `temporary`. Raises OSError or tarfile.TarError."""
    if published.archive is None:
        for name in names:
            _download([f"{url}{name}" for url in published.urls], published.files[name], temporary / name)
    else:
        archive, md5 = root / published.archive[0], published.archive[1]
        if not _is_whole(archive, md5):
            if not download:
                raise OSError(f"{archive.name} is damaged: its MD5 is not {md5}")
            archive = temporary / archive.name
            _download(published.urls, md5, archive)
        _unpack(archive, published.files, temporary)
        names = list(published.files)
    folder = root / published.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.replace(temporary / name, folder / name)


def _download(urls: Sequence[str], md5: str, target: Path) -> None:
    """The first of `urls` that gives a file with this MD5, as `target`. Raises OSError with each one's reason."""
    reasons = []
    for url in urls:
        digest = hashlib.md5(usedforsecurity=False)
        request = urllib.request.Request(url, headers={"User-Agent": "emblem"})
        try:
            with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer, target.open("wb") as file:
                length = answer.headers.get("Content-Length")
                with progress(f"downloading {target.name}", "B", int(length) if length else None) as bar:
                    while chunk := answer.read(CHUNK):
                        digest.update(chunk)
                        bar.update(file.write(chunk))
        except (OSError, http.client.HTTPException) as failure:
            reasons.append(f"{url}: {failure}")
            continue
        if digest.hexdigest() == md5:
            return
        reasons.append(f"{url}: what came is damaged or another file, its MD5 is not {md5}")
    raise OSError("; ".join(reasons))


def _unpack(archive: Path, names: dict[str, str], folder: Path) -> None:
    """The members called `names`, whatever folder of the archive they are in, as files of `folder`."""
    with (
        archive.open("rb") as packed,
        progress(f"unpacking {archive.name}", "B", archive.stat().st_size) as bar,
        tarfile.open(fileobj=packed, mode="r:gz") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member)
            name = PurePosixPath(member.name).name
            if content is not None and name in names:
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
            bar.update(packed.tell() - bar.n)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise OSError(f"{archive.name} has no {', '.join(absent)}")


def _lacking(published: Published, names: Sequence[str], root: Path, found: dict[str, Path], damaged: list[str]) -> str:
    """'no intact cifar10 under 'data_files' (data_batch_3 is damaged)'."""
    missing = [name for name in names if name not in found and name not in damaged]
    facts = [f"{', '.join(damaged)}: MD5 differs"] if damaged else []
    facts += [f"{', '.join(missing)} missing"] if missing and (found or damaged) else []
    return f"no intact {published.name} under '{root}'" + (f" ({'; '.join(facts)})" if facts else "")


def _remedy(published: Published, names: Sequence[str], found: dict[str, Path]) -> str:
    files = [published.archive] if published.archive else [(n, published.files[n]) for n in names if n not in found]
    return f"put {', '.join(f'{name} (MD5 {md5})' for name, md5 in files)} there"
