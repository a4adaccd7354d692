"""Pictures and their encoded bytes, for tests of whatever reads images."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture: what a resize or JPEG changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of that kind: 'JPEG', 'PNG', ..."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_exif(orientation: int) -> Image.Exif:
    """EXIF data with this orientation mark."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def cut_png(width: int, height: int) -> bytes:
    """A grey PNG that ends soon after its pixels begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 1009) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + chunks + zlib.compress(bytes(7))
