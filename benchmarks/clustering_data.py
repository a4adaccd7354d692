"""Data sets of the clustering benchmark: made from a seed, kept in a temporary folder as .npy."""

import getpass
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FOLDER = Path(tempfile.gettempdir()) / f"clustering-benchmark-{getpass.getuser()}"
BLOCK = 2000  # rows made at a time
VERSION = 1  # of the recipes, part of the file name: raise it when a recipe changes


def rows(name: str, n_rows: int, width: int) -> np.ndarray:
    """(n_rows, width) float32 of the data set `name`: "overlap", "digits" or "blobs"."""
    return np.load(file_of(name, n_rows, width))


def file_of(name: str, n_rows: int, width: int) -> Path:
    """The .npy file of a data set, made if it is not there."""
    path = FOLDER / f"{name}-{n_rows}x{width}-v{VERSION}.npy"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        made = np.concatenate([block.numpy() for block in blocks(name, n_rows, width)])
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        with partial.open("wb") as file:
            np.save(file, made)
        partial.replace(path)
    return path


def blocks(name: str, n_rows: int, width: int) -> list[Tensor]:
    """The data set in blocks of rows; each recipe draws its parameters first, then the rows."""
    draws = torch.Generator().manual_seed(0)
    make = {"overlap": overlap, "digits": digits, "blobs": blobs}[name](width, draws)
    with torch.no_grad():
        return [make(min(BLOCK, n_rows - start)) for start in range(0, n_rows, BLOCK)]


def overlap(width: int, draws: torch.Generator) -> Callable[[int], Tensor]:
    """10 classes of 5 sub-components, shared low-rank and isotropic noise, unit rows: Lloyd converges slowly."""
    n_classes, n_parts, rank = 10, 5, 16
    classes = torch.randn(n_classes, 1, width, generator=draws)
    parts = (classes + 0.7 * torch.randn(n_classes, n_parts, width, generator=draws)).flatten(0, 1)  # (50, D)
    factors = 0.45 * torch.randn(rank, width, generator=draws)

    def make(n: int) -> Tensor:
        part = torch.randint(len(parts), (n,), generator=draws)
        noise = torch.randn(n, rank, generator=draws) @ factors + torch.randn(n, width, generator=draws)
        return F.normalize(parts[part] + noise)

    return make


def blobs(width: int, draws: torch.Generator) -> Callable[[int], Tensor]:
    """10 centres uniform in [-10, 10], unit variance: trivial."""
    centers = 20 * torch.rand(10, width, generator=draws) - 10

    def make(n: int) -> Tensor:
        return centers[torch.randint(10, (n,), generator=draws)] + torch.randn(n, width, generator=draws)

    return make


def digits(width: int, draws: torch.Generator) -> Callable[[int], Tensor]:
    """Features of real digits: scikit-learn's at 32 x 32, moved, brightened and noisy, through a random network."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).float()[:, None] / 16  # (1797, 1, 8, 8)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    kernels = [_weights((fan_out, fan_in, 3, 3), draws) for fan_in, fan_out in ((1, 16), (16, 32), (32, 64))]
    projection = _weights((width, 64 * 4 * 4), draws)

    def make(n: int) -> Tensor:
        maps = distorted(images[torch.randint(len(images), (n,), generator=draws)], draws)
        for kernel in kernels:
            maps = F.relu(F.conv2d(maps, kernel, stride=2, padding=1))
        return F.relu(maps.flatten(1) @ projection.T)

    return make


def distorted(images: Tensor, draws: torch.Generator) -> Tensor:
    """Images (n, 1, 32, 32) after a random affine map, brightness and noise each."""
    uniform = 2 * torch.rand(5, len(images), generator=draws) - 1
    angle, scale, brightness = 0.2 * uniform[0], 1 + 0.1 * uniform[1], 1 + 0.3 * uniform[4]
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    first = torch.stack([cosine, -sine, 0.1 * uniform[2]], 1)
    second = torch.stack([sine, cosine, 0.1 * uniform[3]], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return moved * brightness[:, None, None, None] + 0.1 * torch.randn(images.shape, generator=draws)


def _weights(shape: tuple[int, ...], draws: torch.Generator) -> Tensor:
    """Random weights that keep the size of what passes through a ReLU (He et al. 2015)."""
    fan_in = int(np.prod(shape[1:]))
    return torch.randn(shape, generator=draws) * (2 / fan_in) ** 0.5
