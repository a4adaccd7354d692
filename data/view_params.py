"""From uniform random numbers to the parameters of view operations, one set an image, in float64 on the CPU.

`NUMBERS` says how many numbers each operation reads. All are drawn whether its operation is on or off, so that turning
one off leaves the others' draws as they were.
"""

import math

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


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """U[0, 1) numbers as U[low, high)."""
    return low + (high - low) * numbers


def crop_boxes(
    numbers: dict[str, Tensor], height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """(B, 4) top, left, height, width of a random resized crop, whole pixels, distributed as torchvision's.

    Up to ten tries of an area in `scale` of the image and a log-uniform width / height in `ratio`; the first that fits
    is placed at random; where none fits, `fallback_box`.
    """
    areas = height * width * between(numbers["area"], *scale)  # (B, 10)
    ratios = torch.exp(between(numbers["ratio"], math.log(ratio[0]), math.log(ratio[1])))
    widths, heights = torch.sqrt(areas * ratios).round_(), torch.sqrt(areas / ratios).round_()  # half to even
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # (B, 1)
    sizes = torch.cat([heights.gather(1, first), widths.gather(1, first)], 1)  # (B, 2)
    room = torch.tensor([height, width]) - sizes
    boxes = torch.cat([(numbers["corner"] * (room + 1)).floor_(), sizes], 1)
    fallback = torch.tensor(fallback_box(height, width, ratio), dtype=boxes.dtype)
    return torch.where(fits.any(1, keepdim=True), boxes, fallback)


def fallback_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Top, left, height, width of the largest centred box whose width / height lies in `ratio`."""
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


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


def color_mixing(channels: int, chosen: Tensor, factors: Tensor, gray: Tensor) -> Tensor:
    """(B, C, 2C) = [P | Q]: a pixel x becomes P x + Q m, m its image's channel means: all colour operations in one.

    Jitter by `factors` (B, 4: b, c, s, h) where `chosen` (B,), then grey where `gray` (B,). Hue is a rotation of YIQ's
    colour plane (not HSV's hue, but linear). Without the clamps in between, the order makes no difference: each
    operation scales the luma (b, and c about its mean) or the colour plane (b, c, s, h), and grey is s = 0:
        P = b c (L + s cos(2 pi h) plane + s sin(2 pi h) turned), Q = b (1 - c) L, L taking the luma to all channels.
    """
    factors = torch.where(chosen[:, None], factors, torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=factors.dtype))
    brightness, contrast, saturation, hue = factors[:, :, None, None].unbind(1)  # each (B, 1, 1)
    saturation, angle = torch.where(gray[:, None, None], 0, saturation), 2 * math.pi * hue
    luma, plane, turned = yiq_parts(channels, factors.dtype)
    from_pixel = luma + saturation * (torch.cos(angle) * plane + torch.sin(angle) * turned)
    return brightness * torch.cat([contrast * from_pixel, ((1 - contrast) * luma).expand_as(from_pixel)], 2)


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
