"""Boxes of a batch of images brought to one size, bilinear with antialias as PIL and torchvision do, in three ways.

A resize along one axis is a matrix, so a whole batch is two batched products: in float32 or float64, or in bfloat16
where a CPU computes that several times as fast and the weights are exact in it (nothing shrunk, sides a power of two).
On a CPU larger images are resized one by one from byte to byte, as PIL does it. All are within one grey level of PIL.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.doctor import cpu_flags

LARGEST_PRODUCT = 64  # pixels a side: beyond, bytes one by one are faster on a CPU
MIDDLE_GREY = 128  # pixels less this are whole numbers of at most 8 bits, exact in bfloat16, and rounded half as far


def crop_resize(
    images: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, C, *size) from 0 to 255: each image's box resized to `size`, mirrored where `flipped` (B,).

    images (B, C, H, W) uint8; boxes (B, 4: top, left, height, width in whole pixels) and flipped on the CPU.
    Pixels outside the box have no weight, as in `resized_crop(antialias=True)`.
    """
    small = max(*images.shape[2:], *size) <= LARGEST_PRODUCT
    if images.device.type == "cpu" and dtype == torch.float32:
        if not small:
            return as_levels(resize_bytes(images, boxes, flipped, size), dtype)
        if fast_bf16() and not _shrinks(images, size) and all(side & (side - 1) == 0 for side in size):
            around_grey = (images - MIDDLE_GREY).view(torch.int8).to(torch.bfloat16)  # less MIDDLE_GREY
            return resize_pixels(around_grey, boxes.float(), flipped, size).to(dtype).add_(MIDDLE_GREY)
    return resize_pixels(images.to(dtype), boxes.to(dtype), flipped, size)


@cache
def fast_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products."""
    return not cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16"))


def as_levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers from 0 to 255, in memory of their own."""
    return images.to(dtype, memory_format=torch.contiguous_format)


def resize_bytes(images: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) uint8: `crop_resize` of one image after the other."""
    resized = torch.empty(*images.shape[:2], *size, dtype=torch.uint8)
    for row, ((top, left, height, width), mirrored) in enumerate(
        zip(boxes.long().tolist(), flipped.tolist(), strict=True)
    ):
        crop = images[row : row + 1, :, top : top + height, left : left + width]
        crop = crop.flip(3) if mirrored else crop
        resized[row] = F.interpolate(crop, size, mode="bilinear", antialias=True)[0]
    return resized


def window(
    images: Tensor, share: float, size: tuple[int, int], places: Tensor | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, C, *size) from 0 to 255: images (uint8) resized to `size / share`, of that the middle (Resize, CenterCrop).

    places: (B, 2) uniform numbers; then a window at a random place (Resize, RandomCrop).
    """
    whole = (round(size[0] / share), round(size[1] / share))
    if whole == tuple(images.shape[2:]):
        pixels = as_levels(images, dtype)
    else:
        boxes = torch.tensor([[0, 0, *images.shape[2:]]]).expand(len(images), 4)
        pixels = crop_resize(images, boxes, torch.zeros(len(images), dtype=torch.bool), whole, dtype)
    if places is not None:
        return _cut(pixels, places, size)
    top, left = round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
    return pixels[:, :, top : top + size[0], left : left + size[1]].contiguous()


def padded_window(pixels: Tensor, share: float, places: Tensor) -> Tensor:
    """(B, C, H, W) a window at `places` (B, 2; uniform) of images with `share` of their sides reflected around them."""
    height, width = pixels.shape[2:]
    down, across = round(share * height), round(share * width)
    return _cut(F.pad(pixels, (across, across, down, down), mode="reflect"), places, (height, width))


def _cut(pixels: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) of each image the window at a place that uniform numbers (B, 2) say: all are equally likely."""
    room = torch.tensor([pixels.shape[2] - size[0] + 1, pixels.shape[3] - size[1] + 1])
    corners = (places * room).long().to(pixels.device, non_blocking=True)
    rows, columns = (corners[:, k, None] + torch.arange(side, device=pixels.device) for k, side in enumerate(size))
    images = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    return pixels[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def resize_pixels(pixels: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """`crop_resize` of float pixels by a product along each axis, in their type; first across, as PIL."""
    batch, channels, height, width = pixels.shape
    start, length = boxes.to(pixels.device, non_blocking=True).split(2, 1)  # each (B, 2): down, across
    flipped = flipped.to(pixels.device, non_blocking=True)
    shrinks = _shrinks(pixels, size)
    straight = torch.zeros_like(flipped)
    if height == width and size[0] == size[1]:  # both axes at once
        turned = torch.cat([straight, flipped])
        weights = resize_weights(start.T.flatten(), length.T.flatten(), height, size[0], turned, shrinks)
        down, across = weights.to(pixels.dtype).split(batch)
    else:
        down = resize_weights(start[:, 0], length[:, 0], height, size[0], straight, shrinks).to(pixels.dtype)
        across = resize_weights(start[:, 1], length[:, 1], width, size[1], flipped, shrinks).to(pixels.dtype)
    wide = torch.bmm(pixels.reshape(batch, channels * height, width), across.transpose(1, 2))
    return torch.matmul(down[:, None], wide.view(batch, channels, height, size[1]))


def _shrinks(images: Tensor, size: tuple[int, int]) -> bool:
    return images.shape[2] > size[0] or images.shape[3] > size[1]


def resize_weights(start: Tensor, length: Tensor, side: int, out: int, flipped: Tensor, shrinks: bool = True) -> Tensor:
    """(B, out, side): row j weighs the source pixels of output pixel j, a triangle cut off at the box's ends.

    A pixel i stands at i + 1/2; the triangle's half width is one source pixel, or `length / out` when shrinking.
    Where no box can shrink, the triangle's middle is kept inside the box instead: the same without a sum.
    """
    pixels = torch.arange(side, device=start.device, dtype=start.dtype) + 0.5
    step = length / out
    ends = torch.where(flipped, start + length, start)
    places = torch.arange(out, device=start.device, dtype=start.dtype) + 0.5
    centers = ends[:, None] + torch.where(flipped, -step, step)[:, None] * places  # (B, out)
    if not shrinks:
        first, last = start[:, None] + 0.5, (start + length)[:, None] - 0.5
        centers = torch.minimum(torch.maximum(centers, first), last)
        return (centers[:, :, None] - pixels).abs_().neg_().add_(1).relu_()
    narrow = 1 / step.clamp(min=1)[:, None]
    inside = (pixels > start[:, None]) & (pixels < (start + length)[:, None])
    sources = torch.where(inside, pixels * narrow, torch.inf)  # (B, side)
    distance = (centers * narrow)[:, :, None] - sources[:, None, :]  # (B, out, side)
    weights = (1 - distance.abs_()).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))
