"""Boxes of a batch of images brought to one size, bilinear with antialias as PIL and torchvision do, in three ways.

A resize along one axis is a matrix, so a whole batch is two batched products: in float32 or float64, or in bfloat16
where a CPU computes that several times as fast and the weights are exact in it (nothing shrunk, sides a power of two).
On a CPU larger images are resized one by one from byte to byte, as PIL does it. All are within one grey level of PIL.
A batch is brought into the form that its way takes once for all its views.
"""

import sys
from enum import Enum
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from data.view_params import Units
from utils.doctor import cpu_flags

LARGEST_PRODUCT = 64  # pixels a side: beyond, bytes one by one are faster on a CPU
LARGEST_TABLE = 32  # pixels a side: the weights of all whole-pixel boxes of 32 pixels take 3 megabytes, of 64 50
MIDDLE_GREY = 128  # pixels less this are whole numbers of at most 8 bits, exact in bfloat16, and rounded half as far


class Form(Enum):
    """How a batch lies in memory while it is cropped."""

    BYTES = "bytes"  # (B, C, H, W) uint8
    AROUND_GREY = "around grey"  # (B, C, H, W) bfloat16, less MIDDLE_GREY
    PACKED = "packed"  # (B, H, W) int32, red + 256 green + 65536 blue: torch's resize of bytes is fastest on these


def best_form(images: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Form:
    """The form in which images (B, C, H, W) are fastest cropped to `size`."""
    if images.device.type != "cpu" or dtype != torch.float32:
        return Form.BYTES
    if not _small(images, size):
        return Form.PACKED if images.shape[1] == 3 and sys.byteorder == "little" else Form.BYTES
    exact = not _shrinks(images, size) and all(side & (side - 1) == 0 for side in size)
    return Form.AROUND_GREY if exact and fast_bf16() else Form.BYTES


def bring(images: Tensor, form: Form) -> Tensor:
    """Bytes (B, C, H, W) in `form`."""
    if form is Form.AROUND_GREY:
        return (images - MIDDLE_GREY).view(torch.int8).to(torch.bfloat16)
    if form is Form.PACKED:
        red, green, blue = images.to(torch.int32).unbind(1)
        return torch.add(red, green, alpha=2**8).add_(blue, alpha=2**16)
    return images


def units(form: Form) -> Units:
    """Of the numbers that `crop_planes` gives."""
    if form is Form.PACKED:
        return Units((1 / 255, 1 / (255 * 2**8), 1 / (255 * 2**16)))
    return Units((1 / 255,), MIDDLE_GREY / 255 if form is Form.AROUND_GREY else 0.0)


@cache
def fast_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products."""
    return not cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16"))


def crop_resize(
    images: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, C, *size) from 0 to 255: each image's box resized to `size`, mirrored where `flipped` (B,).

    images (B, C, H, W) uint8; boxes (B, 4: top, left, height, width in whole pixels) and flipped on the CPU.
    Pixels outside the box have no weight, as in `resized_crop(antialias=True)`.
    """
    form = best_form(images, size, dtype)
    cropped = _resize(bring(images, form), boxes, flipped, size, dtype)
    if form is Form.PACKED:
        return as_levels(_colors(cropped)[:, :3], dtype)
    return cropped.to(dtype).add_(MIDDLE_GREY) if form is Form.AROUND_GREY else cropped.to(dtype)


def crop_planes(
    source: Tensor, form: Form, boxes: Tensor, flipped: Tensor, size: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """`crop_resize` of images that `bring` gave, in the `units` of their form: (B, C, *size).

    With one plane of ones more, (B, C + 1, *size), where it comes free: `mix_channels` then adds within its product.
    """
    cropped = _resize(source, boxes, flipped, size, dtype)
    if form is Form.BYTES:
        return cropped.to(dtype)
    channels = 3 if form is Form.PACKED else cropped.shape[1]
    planes = torch.empty(len(cropped), channels + 1, *size, dtype=dtype)
    planes[:, channels] = 1
    if form is Form.PACKED:  # each colour stays where it stands in the number
        cropped = cropped[:, None] & torch.tensor([0xFF, 0xFF << 8, 0xFF << 16], dtype=torch.int32)[:, None, None]
    planes[:, :channels] = cropped
    return planes


def as_levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers from 0 to 255, in memory of their own."""
    return images.to(dtype, memory_format=torch.contiguous_format)


def _resize(source: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Boxes of images in any form, in that form; bytes become `dtype` where they are resized by products."""
    if source.dtype == torch.int32:
        return resize_packed(source, boxes, flipped, size)
    if source.dtype == torch.bfloat16:
        return resize_pixels(source, boxes.float(), flipped, size)
    if source.device.type == "cpu" and dtype == torch.float32 and not _small(source, size):
        return resize_bytes(source, boxes, flipped, size)
    return resize_pixels(source.to(dtype), boxes.to(dtype), flipped, size)


def resize_bytes(images: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) uint8: boxes of images (B, C, H, W) uint8, one after the other."""
    resized = torch.empty(*images.shape[:2], *size, dtype=torch.uint8)
    for row, ((top, left, height, width), mirrored) in enumerate(
        zip(boxes.long().tolist(), flipped.tolist(), strict=True)
    ):
        crop = images[row : row + 1, :, top : top + height, left : left + width]
        crop = crop.flip(3) if mirrored else crop
        resized[row] = F.interpolate(crop, size, mode="bilinear", antialias=True)[0]
    return resized


def resize_packed(packed: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, *size) int32: boxes of packed images (B, H, W), one after the other."""
    resized = torch.empty(len(packed), *size, dtype=torch.int32)
    resize = torch.ops.aten._upsample_bilinear2d_aa.out  # `F.interpolate(antialias=True)` into given memory
    for image, (top, left, height, width), mirrored, out in zip(
        packed.unbind(), boxes.long().tolist(), flipped.tolist(), _colors(resized).split(1), strict=True
    ):
        crop = image[top : top + height, left : left + width]
        crop = crop.flip(1) if mirrored else crop.contiguous()
        resize(_colors(crop[None]), size, False, None, None, out=out)
    return resized


def _colors(packed: Tensor) -> Tensor:
    """(B, 4, H, W) uint8, channels_last, of packed images (B, H, W): red, green, blue, 0, in the same memory."""
    return packed.view(torch.uint8).view(*packed.shape, 4).permute(0, 3, 1, 2)


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
    if pixels.dtype == torch.bfloat16 and height == width <= LARGEST_TABLE and size[0] == size[1]:
        tables, number = weight_tables(height, size[0]), _box_numbers(boxes.long(), height)
        down = tables[0].index_select(0, number[0])
        across = tables[1].index_select(0, number[1] + flipped * len(tables[0]))
    else:
        start, length = boxes.to(pixels.device, non_blocking=True).split(2, 1)  # each (B, 2): down, across
        flipped = flipped.to(pixels.device, non_blocking=True)
        straight, shrinks = torch.zeros_like(flipped), _shrinks(pixels, size)
        down = resize_weights(start[:, 0], length[:, 0], height, size[0], straight, shrinks).to(pixels.dtype)
        across = resize_weights(start[:, 1], length[:, 1], width, size[1], flipped, shrinks).to(pixels.dtype)
        across = across.transpose(1, 2)
    wide = torch.bmm(pixels.reshape(batch, channels * height, width), across)
    return torch.matmul(down[:, None], wide.view(batch, channels, height, size[1]))


@cache
def weight_tables(side: int, out: int) -> tuple[Tensor, Tensor]:
    """`resize_weights` of all whole-pixel boxes that do not shrink, in bfloat16, by their number.

    Down the image (n, out, side), and across it (2n, side, out): transposed as the product takes them, first straight
    and then mirrored.
    """
    start, length = torch.ones(side, side).triu().flip(1).nonzero().float().unbind(1)
    straight = torch.zeros(len(start), dtype=torch.bool)
    down, mirrored = (resize_weights(start, length + 1, side, out, f, False) for f in (straight, ~straight))
    across = torch.cat([down, mirrored]).transpose(1, 2).contiguous()
    return down.to(torch.bfloat16), across.to(torch.bfloat16)


def _box_numbers(boxes: Tensor, side: int) -> Tensor:
    """(2, B) where `weight_tables` has the boxes: those that start at a pixel stand together, the shortest first."""
    start, length = boxes.T.split(2)
    return (start * (2 * side + 1 - start) >> 1) + length - 1


def _small(images: Tensor, size: tuple[int, int]) -> bool:
    return max(*images.shape[2:], *size) <= LARGEST_PRODUCT


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
