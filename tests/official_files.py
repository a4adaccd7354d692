"""Small files in the forms that data sets are published in, their checksums made known in place of the real ones."""

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.fetch import Published


def publish(patch: pytest.MonkeyPatch, published: Published, root: Path, files: Mapping[str, bytes]) -> None:
    """Write the files where the set has them under `root`, as if they were the real ones."""
    folder = root / published.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        patch.setitem(published.files, name, hashlib.md5(content).hexdigest())


def random_images(n: int, *shape: int) -> np.ndarray:
    """(n, *shape) uint8, other values for other n."""
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


def idx_files(images: np.ndarray, labels: np.ndarray, prefix: str) -> dict[str, bytes]:
    """MNIST's two files of a part: images (n, H, W), labels (n,)."""
    pixels = struct.pack(">iiii", 2051, *images.shape) + images.tobytes()
    classes = struct.pack(">ii", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
    return {
        f"{prefix}-images-idx3-ubyte.gz": gzip.compress(pixels),
        f"{prefix}-labels-idx1-ubyte.gz": gzip.compress(classes),
    }


def tar_of(files: Mapping[str, bytes], mode: str = "w:") -> bytes:
    """A tar with these members; mode 'w:gz' for a packed one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def jpeg(grey: int, width: int = 11, height: int = 7) -> bytes:
    """A photograph of one grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files under `folder`, by their relative names."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
