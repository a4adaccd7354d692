"""What is done to the pixels of a view: pure functions of a batch of images and one parameter set an image.

Images are (B, C, H, W) in [0, 1], float32 or float64; every operation stays on their device and in their type.
The oracles of the tests are `torchvision.transforms.v2.functional`, one image at a time.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's grey of an RGB tensor
SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))  # across; transposed: down
BLUR_REACH = 4  # sigmas: the weights beyond are less than a fiftieth of a grey level together


def on_rows(images: Tensor, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`images` with `change` applied, in place, to those at `rows` (int64 places in the batch, on the CPU)."""
    if len(rows) == 0:
        return images
    here = rows.to(images.device, non_blocking=True)
    return images.index_copy_(0, here, change(images.index_select(0, here)))


def mirror(images: Tensor) -> Tensor:
    """The images with left and right exchanged."""
    return images.flip(3)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Bilinear samples at `matrices` (B, 2, 3) times (x, y, 1), both axes from -1 to 1; black outside the image."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def scale_and_shift(images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """contrast x + brightness, both (B,); not clamped."""
    return (images * _per_image(contrast)).add_(_per_image(brightness))


def mix_channels(
    images: Tensor, mixing: Tensor, low: Sequence[float], high: Sequence[float], out: Tensor | None = None
) -> Tensor:
    """P x + Q m + o, each channel clamped to its `low` and `high`: x a pixel, m its image's channel means.

    images (B, C, H, W), or (B, C + 1, H, W) with a plane of ones. mixing (B, C, 2C + 1) = [P | Q | o]. Written to `out`
    (B, C, H, W) of any layout if given.
    """
    channels, flat = mixing.shape[1], images.flatten(2)
    from_pixel, from_mean, fixed = mixing.split([channels, channels, 1], 2)
    offset = torch.baddbmm(fixed, from_mean, flat.mean(2, keepdim=True)[:, :channels])  # (B, C, 1)
    if images.shape[1] > channels:
        mixed = torch.bmm(torch.cat([from_pixel, offset], 2), flat)
    else:
        mixed = torch.bmm(from_pixel, flat).add_(offset)
    mixed = mixed.unflatten(2, images.shape[2:])
    out = mixed if out is None else out
    for channel in range(channels):  # the clamp is the copy to the other layout
        torch.clamp(mixed[:, channel], low[channel], high[channel], out=out[:, channel])
    return out


def grayscale(images: Tensor) -> Tensor:
    """The luma 0.2989 R + 0.587 G + 0.114 B in all three channels; images of one channel as they are."""
    return images if images.shape[1] == 1 else _luma(images).expand_as(images)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """factor x, clamped; `factors` (B,) from 0 (black) over 1 (unchanged)."""
    return (images * _per_image(factors)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """factor x + (1 - factor) times the image's mean luma, clamped; `factors` (B,) from 0 (flat) over 1 (unchanged)."""
    mean = _luma(images).mean((2, 3), keepdim=True)  # (B, 1, 1, 1)
    return torch.lerp(mean.expand_as(images), images, _per_image(factors)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """factor x + (1 - factor) luma, clamped; `factors` (B,) from 0 (grey) over 1 (unchanged)."""
    return torch.lerp(grayscale(images), images, _per_image(factors)).clamp_(0, 1)


def adjust_hue(images: Tensor, factors: Tensor) -> Tensor:
    """The hue of HSV turned by `factors` (B,), 1 a whole turn; value and saturation stay. One channel has no hue."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value = images.amax(1)  # (B, H, W)
    chroma = value - images.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )  # in sixths of a turn
    sector = sector + 6 * factors[:, None, None]
    # each channel falls from `value` by up to `chroma` as the hue turns away from it (the HSV hexagon)
    distances = [(sector + channel_start) % 6 for channel_start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(d, 4 - d).clamp_(0, 1) for d in distances], 1)


COLOR_OPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)  # in the order of `jitter`'s columns


def jitter(images: Tensor, chosen: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue one after the other, in place, clamped in between.

    chosen (B,) bool, factors (B, 4) and order (B, 4; a permutation of 0 to 3, an image's own) are on the CPU: which
    image takes which operation when is known there, so nothing waits for the device.
    """
    for place in range(len(COLOR_OPS)):
        for number, adjust in enumerate(COLOR_OPS):
            rows = (chosen & (order[:, place] == number)).nonzero().flatten()
            amounts = factors[rows, number].to(images.device, images.dtype, non_blocking=True)
            on_rows(images, rows, partial(adjust, factors=amounts))
    return images


def blur(images: Tensor, chosen: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of the images at `chosen` (int64) with their `sigmas` (B,) in pixels, both on the CPU, in place.

    Reflected at the border. Sums of shifted images: a small sigma needs few of them, so images go together by the power
    of two that 4 sigma does not exceed.
    """
    widest = kernel_size // 2
    sigmas = sigmas[chosen]
    reaches = torch.exp2((BLUR_REACH * sigmas).log2().ceil()).clamp(1, widest).long()
    for reach in reaches.unique().tolist():
        alike = reaches == reach
        weights = torch.exp(-0.5 * (torch.arange(reach + 1) / sigmas[alike, None]) ** 2)  # (n, reach + 1), one side
        weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
        on_rows(images, chosen[alike], partial(_shifted_sums, weights=weights.to(images.device, images.dtype)))
    return images


def blur_kernel_size(side: int) -> int:
    """The odd number nearest a tenth of `side`, at least 3 (SimCLR's rule): 3 at 32, 9 at 96, 23 at 224 pixels."""
    return max(3, 2 * round((0.1 * side - 1) / 2) + 1)


def solarize(images: Tensor, threshold: float | Tensor = 128 / 255, total: float | Tensor = 1.0) -> Tensor:
    """total - x where x >= threshold, x elsewhere; `total` is black plus white, tensors broadcast."""
    return torch.where(images >= threshold, total - images, images)


def cutout(images: Tensor, boxes: Tensor) -> Tensor:
    """0 inside each image's box (B, 4: top, bottom, left, right; ends not included), in place."""
    top, bottom, left, right = boxes[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    rows = torch.arange(images.shape[2], device=images.device)[:, None]
    columns = torch.arange(images.shape[3], device=images.device)
    return images.masked_fill_((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right), 0)


def sobel(images: Tensor) -> Tensor:
    """(B, 2, H, W) differences across and down of the mean of the channels, zeros around the image."""
    across = torch.tensor(SOBEL, dtype=images.dtype, device=images.device)
    return F.conv2d(images.mean(1, keepdim=True), torch.stack([across, across.T])[:, None], padding=1)


def _per_image(factors: Tensor) -> Tensor:
    return factors[:, None, None, None]


def _luma(images: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def _shifted_sums(images: Tensor, weights: Tensor) -> Tensor:
    """A symmetric filter along both axes; `weights` (B, reach + 1) from its middle outwards."""
    height, width = images.shape[2:]
    reach, taps = weights.shape[1] - 1, weights.T[:, :, None, None, None]
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    down = padded[:, :, reach : reach + height] * taps[0]
    for shift in range(1, reach + 1):
        for start in (reach - shift, reach + shift):
            down.addcmul_(padded[:, :, start : start + height], taps[shift])
    both = down[:, :, :, reach : reach + width] * taps[0]
    for shift in range(1, reach + 1):
        for start in (reach - shift, reach + shift):
            both.addcmul_(down[:, :, :, start : start + width], taps[shift])
    return both
