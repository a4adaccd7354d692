"""The strong operations of self-labelling, each against torchvision's, one image at a time."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from data import view_ops, view_strong
from utils import compat

B, H, W = 5, 13, 11


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    compat.prepare_torchvision()
    from torchvision.transforms.v2 import functional

    return functional


@pytest.fixture
def images() -> Tensor:
    """Bytes, some channels of few levels, one flat."""
    made = torch.randint(0, 256, (B, 3, H, W), dtype=torch.uint8)
    made[1] = made[1] // 4 + 60
    made[2, 0] = 77
    return made


def within_a_level(got: Tensor, expected: list[Tensor], levels: float = 1.001) -> None:
    assert (got * 255 - torch.stack(expected)).abs().max() <= levels


def test_autocontrast_and_equalize_equal_torchvision(reference: ModuleType, images: Tensor) -> None:
    for name in ("autocontrast", "equalize"):
        got = getattr(view_strong, name)(images / 255, torch.zeros(B))
        within_a_level(got, [getattr(reference, name)(image) for image in images])


def test_posterize_truncates_the_bits_and_equals_torchvision(reference: ModuleType, images: Tensor) -> None:
    bits = torch.tensor([4.0, 5.9, 6.3, 7.5, 8.0])
    got = view_strong.posterize(images / 255, bits)
    within_a_level(got, [reference.posterize(image, int(n)) for image, n in zip(images, bits, strict=True)], 0.01)


def test_solarize_and_sharpness_equal_torchvision(reference: ModuleType, images: Tensor) -> None:
    levels = torch.tensor([0.0, 60.0, 128.0, 200.0, 255.0])
    got = view_strong.solarize(images / 255, levels - 0.5)
    within_a_level(got, [reference.solarize(image, n.item()) for image, n in zip(images, levels, strict=True)], 0.01)
    factors = torch.linspace(0.05, 0.95, B)
    got = view_strong.sharpness(images / 255, factors)
    for image, factor, mixed in zip(images / 255, factors.tolist(), got, strict=True):
        torch.testing.assert_close(mixed, reference.adjust_sharpness(image, factor), atol=1e-5, rtol=0)


def test_shears_and_shifts_equal_torchvisions_about_the_corner(reference: ModuleType, images: Tensor) -> None:
    slants, pixels = torch.tensor([-0.1, -0.033, 0.0, 0.05, 0.09]), torch.tensor([-2, -1, 0, 1, 2])

    def affine(image: Tensor, shift: list[int], shear: list[float]) -> Tensor:
        return reference.affine(image, angle=0.0, translate=shift, scale=1.0, shear=shear, center=[0.0, 0.0])

    across = [affine(image, [0, 0], [math.degrees(math.atan(n)), 0.0]) for image, n in zip(images, slants, strict=True)]
    down = [affine(image, [0, 0], [0.0, math.degrees(math.atan(n))]) for image, n in zip(images, slants, strict=True)]
    assert share_equal(view_strong.shear_across(images / 255, slants), across) > 0.99
    assert share_equal(view_strong.shear_down(images / 255, slants), down) > 0.99
    right = [affine(image, [-int(n), 0], [0.0, 0.0]) for image, n in zip(images, pixels, strict=True)]
    below = [affine(image, [0, -int(n)], [0.0, 0.0]) for image, n in zip(images, pixels, strict=True)]
    assert share_equal(view_strong.shift_across(images / 255, pixels / W), right) == 1
    assert share_equal(view_strong.shift_down(images / 255, pixels / H), below) == 1


def test_rotation_equals_torchvisions(reference: ModuleType, images: Tensor) -> None:
    degrees = torch.tensor([-30.0, -11.0, 0.0, 7.0, 29.0])
    got = view_strong.rotate(images / 255, degrees)
    assert (
        share_equal(got, [reference.rotate(image, n.item()) for image, n in zip(images, degrees, strict=True)]) > 0.99
    )


def share_equal(got: Tensor, expected: list[Tensor]) -> float:
    """The nearest pixel may be another where two are equally near."""
    return ((got * 255 - torch.stack(expected)).abs() < 0.01).double().mean().item()


def test_each_image_takes_its_own_operations_in_its_own_order(images: Tensor) -> None:
    numbers = torch.rand(B, 4, 3, dtype=torch.float64)
    got = view_strong.strong(images.double() / 255, numbers)
    for row in range(B):
        expected = images[row : row + 1].double() / 255
        for place in range(4):
            which, amount = view_strong.strong_parameters(numbers[row : row + 1, place])
            expected = view_strong.STRONG[int(which)].change(expected, amount)
        torch.testing.assert_close(got[row : row + 1], expected)


def test_operations_are_equally_likely_and_amounts_fill_their_ranges() -> None:
    which, amounts = view_strong.strong_parameters(torch.rand(14_000, 3, dtype=torch.float64))
    counts = torch.bincount(which, minlength=14)
    assert (counts - 1000).abs().max() < 130  # 4 standard errors
    for number, operation in enumerate(view_strong.STRONG):
        own = amounts[which == number]
        assert (own >= operation.low).all()
        assert (own <= operation.high).all()
        assert abs(own.mean() - (operation.low + operation.high) / 2) <= 0.1 * (operation.high - operation.low)


def test_the_list_is_the_published_one() -> None:
    assert len(view_strong.STRONG) == 14
    mixes = [each for each in view_strong.STRONG if (each.low, each.high) == (0.05, 0.95)]
    assert {each.change for each in mixes} == {
        view_ops.adjust_saturation,
        view_ops.adjust_contrast,
        view_ops.adjust_brightness,
        view_strong.sharpness,
    }
