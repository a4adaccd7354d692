"""Arrays made from a listing, kept on disk: written once by whoever comes first, then mapped into memory by all."""

import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from data.decode import DECODER
from data.decode_all import Fault
from data.listing import Listing
from utils import distributed
from utils.files import locked, write_text

FORMAT = 1  # of the files: another one gives them other names
SPARE_BYTES = 2**26  # left free on the disk
GIB = 2**30
Made = Callable[[list[Fault]], Iterator[np.ndarray]]
Found = tuple[Tensor, list[Fault]]


class CacheError(Exception):
    """Why nothing can be kept in the cache folder, in a few words."""


class CachedArray:
    """One row for each readable item of a listing, in `folder`/KIND-PLACE-CONTENT.npy, and an index beside it.

    PLACE stands for where the images lie and for `split`, other parts of one place being other images; CONTENT for
    their names, sizes and times and for the decoder: after any change the file has another name. The index, written
    last, names the items that are no rows; without it the array is not believed.
    """

    def __init__(
        self, folder: Path, kind: str, split: str, listing: Listing, row_shape: tuple[int, ...], dtype: type[np.generic]
    ) -> None:
        self._folder, self._listing, self._row_shape, self._dtype = folder, listing, row_shape, np.dtype(dtype)
        place = _digest(os.path.realpath(listing.where), split)[:8]
        content = _digest(FORMAT, DECODER, *listing.names, listing.stamps.contiguous().numpy().tobytes())[:16]
        self._prefix = f"{re.sub(r'[^A-Za-z0-9._+-]', '_', kind)}-{place}"
        self.array = folder / f"{self._prefix}-{content}.npy"
        self.index = self.array.with_suffix(".json")

    def open(self, make: Made) -> Found:
        """The rows, mapped from the file and never to be written to, and the items that are none.

        make(faults): the rows in order, `faults` filled on the way. It is called if they are not in the cache, by one
        process at a time; the others wait, then find them.

        Raises:
            CacheError: they are not in the cache, and cannot be put there.
        """
        if found := self._find():
            return found
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._folder / f"{self._prefix}.lock", self._tell_waiting):
                if found := self._find(tells=True):
                    return found
                self._clean()
                self._check_room()
                self._write(make)
        except OSError as error:
            raise CacheError(f"'{self._folder}' cannot be written ({error.strerror or error})") from None
        if found := self._find(tells=True):
            return found
        raise CacheError(f"'{self._folder}' does not keep what is written")

    def _find(self, tells: bool = False) -> Found | None:
        """Rows and faults, None where there are none or damaged ones; `tells`: with a line on the damage."""
        if not self.index.exists():
            return None
        try:
            return self._load()
        except (OSError, ValueError, KeyError, TypeError) as damage:
            if tells:
                tell(f"{self.array}: {damage}; making it anew")
            return None

    def _load(self) -> Found:
        """Rows and faults. Raises any of several exceptions where something is wrong with them."""
        index = json.loads(self.index.read_bytes())
        faults = [Fault(*fault) for fault in index["faults"]]
        numbers, listed = [fault.number for fault in faults], len(self._listing)
        if index["listed"] != listed or numbers != sorted({*numbers}) or not all(0 <= n < listed for n in numbers):
            raise ValueError("its index is damaged")
        if index["bytes"] != self.array.stat().st_size:
            raise ValueError("it is damaged: its length is not the one in its index")
        if any(fault.missing and self._is_there(fault.number) for fault in faults):
            raise ValueError("files that could not be read now can")
        array = np.load(self.array, mmap_mode="r", allow_pickle=False)
        if array.shape != (listed - len(faults), *self._row_shape) or array.dtype != self._dtype:
            raise ValueError(f"it is damaged: {array.dtype} {array.shape} does not fit its index")
        with warnings.catch_warnings():  # torch knows no read-only tensors
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return torch.from_numpy(array), faults

    def _is_there(self, number: int) -> bool:
        try:
            self._listing.read(number)
        except OSError:
            return False
        return True

    def _clean(self) -> None:
        """Remove what dead builders left (under the lock there is no live one), and say what is out of date."""
        for left in self._folder.glob(f"{self._prefix}-*.tmp.*"):
            left.unlink()
        old = [path for path in sorted(self._folder.glob(f"{self._prefix}-*.npy")) if path != self.array]
        if old:
            gib = sum(path.stat().st_size for path in old) / GIB
            names = ", ".join(path.name for path in old)
            tell(f"{self._listing.where} has changed; out of date in '{self._folder}', {gib:.2f} GiB: {names}")

    def _check_room(self) -> None:
        row_bytes = self._dtype.itemsize * int(np.prod(self._row_shape))
        need, free = len(self._listing) * row_bytes + SPARE_BYTES, shutil.disk_usage(self._folder).free
        if need > free:
            raise CacheError(f"'{self._folder}' has {free / GIB:.2f} GiB free, {need / GIB:.2f} GiB are needed")

    def _write(self, make: Made) -> None:
        """Rows as they come, under another name; then that name, then the index: a crash leaves no index."""
        self.index.unlink(missing_ok=True)
        beside = self.array.with_name(f"{self.array.name}.tmp.{os.getpid()}")
        faults: list[Fault] = []
        try:
            # written, not mapped: a disk that fills up is an error here, there it would kill the process
            with beside.open("wb") as file:
                length = self._write_header(file, len(self._listing))
                for row in make(faults):
                    file.write(row.tobytes())
                n_bytes = file.tell()
                file.seek(0)
                assert self._write_header(file, len(self._listing) - len(faults)) == length  # NumPy leaves room in it
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.array)
        finally:
            beside.unlink(missing_ok=True)
        index = {"where": self._listing.where, "listed": len(self._listing), "bytes": n_bytes, "faults": faults}
        write_text(self.index, json.dumps(index))

    def _write_header(self, file: BinaryIO, n_rows: int) -> int:
        """Length of the header of an .npy file, which is written."""
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (n_rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()

    def _tell_waiting(self) -> None:
        if distributed.is_main():
            tell(f"another process is reading {self._listing.where}; waiting for it")


def tell(line: str) -> None:
    """Print one line on stderr."""
    print(line, file=sys.stderr, flush=True)


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
