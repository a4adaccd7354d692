"""What is done to the pixels of a view: pure functions of a batch of images and one parameter set an image.

Images are (B, C, H, W) in [0, 1], float32 or float64; every operation stays on their device and in their type.
The oracles of the tests are `torchvision.transforms.v2.functional`, one image at a time.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's grey of an RGB tensor


def on_rows(images: Tensor, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, C, H, W) with `change` applied to the images `rows` (int64 places in the batch), the others as they are."""
    return images.index_copy(0, rows, change(images.index_select(0, rows)))


def crop_resize(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Each image's box (B, 4: top, left, height, width in pixels) brought to (H, W), mirrored where `flipped` (B,).

    Bilinear with antialias, as `resized_crop(antialias=True)`: a resize along one axis is a matrix, so the whole batch
    is two products.
    """
    height, width = images.shape[2:]
    vertical = _resize_weights(boxes[:, 0], boxes[:, 2], height, torch.zeros_like(flipped))  # (B, H, H)
    horizontal = _resize_weights(boxes[:, 1], boxes[:, 3], width, flipped)  # (B, W, W)
    return _separable(images, vertical, horizontal)


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


def mix_channels(images: Tensor, mixing: Tensor) -> Tensor:
    """P x + Q m, clamped to [0, 1]: x a pixel, m its image's channel means, `mixing` (B, C, 2C) = [P | Q]."""
    channels = images.shape[1]
    from_pixel, from_mean = mixing[:, :, :channels], mixing[:, :, channels:]
    offset = from_mean @ images.mean((2, 3)).unsqueeze(2)  # (B, C, 1)
    return torch.baddbmm(offset, from_pixel, images.flatten(2)).view_as(images).clamp_(0, 1)


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


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """The hue of HSV turned by `shifts` (B,), 1 a whole turn; value and saturation stay. One channel has no hue."""
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
    sector = sector + 6 * shifts[:, None, None]
    # each channel falls from `value` by up to `chroma` as the hue turns away from it (the HSV hexagon)
    distances = [(sector + channel_start) % 6 for channel_start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(d, 4 - d).clamp_(0, 1) for d in distances], 1)


COLOR_OPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)  # in the order of `jitter`'s columns


def jitter(images: Tensor, chosen: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue one after the other, each image in its own order, clamped in between.

    chosen (B,) bool, factors (B, 4) and order (B, 4; a permutation of 0 to 3) are on the CPU: which image takes
    which operation when is known there, so nothing waits for the device.
    """
    for place in range(len(COLOR_OPS)):
        for number, adjust in enumerate(COLOR_OPS):
            rows = (chosen & (order[:, place] == number)).nonzero().flatten()
            amounts = factors[rows, number].to(images.device, images.dtype, non_blocking=True)
            here = rows.to(images.device, non_blocking=True)
            images = images.index_copy(0, here, adjust(images.index_select(0, here), amounts))
    return images


def blur(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur with one sigma (B,) an image, in pixels, reflected at the border; `kernel_size` is odd."""
    offsets = torch.arange(kernel_size, device=images.device, dtype=images.dtype) - kernel_size // 2
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)  # (B, kernel_size)
    vertical, horizontal = (_filter_matrix(weights, side) for side in images.shape[2:])
    return _separable(images, vertical, horizontal)


def blur_kernel_size(side: int) -> int:
    """The odd number nearest a tenth of `side`, at least 3 (SimCLR's rule): 3 at 32, 9 at 96, 23 at 224 pixels."""
    return max(3, 2 * round((0.1 * side - 1) / 2) + 1)


def solarize(images: Tensor) -> Tensor:
    """1 - x where x >= 128/255, x elsewhere."""
    return torch.where(images >= 128 / 255, 1 - images, images)


def _per_image(factors: Tensor) -> Tensor:
    return factors[:, None, None, None]


def _luma(images: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def _separable(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """vertical (B, H', H) times each channel times horizontal (B, W', W) transposed: (B, C, H', W')."""
    batch, channels, height, _ = images.shape
    wide = torch.bmm(images.reshape(batch, channels * height, -1), horizontal.transpose(1, 2))
    return torch.matmul(vertical[:, None], wide.view(batch, channels, height, -1))


def _resize_weights(start: Tensor, size: Tensor, side: int, flipped: Tensor) -> Tensor:
    """(B, side, side): row j weighs the source pixels of output pixel j, a triangle cut off at the box's ends.

    A pixel i stands at i + 1/2; the triangle's half width is one source pixel, or `size / side` of them when shrinking.
    """
    pixels = torch.arange(side, device=start.device, dtype=start.dtype) + 0.5
    step = size / side
    ends = torch.where(flipped, start + size, start)
    centers = ends[:, None] + torch.where(flipped, -step, step)[:, None] * pixels  # (B, side)
    narrow = 1 / step.clamp(min=1)[:, None]
    inside = (pixels > start[:, None]) & (pixels < (start + size)[:, None])
    sources = torch.where(inside, pixels * narrow, torch.inf)  # (B, side)
    distance = (centers * narrow)[:, :, None] - sources[:, None, :]  # (B, side, side)
    weights = (1 - distance.abs_()).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))


def _filter_matrix(weights: Tensor, side: int) -> Tensor:
    """(B, side, side): the filter `weights` (B, kernel_size) as a matrix over one axis, reflected at both ends."""
    kernel_size = weights.shape[1]
    pixels = torch.arange(side, device=weights.device)
    sources = pixels + torch.arange(kernel_size, device=weights.device)[:, None] - kernel_size // 2
    sources = sources.abs()
    sources = torch.minimum(sources, 2 * (side - 1) - sources)  # (kernel_size, side)
    taps = (sources[:, :, None] == pixels).to(weights.dtype)  # (taps, side, side)
    return (weights @ taps.flatten(1)).view(-1, side, side)
