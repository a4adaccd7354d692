"""64 made images of 4 kinds of texture, whose colour, brightness and contrast say nothing of the kind.

As a plugin (`run.plugins`) this file brings the data set `textures`; nothing of it lies on a disk.
"""

import numpy as np

from data.sources.arrays import ArraySource, Facts, Part
from data.sources.base import DataConfig

SIDE, PERIOD = 16, 4
FACTS = Facts("textures", 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def textures(config: DataConfig) -> ArraySource:
    """16 each of rows, columns, a fine chequerboard and none, at a random place, in random colours."""
    draws = np.random.default_rng(3)
    kinds = draws.permutation(np.arange(64) % 4)
    images = np.stack([_image(kind, draws) for kind in kinds])
    return ArraySource(FACTS, "train", {"train": Part(images, kinds)})


def _image(kind: int, draws: np.random.Generator) -> np.ndarray:
    """(3, SIDE, SIDE) uint8."""
    down, right = np.indices((SIDE, SIDE)) + draws.integers(8, size=(2, 1, 1))
    rows, columns = down % PERIOD < PERIOD // 2, right % PERIOD < PERIOD // 2
    high = [rows, columns, (down + right) % 2 == 0, rows & False][kind]
    brightness, contrast = draws.uniform(0.2, 0.8, 3), draws.uniform(0.15, 0.3)
    levels = (brightness + np.where(high, contrast, -contrast)[..., None]).transpose(2, 0, 1)
    noisy = levels + draws.normal(0, 0.03, levels.shape)
    return (255 * np.clip(noisy, 0, 1)).round().astype(np.uint8)


SOURCES = {"textures": textures}
