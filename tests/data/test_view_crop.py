"""Crops and windows brought to one size, against torchvision and PIL."""

from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data import view_crop
from utils import compat

B, STRAIGHT = 7, torch.zeros(7, dtype=torch.bool)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    compat.prepare_torchvision()
    from torchvision.transforms.v2 import functional

    return functional


def random_boxes(height: int, width: int) -> Tensor:
    sizes = torch.stack([torch.randint(1, height + 1, (B,)), torch.randint(1, width + 1, (B,))], 1)
    room = torch.tensor([height, width]) - sizes
    return torch.cat([(torch.rand(B, 2) * (room + 1)).floor().long(), sizes], 1)


def random_bytes(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (B, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("side", "size"),
    [((13, 11), (13, 11)), ((32, 32), (32, 32)), ((47, 53), (31, 67)), ((32, 32), (11, 13)), ((11, 13), (48, 48))],
)
def test_crop_resize_equals_torchvision_with_antialias(
    reference: ModuleType, side: tuple[int, int], size: tuple[int, int]
) -> None:
    images, boxes = random_bytes(*side).double(), random_boxes(*side)
    cropped = view_crop.resize_pixels(images, boxes.double(), STRAIGHT, size)
    for image, box, got in zip(images, boxes.tolist(), cropped, strict=True):
        expected = reference.resized_crop(image, *box, size=list(size), antialias=True)
        assert (got - expected).abs().max() < 1e-9


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(
    ("side", "size"), [(32, 32), (32, 48), (48, 24), (17, 64), (64, 64), (97, 83), (31, 101), (64, 32)]
)
def test_crop_resize_of_bytes_stays_within_one_grey_level_of_pil(
    side: int, size: int, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_crop, "fast_bf16", lambda: bf16)  # without such instructions it is slow, and the same
    images, boxes = random_bytes(side, side), random_boxes(side, side)
    cropped = view_crop.crop_resize(images, boxes.double(), STRAIGHT, (size, size))
    for image, (top, left, height, width), got in zip(images, boxes.tolist(), cropped, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        picture = picture.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
        assert (got - expected).abs().max() <= 1.001


@pytest.mark.parametrize(("side", "dtype"), [(32, torch.float32), (32, torch.float64), (83, torch.float32)])
def test_flipped_crops_are_the_mirrored_crops_and_the_others_are_not(side: int, dtype: torch.dtype) -> None:
    images, boxes = random_bytes(side, side), random_boxes(side, side)
    flipped = torch.tensor([True, False, True, True, False, False, True])
    straight = view_crop.crop_resize(images, boxes, STRAIGHT, (side, side), dtype)
    mixed = view_crop.crop_resize(images, boxes, flipped, (side, side), dtype)
    assert (mixed[flipped] - straight[flipped].flip(3)).abs().max() <= 1  # rounding may fall otherwise
    assert torch.equal(mixed[~flipped], straight[~flipped])


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(
    ("channels", "side", "size"), [(3, 32, 32), (1, 32, 64), (3, 17, 24), (3, 97, 83), (1, 97, 83)]
)
def test_planes_in_their_units_are_the_crops(
    channels: int, side: int, size: int, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_crop, "fast_bf16", lambda: bf16)
    images, boxes, flipped = random_bytes(side, side)[:, :channels], random_boxes(side, side), torch.arange(B) % 2 > 0
    form, out = view_crop.best_form(images, (size, size), torch.float32), (size, size)
    planes = view_crop.crop_planes(view_crop.bring(images, form), form, boxes, flipped, out, torch.float32)
    assert torch.equal(planes[:, channels:], torch.ones_like(planes[:, channels:]))
    scale, shift = view_crop.units(form)
    pixels = planes[:, :channels] * torch.tensor(scale)[:, None, None] + shift
    torch.testing.assert_close(pixels, view_crop.crop_resize(images, boxes, flipped, out) / 255, rtol=0, atol=1e-6)


def test_boxes_a_pixel_wide_or_high_are_torchvisions(reference: ModuleType) -> None:
    images, size = random_bytes(97, 97)[:4], [83, 97]
    boxes = torch.tensor([[5, 7, 1, 1], [0, 3, 1, 90], [4, 96, 60, 1], [96, 96, 1, 1]])
    cropped = view_crop.crop_resize(images, boxes, STRAIGHT[:4], (83, 97))
    for image, box, got in zip(images, boxes.tolist(), cropped, strict=True):
        assert torch.equal(got, reference.resized_crop(image, *box, size=size, antialias=True).float())


@pytest.mark.parametrize("flip", [False, True])
def test_the_tables_hold_the_weights_of_all_boxes(flip: bool) -> None:
    boxes = torch.tensor([[start, 0, length, 8] for start in range(8) for length in range(1, 9 - start)])
    start, length, flipped = boxes[:, 0].float(), boxes[:, 2].float(), torch.full((len(boxes),), flip)
    expected = view_crop.resize_weights(start, length, 8, 16, flipped, False).to(torch.bfloat16)
    down, across = view_crop.weight_tables(8, 16)
    number = view_crop._box_numbers(boxes, 8)[0]
    assert flip or torch.equal(down[number], expected)
    assert torch.equal(across[number + flip * len(down)].transpose(1, 2), expected)


@pytest.mark.parametrize("side", [32, 83])
def test_the_whole_image_as_box_changes_nothing(side: int) -> None:
    images, whole = random_bytes(side, side), torch.tensor([0, 0, side, side]).expand(B, 4)
    assert torch.equal(view_crop.crop_resize(images, whole, STRAIGHT, (side, side)), images.float())


@pytest.mark.parametrize("side", [32, 96])
def test_the_middle_window_is_resize_and_center_crop(reference: ModuleType, side: int) -> None:
    images = random_bytes(side, side)
    resized = reference.resize(images, [round(side / 0.8)] * 2, antialias=True)
    expected = reference.center_crop(resized, [side, side])
    assert (view_crop.window(images, 0.8, (side, side), None) - expected).abs().max() <= 1.001


def test_random_windows_lie_where_their_numbers_say() -> None:
    images = random_bytes(32, 32)
    places = torch.linspace(0, 0.999, 2 * B, dtype=torch.float64).view(B, 2)
    whole = torch.tensor([0, 0, 32, 32]).expand(B, 4)
    resized = view_crop.crop_resize(images, whole, STRAIGHT, (40, 40))
    cut = view_crop.window(images, 0.8, (32, 32), places)
    for row, (top, left) in enumerate((places * 9).long().tolist()):
        assert torch.equal(cut[row], resized[row, :, top : top + 32, left : left + 32])


def test_padded_windows_are_random_crops_with_reflected_borders(reference: ModuleType) -> None:
    pixels, places = torch.rand(B, 3, 16, 16), torch.rand(B, 2, dtype=torch.float64)
    padded = reference.pad(pixels, [2, 2], padding_mode="reflect")
    cut = view_crop.padded_window(pixels, 1 / 8, places)
    for row, (top, left) in enumerate((places * 5).long().tolist()):
        assert torch.equal(cut[row], padded[row, :, top : top + 16, left : left + 16])
