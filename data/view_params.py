"""From uniform random numbers to the parameters of view operations, one set an image, in float64 on the CPU.

`NUMBERS` says how many numbers each operation reads. All are drawn whether its operation is on or off, so that turning
one off leaves the others' draws as they were.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

TRIES = 10  # of a random crop before it falls back to the whole image
NUMBERS = {
    "area": TRIES,
    "ratio": TRIES,
    "corner": 2,
    "flip": 1,
    "affine": 6,
    "intensity": 2,
    "jitter": 1,
    "factors": 4,
    "order": 4,
    "grayscale": 1,
    "blur": 1,
    "sigma": 1,
    "solarize": 1,
}
STRONG_NUMBERS = 3  # of each strong operation: which, how much, to which side
CUTOUT_NUMBERS = 3  # side, row and column of the middle


class Units(NamedTuple):
    """What numbers stand for: `scale` times a number plus `shift` is a pixel from 0 to 1."""

    scale: tuple[float, ...] = (1.0,)  # of each channel, or of all
    shift: float = 0.0


PIXELS = Units()


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """U[0, 1) numbers as U[low, high)."""
    return low + (high - low) * numbers


def crop_boxes(
    numbers: dict[str, Tensor],
    heights: int | Tensor,
    widths: int | Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """(B, 4) top, left, height, width of a random resized crop, whole pixels, distributed as torchvision's.

    heights, widths: of all images, or (B,) of each. Up to ten tries of an area in `scale` of the image and a
    log-uniform width / height in `ratio`; the first that fits is placed at random; where none fits, `fallback_boxes`.
    """
    sides = _sides(heights, widths)
    height, width = sides[:, :1], sides[:, 1:]
    areas = height * width * between(numbers["area"], *scale)  # (B, 10)
    ratios = torch.exp(between(numbers["ratio"], math.log(ratio[0]), math.log(ratio[1])))
    box_widths, box_heights = torch.sqrt(areas * ratios).round_(), torch.sqrt(areas / ratios).round_()  # half to even
    fits = (box_widths > 0) & (box_widths <= width) & (box_heights > 0) & (box_heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # (B, 1)
    sizes = torch.cat([box_heights.gather(1, first), box_widths.gather(1, first)], 1)  # (B, 2)
    boxes = torch.cat([_corners(numbers, sides - sizes), sizes], 1)
    return torch.where(fits.any(1, keepdim=True), boxes, fallback_boxes(sides, ratio))


def fallback_boxes(sides: Tensor, ratio: tuple[float, float]) -> Tensor:
    """(B, 4) top, left, height, width of the largest centred box whose width / height lies in `ratio`.

    sides (B, 2): heights and widths.
    """
    height, width = sides.unbind(1)
    sizes = torch.stack([
        torch.where(width / height < ratio[0], (width / ratio[0]).round(), height),
        torch.where(width / height > ratio[1], (height * ratio[1]).round(), width),
    ], 1)  # fmt: skip
    return torch.cat([((sides - sizes) / 2).floor_(), sizes], 1)


def window_boxes(numbers: dict[str, Tensor], heights: int | Tensor, widths: int | Tensor, *, share: float) -> Tensor:
    """(B, 4) boxes of a square at a random place, its side `share` of the image's shorter one, whole pixels."""
    sides = _sides(heights, widths)
    sizes = (share * sides.amin(1, keepdim=True)).round_().clamp_(min=1).expand(len(numbers["corner"]), 2)
    return torch.cat([_corners(numbers, sides - sizes), sizes], 1)


def middle_boxes(heights: int | Tensor, widths: int | Tensor, number: int, *, share: float) -> Tensor:
    """(number, 4) boxes of the square in the middle, its side `share` of the image's shorter one, whole pixels."""
    sides = _sides(heights, widths).expand(number, 2)
    sizes = (share * sides.amin(1, keepdim=True)).round_().clamp_(min=1).expand(-1, 2)
    return torch.cat([((sides - sizes) / 2).round_(), sizes], 1)


def _sides(heights: int | Tensor, widths: int | Tensor) -> Tensor:
    """(B, 2) float64, or (1, 2) of all images."""
    return torch.stack([torch.as_tensor(side, dtype=torch.float64).reshape(-1) for side in (heights, widths)], 1)


def _corners(numbers: dict[str, Tensor], room: Tensor) -> Tensor:
    """(B, 2) top, left: each whole number from 0 to `room` (B, 2) is equally likely."""
    return (numbers["corner"] * (room + 1)).floor_()


def affine_matrices(
    numbers: Tensor, *, rotation: float, scale: tuple[float, float], aspect: float, shear: float, translation: float
) -> Tensor:
    """(B, 2, 3) sampling matrices rotation x [[1, shear], [0, 1]] x diag(1 / magnification), then the translation.

    numbers (B, 6). rotation in degrees to either side; scale: range of the log-uniform magnification; aspect: x is
    magnified by exp(U(-aspect, aspect)), y by its inverse; translation in half widths. For square images.
    """
    turn, size, stretch, slant, right, down = numbers.unbind(1)
    angle = torch.deg2rad(between(turn, -rotation, rotation))
    magnify = between(size, math.log(scale[0]), math.log(scale[1]))
    stretch, slant = between(stretch, -aspect, aspect), between(slant, -shear, shear)
    inverse_x, inverse_y = torch.exp(-magnify - stretch), torch.exp(-magnify + stretch)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        cos * inverse_x,
        (cos * slant - sin) * inverse_y,
        between(right, -translation, translation),
        sin * inverse_x,
        (sin * slant + cos) * inverse_y,
        between(down, -translation, translation),
    ]
    return torch.stack(rows, 1).view(-1, 2, 3)


def jitter_factors(numbers: Tensor, strengths: tuple[float, float, float, float]) -> Tensor:
    """(B, 4) factors of brightness, contrast, saturation around 1 (never negative), shift of the hue around 0."""
    low = torch.tensor([*(max(0.0, 1 - strength) for strength in strengths[:3]), -strengths[3]], dtype=numbers.dtype)
    high = torch.tensor([*(1 + strength for strength in strengths[:3]), strengths[3]], dtype=numbers.dtype)
    return low + (high - low) * numbers


def color_mixing(
    chosen: Tensor,
    factors: Tensor,
    gray: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    units: Units = PIXELS,
) -> Tensor:
    """(B, C, 2C + 1) = [P | Q | o]: a pixel x becomes P x + Q m + o, m its image's channel means: all colours in one.

    Jitter by `factors` (B, 4: b, c, s, h) where `chosen` (B,), then grey where `gray` (B,), then (x - mean) / std; x
    in `units`. Hue is a rotation of YIQ's colour plane (not HSV's hue, but linear). Without the clamps in
    between, the order makes no difference: each operation scales the luma (b, and c about its mean) or the colour plane
    (b, c, s, h), and grey is s = 0:
        P = b c (L + s cos(2 pi h) plane + s sin(2 pi h) turned), Q = b (1 - c) L, L taking the luma to all channels.
    """
    factors = torch.where(chosen[:, None], factors, torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=factors.dtype))
    brightness, contrast, saturation, hue = factors.unbind(1)
    both, angle = brightness * contrast, 2 * math.pi * hue
    vivid = both * torch.where(gray, 0, saturation)
    amounts = [both, vivid * torch.cos(angle), vivid * torch.sin(angle), brightness - both, torch.ones_like(both)]
    parts = mixing_parts(tuple(mean), tuple(std), units, factors.dtype)
    return (torch.stack(amounts, 1) @ parts.flatten(1)).unflatten(1, parts.shape[1:])


@cache
def mixing_parts(mean: tuple[float, ...], std: tuple[float, ...], units: Units, dtype: torch.dtype) -> Tensor:
    """(5, C, 2C + 1): what `color_mixing` takes of the luma, plane, turned plane, mean luma and always."""
    channels = len(mean)
    parts = torch.zeros(5, channels, 2 * channels + 1, dtype=dtype)
    luma, plane, turned = yiq_parts(channels, dtype)
    parts[:3, :, :channels] = torch.stack([luma, plane, turned])
    parts[3, :, channels:-1] = luma
    parts[4, :, -1] = -torch.tensor(mean, dtype=dtype)
    parts[:, :, -1] += units.shift * parts[:, :, :-1].sum(2)
    parts[:, :, :-1] *= torch.tensor(units.scale, dtype=dtype).expand(channels).repeat(2)
    return parts / torch.tensor(std, dtype=dtype)[:, None]


@cache
def yiq_parts(channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Three (C, C) maps of RGB: to its luma in all channels, to its colour (I and Q), to its colour turned by 90°.

    The first two sum to the identity. A positive turn leads from red to green. One channel is all luma.
    """
    if channels == 1:
        return torch.ones(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype)
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=dtype)
    to_rgb = torch.linalg.inv(to_yiq)
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=dtype)
    return to_rgb[:, :1] @ to_yiq[:1], to_rgb[:, 1:] @ to_yiq[1:], to_rgb[:, 1:] @ quarter @ to_yiq[1:]


def cutout_boxes(numbers: Tensor, largest: int, height: int, width: int) -> Tensor:
    """(B, 4) top, bottom, left, right of a square to cut out, clipped at the image's ends; int64, ends not included.

    numbers (B, 3). L is a whole number from 1 to `largest`, the side 2 (L // 2), its middle any pixel (SCAN).
    """
    reach = (numbers[:, 0] * largest + 1).floor_().div_(2, rounding_mode="floor")  # half a side
    middles = (numbers[:, 1:] * torch.tensor([height, width])).floor_()
    ends = torch.stack([middles - reach[:, None], middles + reach[:, None]], 2)  # (B, 2 axes, 2)
    limits = torch.tensor([height, width], dtype=ends.dtype)[:, None]
    return torch.minimum(ends.clamp_(min=0), limits).flatten(1).long()
