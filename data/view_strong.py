"""The strong operations of self-labelling (SCAN): each image takes its own few, drawn from fourteen with replacement.

Images are (B, C, H, W) in [0, 1]; amounts are (B,). Geometry takes the nearest pixel, black outside, as PIL does by
default. Contrast, brightness, colour and sharpness mix with grey mean, black, grey and a blurred image.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data import view_ops


class Strong(NamedTuple):
    """One operation, the range of its uniform amount, and whether that changes sign with probability 1/2."""

    change: Callable[[Tensor, Tensor], Tensor]
    low: float = 0.0
    high: float = 0.0
    signed: bool = False


def strong(images: Tensor, numbers: Tensor) -> Tensor:
    """Each image through its own operations one after the other, in place. `numbers` (B, operations, 3) on the CPU."""
    for place in range(numbers.shape[1]):
        which, amounts = strong_parameters(numbers[:, place])
        for number, operation in enumerate(STRONG):
            rows = (which == number).nonzero().flatten()
            own = amounts[rows].to(images.device, images.dtype, non_blocking=True)
            view_ops.on_rows(images, rows, partial(_apply, operation.change, own))
    return images


def _apply(change: Callable[[Tensor, Tensor], Tensor], amounts: Tensor, images: Tensor) -> Tensor:
    return change(images, amounts)


def strong_parameters(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Which operation (B,) int64 and its amount (B,), of uniform numbers (B, 3)."""
    which, amount, sign = numbers.unbind(1)
    chosen = (which * len(STRONG)).long()
    ranges = torch.tensor([(each.low, each.high, each.signed) for each in STRONG], dtype=numbers.dtype)
    low, high, signed = ranges[chosen].unbind(1)
    amounts = low + (high - low) * amount
    return chosen, torch.where((signed > 0) & (sign < 0.5), -amounts, amounts)


def identity(images: Tensor, amounts: Tensor) -> Tensor:
    """The images."""
    return images


def autocontrast(images: Tensor, amounts: Tensor) -> Tensor:
    """Each channel's darkest pixel made 0, its brightest 1; a flat channel stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / torch.where(high > low, high - low, 1), images)


def equalize(images: Tensor, amounts: Tensor) -> Tensor:
    """Each channel's grey levels (256) spread so that all are about equally frequent, as PIL counts them."""
    levels = (images * 255).round_().long().flatten(2).flatten(0, 1)  # (B C, H W)
    channels = torch.arange(len(levels), device=images.device)[:, None]
    counts = torch.bincount((levels + 256 * channels).flatten(), minlength=256 * len(levels)).view(-1, 256)
    brightest = levels.amax(1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, brightest)) // 255  # (B C, 1)
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return (table.gather(1, levels).to(images.dtype) / 255).view_as(images)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turned about the middle, to the left where positive."""
    angle = torch.deg2rad(degrees)
    cos, sin = torch.cos(angle), torch.sin(angle)
    height, width = images.shape[2:]
    across, down = (width - 1) / 2, (height - 1) / 2
    rows = [cos, -sin, across - cos * across + sin * down, sin, cos, down - sin * across - cos * down]
    return nearest(images, torch.stack(rows, 1).view(-1, 2, 3))


def shear_across(images: Tensor, slants: Tensor) -> Tensor:
    """Row y takes its pixels from `slant` (y + 1/2) to the right."""
    return nearest(images, _sampling(slants, across_of_y=slants, across=slants / 2))


def shear_down(images: Tensor, slants: Tensor) -> Tensor:
    """Column x takes its pixels from `slant` (x + 1/2) below."""
    return nearest(images, _sampling(slants, down_of_x=slants, down=slants / 2))


def shift_across(images: Tensor, shares: Tensor) -> Tensor:
    """Pixels come from `share` of the width to the right."""
    return nearest(images, _sampling(shares, across=shares * images.shape[3]))


def shift_down(images: Tensor, shares: Tensor) -> Tensor:
    """Pixels come from `share` of the height below."""
    return nearest(images, _sampling(shares, down=shares * images.shape[2]))


def solarize(images: Tensor, levels: Tensor) -> Tensor:
    """Pixels of at least `level` (of 256) inverted."""
    return view_ops.solarize(images, (levels / 255)[:, None, None, None])


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The highest `bits` of 8 kept, truncated to a whole number."""
    step = torch.exp2(8 - bits.floor())[:, None, None, None]
    return ((images * 255).round_() / step).floor_() * step / 255


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """factor x + (1 - factor) blurred, clamped. Blurred: a 3 x 3 mean, its middle counted five times; borders kept."""
    kernel = torch.ones(3, 3, dtype=images.dtype, device=images.device)
    kernel[1, 1] = 5
    channels = images.shape[1]
    blurred = images.clone()
    weights = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(images, weights, groups=channels)
    return torch.lerp(blurred, images, factors[:, None, None, None]).clamp_(0, 1)


def nearest(images: Tensor, matrices: Tensor) -> Tensor:
    """The pixel nearest to `matrices` (B, 2, 3) times (x, y, 1), pixels counted from 0; black outside the image."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=images.dtype)
    y = torch.arange(height, device=images.device, dtype=images.dtype)
    ofx, ofy, fixed = matrices[:, :, :, None, None].unbind(2)  # each (B, 2, 1, 1)
    across, down = (ofx * x + ofy * y[:, None] + fixed + 0.5).floor_().long().unbind(1)  # each (B, H, W)
    outside = (across < 0) | (across >= width) | (down < 0) | (down >= height)
    places = (down.clamp_(0, height - 1) * width + across.clamp_(0, width - 1)).flatten(1)
    taken = images.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return taken.masked_fill_(outside[:, None], 0)


def _sampling(
    like: Tensor,
    *,
    across_of_y: Tensor | float = 0.0,
    across: Tensor | float = 0.0,
    down_of_x: Tensor | float = 0.0,
    down: Tensor | float = 0.0,
) -> Tensor:
    """(B, 2, 3) the identity with these entries beside it."""
    entries = (1.0, across_of_y, across, down_of_x, 1.0, down)
    return torch.stack([torch.as_tensor(entry).to(like).expand_as(like) for entry in entries], 1).view(-1, 2, 3)


MIX = (0.05, 0.95)  # of the image; the rest is grey, black or blurred
STRONG = (
    Strong(identity),
    Strong(autocontrast),
    Strong(equalize),
    Strong(rotate, -30, 30, signed=True),
    Strong(solarize, 0, 256),
    Strong(view_ops.adjust_saturation, *MIX),
    Strong(view_ops.adjust_contrast, *MIX),
    Strong(view_ops.adjust_brightness, *MIX),
    Strong(sharpness, *MIX),
    Strong(shear_across, -0.1, 0.1, signed=True),
    Strong(shift_across, -0.1, 0.1, signed=True),
    Strong(shift_down, -0.1, 0.1, signed=True),
    Strong(posterize, 4, 8),
    Strong(shear_down, -0.1, 0.1, signed=True),
)
