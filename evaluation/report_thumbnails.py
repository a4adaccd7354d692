"""Small pictures in a few large ones: sprite sheets as WebP, in base64."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.sources.base import Source
from evaluation.progress import Progress

COLUMNS = ROWS = 32
BLOCK = 16  # pixels that WebP encodes together: tiles start at a multiple, so that none bleeds into the next
SIDES = ((2_000, 96), (4_000, 64), (8_000, 48))  # so many pictures at most, so many pixels each
QUALITIES = (75, 60, 45, 30)
SHARP = 32  # smaller images are kept without loss
BUDGET = 6_500_000  # bytes of all sheets, before base64


def make_sheets(source: Source, rows: Tensor) -> dict[str, Any]:
    """The images of `rows` (M,) in order, 32 x 32 tiles a sheet, for the page.

    wide, high: pixels of a picture, which starts at the upper left of its tile of `stride`; sheets: data URLs. The
    quality falls until all fit the budget.
    """
    _, height, width = source.image_shape
    side = next((side for most, side in SIDES if len(rows) <= most), SIDES[-1][1])
    shrink = min(1.0, side / max(height, width))
    wide, high = max(1, round(width * shrink)), max(1, round(height * shrink))
    stride = -(-max(wide, high) // BLOCK) * BLOCK
    blocks = rows.split(COLUMNS * ROWS)
    progress = Progress("thumbnails", len(rows))
    pictures = []
    for block in blocks:
        pictures.append(_sheet(source.read(block), wide, high, stride))
        progress.add(len(block))
    lossless = max(wide, high) < SHARP
    for quality in QUALITIES:
        encoded = [_encoded(picture, quality, lossless) for picture in pictures]
        if lossless or sum(map(len, encoded)) <= BUDGET:
            break
    urls = ["data:image/webp;base64," + base64.b64encode(data).decode("ascii") for data in encoded]
    return {"wide": wide, "high": high, "stride": stride, "columns": COLUMNS, "rows": ROWS, "sheets": urls}


def _sheet(images: Tensor, wide: int, high: int, stride: int) -> Image.Image:
    """One sheet of at most 1,024 images (B, C, H, W); edges run on to the end of a tile."""
    sheet = np.zeros((-(-len(images) // COLUMNS) * stride, COLUMNS * stride, 3), np.uint8)
    for place, pixels in enumerate(images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()):
        picture = Image.fromarray(pixels)
        if picture.size != (wide, high):
            picture = picture.resize((wide, high), Image.Resampling.LANCZOS)
        tile = np.pad(np.asarray(picture), ((0, stride - high), (0, stride - wide), (0, 0)), mode="edge")
        top, left = place // COLUMNS * stride, place % COLUMNS * stride
        sheet[top : top + stride, left : left + stride] = tile
    return Image.fromarray(sheet)


def _encoded(sheet: Image.Image, quality: int, lossless: bool) -> bytes:
    data = io.BytesIO()
    sheet.save(data, "WEBP", lossless=lossless, quality=quality)
    return data.getvalue()
