"""Encoded bytes of an image to pixels: Pillow always, simplejpeg for JPEG where it is installed."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

try:
    import simplejpeg  # measured: twice as fast for small JPEGs, the same pixels as Pillow at any reduction
except ImportError:
    simplejpeg = None

# what pixels depend on beside the bytes: to be raised when a rule below changes, so that caches are made anew
DECODER = "1"

# no EPS (would run a program) and no TGA (any bytes could be one); HEIF is there if pillow-heif was registered
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
REDUCTIONS = (8, 4, 2)  # sizes at which a JPEG can be decoded at once
ORIENTATION = 0x0112  # of EXIF
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


Cut = tuple[tuple[int, int, int, int], bool, int]  # box (top, left, height, width in pixels), mirrored or not, side


class Unreadable(Exception):  # noqa: N818
    """Why an image cannot be decoded, in a few words, as skipped.csv shows it."""


def decode_square(data: bytes, size: int, rule: Literal["crop", "squash"]) -> np.ndarray:
    """(size, size, 3) uint8: the image upright, on white where transparent, of an animation the first frame.

    crop: the short side is brought to `size` and the middle of the longer one kept; squash: both sides are brought to
    `size`. Bicubic with antialias; a JPEG at least twice as large is decoded at a half, a quarter or an eighth first.
    16-bit and float grey keep their range; colour profiles are not applied.

    Raises:
        Unreadable: empty, damaged, cut off, larger than Pillow's limit of 178,956,970 pixels, or no image.
    """
    with _reasons(data):
        opened = _open(data)
        image = _upright(opened, data, _reduction(opened, min(opened.size) // size))
        box = None
        if rule == "crop":
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def decode_crops(data: bytes, cuts: list[Cut]) -> list[np.ndarray]:
    """(side, side, 3) uint8 for each cut: its box of the upright image, mirrored if it says so. Decoded once.

    Bilinear with antialias: what torchvision's `resized_crop` gives for a PIL image. Of a JPEG whose boxes are all at
    least twice their `side` a half, a quarter or an eighth is decoded: much faster, and a few grey levels away in
    sharp detail.

    Raises:
        Unreadable: as `decode_square`.
    """
    with _reasons(data):
        opened = _open(data)
        reduction = _reduction(opened, min(min(box[2:]) // side for box, _, side in cuts))
        image = _upright(opened, data, reduction)
        return [_cut(image, cut, reduction) for cut in cuts]


def _cut(image: Image.Image, cut: Cut, reduction: int) -> np.ndarray:
    """One cut of an image that was decoded `reduction` times smaller."""
    (top, left, height, width), flipped, side = cut
    edges = (left, top, left + width, top + height)
    if reduction == 1:
        part = image.crop(edges).resize((side, side), Image.Resampling.BILINEAR)
    else:
        x0, y0, x1, y1 = (edge / reduction for edge in edges)
        part = image.resize((side, side), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
    return np.array(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else part)


def probe(data: bytes) -> tuple[int, int]:
    """(height, width) of the image upright, once all of it has been decoded, a JPEG at an eighth of its size.

    Raises:
        Unreadable: as `decode_square`.
    """
    with _reasons(data):
        opened = _open(data)
        width, height = opened.size
        reduction = _reduction(opened, REDUCTIONS[0])
        image = _upright(opened, data, reduction)
        stays = image.size == (-(-width // reduction), -(-height // reduction))
        return (height, width) if stays else (width, height)


@contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Whatever a decoder raises becomes Unreadable with a reason in a few words."""
    if not data:
        raise Unreadable("the file is empty")
    if warnings.filters[:1] != [QUIET]:
        # Pillow warns of odd files that it reads all the same. For the whole process: `catch_warnings` is not safe
        # in threads. Again in each call: others put their filters before this one.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    except UnidentifiedImageError:
        is_heic = data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS
        raise Unreadable("HEIC: convert it to JPEG or PNG" if is_heic else "not an image of a known format") from None
    except Image.DecompressionBombError:
        raise Unreadable("too large: more than 178,956,970 pixels") from None
    except MemoryError:
        raise Unreadable("too large: not enough memory to decode it") from None
    except Exception as failure:  # a damaged file may make a decoder raise anything; it is named, not hidden
        words = " ".join(str(failure).split())[:120] or type(failure).__name__
        raise Unreadable(f"cannot be decoded ({words})") from None


@cache
def _formats() -> list[str]:
    """Those of FORMATS that this Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _open(data: bytes) -> Image.Image:
    """The image with its header read."""
    return Image.open(BytesIO(data), formats=_formats())


def _reduction(opened: Image.Image, at_most: int) -> int:
    """How many times smaller the image is decoded: a power of two, 1 for all but JPEG."""
    if opened.format not in ("JPEG", "MPO"):
        return 1
    return next((times for times in REDUCTIONS if times <= at_most), 1)


def _upright(opened: Image.Image, data: bytes, reduction: int) -> Image.Image:
    """The image decoded, its sides divided by `reduction` and rounded up, RGB, turned as its EXIF mark says."""
    image = _by_simplejpeg(opened, data, reduction)
    if image is None:
        if reduction > 1:
            opened.draft(None, (max(1, opened.width // reduction), max(1, opened.height // reduction)))
        opened.load()
        image = _to_rgb(opened)
    try:
        mark = opened.getexif().get(ORIENTATION)  # after loading: Pillow turns a TIFF then, and takes the mark away
    except Exception:  # damaged EXIF data; the pixels are intact
        mark = None
    return image.transpose(TO_UPRIGHT[mark]) if mark in TO_UPRIGHT else image


def _by_simplejpeg(opened: Image.Image, data: bytes, reduction: int) -> Image.Image | None:
    """A colour or grey JPEG's pixels; None where Pillow is to decode, and to judge what is damaged."""
    if simplejpeg is None or opened.format not in ("JPEG", "MPO") or opened.mode not in ("RGB", "L"):
        return None
    width, height = (-(-length // reduction) for length in opened.size)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=reduction)
    except ValueError:
        return None
    return Image.fromarray(pixels) if pixels.shape == (height, width, 3) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Colour of any image, 16-bit and float grey in their own range, on white where transparent."""
    if image.mode.startswith("I"):  # 16 bits, in a PGM held in 32
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        grey = np.nan_to_num(np.asarray(image))
        grey = grey * 255 if grey.max() <= 1 else grey
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")
