"""Parameters of view operations from uniform numbers: against loops that read like torchvision's, and its own draws."""

import math

import pytest
import torch
from torch import Tensor

from data import view_ops, view_params

RATIO = (3 / 4, 4 / 3)


def uniform(n: int) -> dict[str, Tensor]:
    widths = view_params.NUMBERS
    drawn = torch.rand(n, sum(widths.values()), dtype=torch.float64)
    return dict(zip(widths, drawn.split(list(widths.values()), 1), strict=True))


def box_by_loop(
    numbers: dict[str, Tensor], row: int, height: int, width: int, scale: tuple[float, float]
) -> tuple[int, ...]:
    for attempt in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * numbers["area"][row, attempt].item())
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        ratio = math.exp(low + (high - low) * numbers["ratio"][row, attempt].item())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = math.floor(numbers["corner"][row, 0].item() * (height - h + 1))
            return top, math.floor(numbers["corner"][row, 1].item() * (width - w + 1)), h, w
    sides = torch.tensor([[height, width]], dtype=torch.float64)
    return tuple(view_params.fallback_boxes(sides, RATIO)[0].int().tolist())


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(32, 32, (0.08, 1.0)), (17, 29, (0.9, 1.0)), (10, 100, (0.9, 1.0))]
)
def test_crop_boxes_equal_ten_tries_in_a_loop(height: int, width: int, scale: tuple[float, float]) -> None:
    numbers = uniform(211)
    boxes = view_params.crop_boxes(numbers, height, width, scale=scale, ratio=RATIO)
    expected = [box_by_loop(numbers, row, height, width, scale) for row in range(211)]
    assert boxes.tolist() == [list(map(float, box)) for box in expected]


def test_crop_boxes_of_images_of_many_sizes_are_each_images_own() -> None:
    numbers, sizes = uniform(97), torch.randint(5, 60, (97, 2))
    boxes = view_params.crop_boxes(numbers, *sizes.unbind(1), scale=(0.5, 1.0), ratio=RATIO)
    for row, (height, width) in enumerate(sizes.tolist()):
        assert boxes[row].tolist() == list(box_by_loop(numbers, row, height, width, (0.5, 1.0)))


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (96, 96, (0, 0, 96, 96))],
)
def test_fallback_boxes_are_torchvisions(height: int, width: int, box: tuple[int, ...]) -> None:
    sides = torch.tensor([[height, width]], dtype=torch.float64)
    assert tuple(view_params.fallback_boxes(sides, RATIO)[0].tolist()) == box


def test_jitter_factors_fill_their_ranges_and_are_never_negative() -> None:
    corners = torch.stack([torch.zeros(4), torch.ones(4)]).double()
    factors = view_params.jitter_factors(corners, (0.4, 1.5, 0.2, 0.1))
    torch.testing.assert_close(factors, torch.tensor([[0.6, 0, 0.8, -0.1], [1.4, 2.5, 1.2, 0.1]]).double())


def mix(images: Tensor, **chosen: float) -> Tensor:
    values = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **chosen}
    n, gray = len(images), bool(values.pop("gray", 0))
    factors = torch.tensor(list(values.values()), dtype=torch.float64).expand(n, 4)
    return mixed(images, torch.ones(n, dtype=torch.bool), factors, torch.full((n,), gray))


def mixed(images: Tensor, chosen: Tensor, factors: Tensor, gray: Tensor) -> Tensor:
    zeros, ones = (0.0,) * images.shape[1], (1.0,) * images.shape[1]
    return view_ops.mix_channels(images, view_params.color_mixing(chosen, factors, gray, zeros, ones), zeros, ones)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4])
def test_the_color_matrix_of_one_operation_is_that_operation(name: str, factor: float) -> None:
    images = torch.rand(5, 3, 11, 7, dtype=torch.float64)
    exact = getattr(view_ops, f"adjust_{name}")(images, torch.full((5,), factor, dtype=torch.float64))
    # 0.299 R of YIQ against torchvision's 0.2989 R
    torch.testing.assert_close(mix(images, **{name: factor}), exact, atol=2e-4, rtol=0)


def test_the_color_matrix_of_grey_is_grey_whatever_the_hue() -> None:
    images = torch.rand(5, 3, 11, 7, dtype=torch.float64)
    torch.testing.assert_close(mix(images, gray=1, hue=0.3), view_ops.grayscale(images), atol=2e-4, rtol=0)


def test_the_color_matrix_equals_the_unclamped_operations_in_any_order() -> None:
    images = 0.4 + 0.1 * torch.rand(1, 3, 11, 7, dtype=torch.float64)  # far from 0 and 1: no clamp acts
    values = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.05}
    together = mix(images, **values)
    for order in (("brightness", "contrast", "saturation", "hue"), ("hue", "contrast", "brightness", "saturation")):
        step_by_step = images
        for name in order:
            step_by_step = mix(step_by_step, **{name: values[name]})
        torch.testing.assert_close(together, step_by_step, atol=1e-12, rtol=0)


def test_the_yiq_hue_keeps_the_luma_and_turns_red_towards_green_as_hsv_does() -> None:
    red = torch.tensor([0.6, 0.3, 0.3]).double().view(1, 3, 1, 1)
    turned, exact = mix(red, hue=0.1), view_ops.adjust_hue(red, torch.tensor([0.1]).double())
    assert turned[0, 1] > turned[0, 2]
    assert exact[0, 1] > exact[0, 2]
    luma = torch.tensor([0.299, 0.587, 0.114]).double()
    assert luma @ turned.flatten() == pytest.approx(float(luma @ red.flatten()))


def test_unchosen_images_are_not_jittered_but_may_be_grey() -> None:
    images, factors = torch.rand(2, 3, 5, 7, dtype=torch.float64), torch.tensor([[0.5, 0.5, 0.5, 0.2]] * 2).double()
    nobody, gray = torch.zeros(2, dtype=torch.bool), torch.tensor([False, True])
    changed = mixed(images, nobody, factors, gray)
    torch.testing.assert_close(changed[0], images[0])
    torch.testing.assert_close(changed[1:], view_ops.grayscale(images[1:]), atol=2e-4, rtol=0)


def test_the_color_matrix_normalises_and_takes_grey_levels_as_well() -> None:
    images, factors = (
        torch.rand(5, 3, 7, 7, dtype=torch.float64),
        view_params.jitter_factors(torch.rand(5, 4, dtype=torch.float64), (0.4, 0.4, 0.4, 0.1)),
    )
    always, some = torch.ones(5, dtype=torch.bool), torch.tensor([True, False, False, True, False])
    mean, std = torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.25]).double()
    low, high = (-mean / std).tolist(), ((1 - mean) / std).tolist()
    mixing = view_params.color_mixing(always, factors, some, mean.tolist(), std.tolist(), view_params.Units((1 / 255,)))
    expected = (mixed(images, always, factors, some) - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(view_ops.mix_channels(255 * images, mixing, low, high), expected)


def test_a_plane_of_ones_other_units_and_memory_given_change_nothing() -> None:
    levels, factors = torch.rand(3, 3, 5, 7, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    always, never, zeros, ones = torch.ones(3) > 0, torch.ones(3) < 0, (0.0,) * 3, (1.0,) * 3
    units = view_params.Units((0.5, 0.25, 2.0), 0.125)
    pixels = levels * torch.tensor(units.scale)[:, None, None] + units.shift
    planes, out = torch.cat([levels, torch.ones_like(levels[:, :1])], 1), torch.empty(3, 5, 7, 3).double()
    mixing = view_params.color_mixing(always, factors, never, zeros, ones, units)
    made = view_ops.mix_channels(planes, mixing, zeros, ones, out.permute(0, 3, 1, 2))
    assert made.data_ptr() == out.data_ptr()
    torch.testing.assert_close(made, mixed(pixels, always, factors, never))


def test_one_channel_takes_brightness_and_contrast_and_has_no_color() -> None:
    images = torch.rand(3, 1, 5, 7, dtype=torch.float64)
    dimmed = mix(images, brightness=0.5, contrast=0.5, saturation=0.1, hue=0.3, gray=1)
    torch.testing.assert_close(dimmed, 0.25 * images + 0.25 * images.mean((2, 3), keepdim=True))


def test_affine_matrices_multiply_rotation_shear_and_inverse_magnification() -> None:
    numbers = torch.rand(5, 6, dtype=torch.float64)
    limits = {"rotation": 15.0, "scale": (0.8, 1.2), "aspect": 0.1, "shear": 0.2, "translation": 0.1}
    matrices = view_params.affine_matrices(numbers, **limits)
    for row, got in zip(numbers.tolist(), matrices, strict=True):
        signed = [2 * number - 1 for number in row]
        angle, stretch, shear = math.radians(15 * signed[0]), 0.1 * signed[2], 0.2 * signed[3]
        size = math.exp(math.log(0.8) + row[1] * math.log(1.2 / 0.8))
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
        slant = torch.tensor([[1, shear], [0, 1]]).double()
        shrink = torch.tensor([[1 / (size * math.exp(stretch)), 0], [0, 1 / (size / math.exp(stretch))]]).double()
        shift = 0.1 * torch.tensor([[signed[4]], [signed[5]]]).double()
        torch.testing.assert_close(got, torch.cat([rotation @ slant @ shrink, shift], 1))


def test_cutout_boxes_have_even_sides_and_are_clipped() -> None:
    numbers = torch.tensor([[0.0, 0.5, 0.5], [0.999, 0.5, 0.5], [0.5, 0.0, 0.99]], dtype=torch.float64)
    # L = 1: nothing; L = 16: 16 pixels about (16, 16); L = 9: 8 pixels about (0, 31), half of each side outside
    assert view_params.cutout_boxes(numbers, 16, 32, 32).tolist() == [[16, 16, 16, 16], [8, 24, 8, 24], [0, 4, 27, 32]]


def test_windows_and_middles_are_squares_inside_the_image() -> None:
    heights, widths = torch.tensor([40, 50, 31]), torch.tensor([60, 50, 20])
    boxes = view_params.window_boxes(uniform(3), heights, widths, share=0.8)
    assert boxes[:, 2:].tolist() == [[32, 32], [40, 40], [16, 16]]
    assert ((boxes[:, 0] + boxes[:, 2] <= heights) & (boxes[:, 1] + boxes[:, 3] <= widths) & (boxes >= 0).all(1)).all()
    middles = view_params.middle_boxes(heights, widths, 3, share=0.8)
    assert middles.tolist() == [[4, 14, 32, 32], [5, 5, 40, 40], [8, 2, 16, 16]]
