"""Every view operation against torchvision, one image at a time."""

from types import ModuleType

import pytest
import torch

from data import view_ops
from utils import compat

B, H, W = 7, 13, 11


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    compat.prepare_torchvision()
    from torchvision.transforms.v2 import functional

    return functional


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(B, 3, H, W)


def test_mirror_equals_torchvision(reference: ModuleType, images: torch.Tensor) -> None:
    assert torch.equal(view_ops.mirror(images), reference.horizontal_flip(images))


def test_grayscale_equals_torchvision(reference: ModuleType, images: torch.Tensor) -> None:
    torch.testing.assert_close(view_ops.grayscale(images), reference.rgb_to_grayscale(images, num_output_channels=3))


def test_solarize_equals_torchvision(reference: ModuleType) -> None:
    levels = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(view_ops.solarize(levels), reference.solarize(levels, threshold=128 / 255))
    normal = (levels - 0.3) / 0.2
    inverted = view_ops.solarize(normal, (127.5 / 255 - 0.3) / 0.2, (1 - 2 * 0.3) / 0.2)
    torch.testing.assert_close(0.2 * inverted + 0.3, reference.solarize(levels, threshold=128 / 255))


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        ("adjust_brightness", "adjust_brightness", 0.0, 1.8),
        ("adjust_contrast", "adjust_contrast", 0.0, 1.8),
        ("adjust_saturation", "adjust_saturation", 0.0, 1.8),
        ("adjust_hue", "adjust_hue", -0.5, 0.5),
    ],
)
def test_each_jitter_operation_equals_torchvision_at_its_own_factor_an_image(
    reference: ModuleType, images: torch.Tensor, ours: str, theirs: str, low: float, high: float
) -> None:
    factors = torch.linspace(low, high, B)
    changed = getattr(view_ops, ours)(images, factors)
    for image, factor, got in zip(images, factors.tolist(), changed, strict=True):
        torch.testing.assert_close(got, getattr(reference, theirs)(image, factor), atol=2e-6, rtol=0)


def test_hue_leaves_grey_pixels_alone() -> None:
    gray = torch.rand(B, 1, H, W).expand(B, 3, H, W)
    torch.testing.assert_close(view_ops.adjust_hue(gray, torch.linspace(-0.5, 0.5, B)), gray)


def test_jitter_follows_each_images_own_order_and_spares_the_unchosen(
    reference: ModuleType, images: torch.Tensor
) -> None:
    chosen = torch.tensor([True, True, False, True, True, False, True])
    factors = torch.rand(B, 4) * torch.tensor([0.8, 0.8, 0.8, 0.2]) + torch.tensor([0.6, 0.6, 0.6, -0.1])
    order = torch.rand(B, 4).argsort(1)
    jittered = view_ops.jitter(images.clone(), chosen, factors, order)
    names = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
    for number in range(B):
        expected = images[number]
        for step in order[number].tolist() if chosen[number] else []:
            expected = getattr(reference, names[step])(expected, factors[number, step].item())
        torch.testing.assert_close(jittered[number], expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("kernel_size", [3, 9])
def test_blur_equals_torchvision_at_its_own_sigma_an_image(
    reference: ModuleType, images: torch.Tensor, kernel_size: int
) -> None:
    sigmas, chosen = torch.linspace(0.1, 2.0, B, dtype=torch.float64), torch.tensor([0, 1, 3, 4, 5, 6])
    blurred = view_ops.blur(images.clone(), chosen, sigmas, kernel_size)
    assert torch.equal(blurred[2], images[2])
    for row in chosen.tolist():
        expected = reference.gaussian_blur(images[row], [kernel_size, kernel_size], [sigmas[row].item()] * 2)
        torch.testing.assert_close(blurred[row], expected, atol=1e-4, rtol=0)  # cut off at 4 sigma


def test_blur_weights_are_the_published_kernel() -> None:
    points = torch.zeros(2, 1, 47, 47, dtype=torch.float64)
    points[:, 0, 23, 23] = 1
    sigmas = torch.tensor([1.0, 0.5], dtype=torch.float64)
    wide = view_ops.blur(points.clone(), torch.tensor([0]), sigmas, 23)[0, 0].sum(0)
    assert wide[23].item() == pytest.approx(0.398942278267, abs=1e-4)
    assert wide[24].item() == pytest.approx(0.241970723224, abs=1e-4)
    assert wide.sum().item() == pytest.approx(1, abs=1e-12)
    narrow = view_ops.blur(points, torch.tensor([1]), sigmas, 3)[1, 0].sum(0)
    assert narrow[22:25].tolist() == pytest.approx([0.106506978919, 0.786986042162, 0.106506978919], abs=1e-11)


@pytest.mark.parametrize(("side", "kernel_size"), [(8, 3), (32, 3), (96, 9), (224, 23)])
def test_blur_kernel_is_a_tenth_of_the_side(side: int, kernel_size: int) -> None:
    assert view_ops.blur_kernel_size(side) == kernel_size


def test_warp_with_the_identity_changes_nothing_and_a_shift_moves_pixels(images: torch.Tensor) -> None:
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(B, 2, 3)
    torch.testing.assert_close(view_ops.warp(images, identity), images, atol=1e-5, rtol=0)
    one_pixel = identity + torch.tensor([[0, 0, 2 / W], [0, 0, 0]])
    moved = view_ops.warp(images, one_pixel)
    torch.testing.assert_close(moved[..., :-1], images[..., 1:], atol=1e-5, rtol=0)
    assert moved[..., -1].abs().max() < 1e-5  # black from outside


def test_warp_equals_torchvisions_rotation(reference: ModuleType) -> None:
    square = torch.rand(B, 3, 13, 13)
    angle = torch.deg2rad(torch.tensor(17.0))
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]]).expand(B, 2, 3)
    expected = reference.rotate(square, 17.0, interpolation=reference.InterpolationMode.BILINEAR)
    torch.testing.assert_close(view_ops.warp(square, turn), expected, atol=1e-4, rtol=0)


def test_on_rows_changes_only_these_and_may_change_none(images: torch.Tensor) -> None:
    rows = torch.tensor([5, 2])
    changed = view_ops.on_rows(images.clone(), rows, lambda some: 1 - some)
    assert torch.equal(changed[rows], 1 - images[rows])
    assert torch.equal(changed[[0, 1, 3, 4, 6]], images[[0, 1, 3, 4, 6]])
    nobody = torch.empty(0, dtype=torch.int64)
    assert torch.equal(view_ops.on_rows(images.clone(), nobody, lambda some: 1 - some), images)


def test_scale_and_shift_is_not_clamped() -> None:
    images = torch.full((2, 1, 3, 5), 0.5)
    changed = view_ops.scale_and_shift(images, torch.tensor([1.4, 0.6]), torch.tensor([0.5, -0.4]))
    torch.testing.assert_close(changed[:, 0, 0, 0], torch.tensor([1.2, -0.1]))


def test_cutout_sets_each_images_own_box_to_zero(images: torch.Tensor) -> None:
    boxes = torch.tensor([[0, 2, 3, 7], [5, 5, 1, 4], [11, 13, 9, 11]])
    holes = view_ops.cutout(images[:3].clone(), boxes)
    for image, (top, bottom, left, right), got in zip(images, boxes.tolist(), holes, strict=False):
        expected = image.clone()
        expected[:, top:bottom, left:right] = 0
        assert torch.equal(got, expected)


def test_sobel_is_a_plain_convolution_of_the_channel_mean() -> None:
    images = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    edges = view_ops.sobel(images)
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64)
    framed = torch.zeros(2, 7, 9, dtype=torch.float64)
    framed[:, 1:-1, 1:-1] = images.mean(1)
    for row in range(5):
        for column in range(7):
            patch = framed[:, row : row + 3, column : column + 3]
            torch.testing.assert_close(edges[:, 0, row, column], (patch * kernel).sum((1, 2)))
            torch.testing.assert_close(edges[:, 1, row, column], (patch * kernel.T).sum((1, 2)))
