"""What the augmentation benchmark runs: images, the same recipe by each contender, fidelity, the share of a step."""

import importlib.metadata
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.clustering_measure import repeated
from data import view_crop, view_ops, view_params
from data.store import DataConfig, open_source
from data.view_params import NUMBERS
from data.views import Views, ViewsConfig
from models.parts.encoders import EncoderConfig, build_encoder
from utils.compat import installed, prepare_torchvision
from utils.draws import Draws, seeded

prepare_torchvision()
from torchvision import transforms  # noqa: E402
from torchvision.transforms import functional, v2  # noqa: E402

TURN = 4  # batches of ours in a turn, so that all turns take about as long
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SCALE, RATIO, JITTER, SIGMA = (0.08, 1.0), (3 / 4, 4 / 3), (0.4, 0.4, 0.4, 0.1), (0.1, 2.0)


def images(side: int, number: int, place: Path | None) -> Tensor:
    """(number, 3, side, side) uint8: 1/f noise, or pictures of CIFAR-10's root or a folder, resampled."""
    if place is None:
        return noise(side, number)
    if (place / "cifar-10-batches-py").is_dir():
        source = open_source(DataConfig(name="cifar10", root=place, download=False))
    else:
        source = open_source(DataConfig(name="folder", root=place, image_size=side))
    found = source.read(torch.arange(number) % source.n_rows)
    if found.shape[2] == side:
        return found
    pictures = [Image.fromarray(array).resize((side, side), Image.Resampling.BICUBIC) for array in as_arrays(found)]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def noise(side: int, number: int) -> Tensor:
    """(number, 3, side, side) uint8 with amplitudes that fall as 1/f, channels alike by two thirds."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = np.inf
    white = generator.standard_normal((number, 4, side, side))
    pink = np.fft.ifft2(np.fft.fft2(white) / frequency).real
    mixed = pink[:, :3] + 2 * pink[:, 3:]
    mixed = 120 + 50 * mixed / mixed.std((2, 3), keepdims=True)
    return torch.from_numpy(mixed.clip(0, 255).astype(np.uint8))


def as_arrays(batch: Tensor) -> list[np.ndarray]:
    """(H, W, 3) each."""
    return list(batch.permute(0, 2, 3, 1).contiguous().numpy())


def contenders(batch: Tensor, singly: int, blur: bool) -> dict[str, tuple[int, Callable[[], Any]]]:
    """By name: views a turn and what makes them."""
    pictures = [Image.fromarray(array) for array in as_arrays(batch[:singly])]
    tensors = list(batch[:singly])
    by_ours = ours(batch, blur)
    by_pil, by_tensor = pipeline(transforms, batch.shape[2], blur), pipeline(v2, batch.shape[2], blur)
    found: dict[str, tuple[int, Callable[[], Any]]] = {
        "ours": (2 * TURN * len(batch), partial(repeated, by_ours, TURN)),
        "torchvision, PIL": (singly, lambda: torch.stack([by_pil(picture) for picture in pictures])),
        "torchvision v2, tensors": (singly, lambda: torch.stack([by_tensor(tensor) for tensor in tensors])),
    }
    if installed("kornia"):
        found["kornia, batched"] = (len(batch), kornia(batch, blur))
    else:
        print("kornia: not installed")
    return found


def ours(batch: Tensor, blur: bool) -> Callable[[], list[Tensor]]:
    """Two views of the batch, other ones at each call."""
    views = Views(ViewsConfig(blur=0.5 if blur else 0.0), tuple(batch.shape[1:]), MEAN, STD)
    step = iter(range(10**9))
    return lambda: views(batch, Draws(0, next(step), 0, len(batch), len(batch)))


def pipeline(library: Any, side: int, blur: bool) -> Callable[[Any], Tensor]:
    """The usual transform of one image, by torchvision's first or second set of transforms."""
    steps = [
        library.RandomResizedCrop(side, scale=SCALE, ratio=RATIO, antialias=True),
        library.RandomHorizontalFlip(),
        library.RandomApply([library.ColorJitter(*JITTER)], p=0.8),
        library.RandomGrayscale(0.2),
    ]
    if blur:
        size = view_ops.blur_kernel_size(side)
        steps.append(library.RandomApply([library.GaussianBlur(size, SIGMA)], p=0.5))
    steps.append(library.ToTensor() if library is transforms else library.ToDtype(torch.float32, scale=True))
    return library.Compose([*steps, library.Normalize(MEAN, STD)])


def kornia(batch: Tensor, blur: bool) -> Callable[[], Tensor]:
    """kornia's batched augmentations with parameters of their own for each image."""
    from kornia import augmentation

    side, size = batch.shape[2], view_ops.blur_kernel_size(batch.shape[2])
    steps = [
        augmentation.RandomResizedCrop((side, side), scale=SCALE, ratio=RATIO),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(*JITTER, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
    ]
    if blur:
        steps.append(augmentation.RandomGaussianBlur((size, size), SIGMA, p=0.5))
    steps.append(augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    together = augmentation.AugmentationSequential(*steps, same_on_batch=False)
    return lambda: together(batch / 255)


def fidelity(batch: Tensor) -> dict[str, float]:
    """How far crop and resize, and the colours, are from PIL's with the same parameters."""
    drawn = torch.rand((len(batch), sum(NUMBERS.values())), generator=seeded(0, "fidelity"), dtype=torch.float64)
    numbers = dict(zip(NUMBERS, drawn.split(list(NUMBERS.values()), 1), strict=True))
    side = batch.shape[2]
    boxes = view_params.crop_boxes(numbers, side, side, scale=SCALE, ratio=RATIO)
    flipped = torch.zeros(len(batch), dtype=torch.bool)
    cropped = view_crop.crop_resize(batch, boxes, flipped, (side, side))
    pictures = [Image.fromarray(array) for array in as_arrays(batch)]
    by_pil = [
        functional.to_tensor(functional.resized_crop(picture, *box, [side, side]))
        for picture, box in zip(pictures, boxes.long().tolist(), strict=True)
    ]
    distance = (cropped / 255 - torch.stack(by_pil)).abs()
    factors, order = view_params.jitter_factors(numbers["factors"], JITTER), numbers["order"].argsort(1)
    always, never = ~flipped, flipped
    colored = view_ops.jitter(batch / 255, always, factors, order)
    mixing = view_params.color_mixing(always, factors, never, (0,) * 3, (1,) * 3).float()
    mixed = view_ops.mix_channels(batch / 255, mixing, (0,) * 3, (1,) * 3)
    expected = torch.stack([
        functional.to_tensor(jittered(picture, *both))
        for picture, *both in zip(pictures, factors.tolist(), order.tolist(), strict=True)
    ])  # fmt: skip
    return {
        "crop_resize_levels": 255 * distance.max().item(),
        "crop_resize_mean": distance.mean().item(),
        "hsv_mean": (colored - expected).abs().mean().item(),
        "yiq_mean": (mixed - expected).abs().mean().item(),
    }


def jittered(picture: Image.Image, factors: list[float], order: list[int]) -> Image.Image:
    """A picture through PIL's four colour operations."""
    names = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
    for step in order:
        picture = getattr(functional, names[step])(picture, factors[step])
    return picture


def share_of_step(repeats: int) -> float:
    """The part that two views of 128 images take of a step: they, and the small net's passes of BYOL and ProPos."""
    batch = noise(32, 128)
    net = build_encoder(EncoderConfig(name="small"), (3, 32, 32))[0].to(memory_format=torch.channels_last)
    make, seconds = ours(batch, blur=False), {"views": [0.0], "passes": [0.0]}
    for turn in range(-1, repeats):
        start = time.process_time()
        both = torch.cat(make())
        between = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                net(both)
            net(both).square().mean().backward()
        if turn >= 0:
            seconds["views"].append(between - start)
            seconds["passes"].append(time.process_time() - between)
    views, passes = (statistics.median(values[1:]) for values in seconds.values())
    return views / (views + passes)


def versions() -> dict[str, str]:
    """Installed versions of what is compared."""
    names = ("torch", "torchvision", "pillow", "numpy", "kornia")
    return {name: importlib.metadata.version(name) for name in names if installed({"pillow": "PIL"}.get(name, name))}
