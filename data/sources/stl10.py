"""STL-10: 5,000 + 8,000 labelled photographs of 96 x 96 pixels and 100,000 unlabelled ones, memory-mapped."""

from pathlib import Path

import numpy as np

from data.fetch import Published, obtain
from data.sources.arrays import LABELLED_SPLITS, UNLABELLED, ArraySource, Facts, Part, parts_of
from data.sources.base import DataConfig, Source
from utils.errors import UserError

STL10 = Published(
    "stl10",
    "stl10_binary",
    {
        "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "5a34089d4802c674881badbb80307741",
        "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
        "unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4",
    },
    ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
    ("stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),
)
SPLITS = (*LABELLED_SPLITS, UNLABELLED, f"train+{UNLABELLED}", f"train+test+{UNLABELLED}")
FILES = {"train": ["train_X.bin", "train_y.bin"], "test": ["test_X.bin", "test_y.bin"], UNLABELLED: ["unlabeled_X.bin"]}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what all published code takes
SHAPE = (3, 96, 96)
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def stl10(config: DataConfig) -> Source:
    """Ten classes, (3, 96, 96); the unlabelled images show others, too, and have no class."""
    parts = {part: FILES[part] for part in parts_of("stl10", config.split, SPLITS)}
    found = obtain(STL10, sum(parts.values(), []), config.root, config.download)
    read = {}
    for part, (images, *labels) in parts.items():
        classes = np.fromfile(found[labels[0]], np.uint8) - 1 if labels else None  # 1 to 10 there
        read[part] = Part(_map_images(found[images]), classes)
    return ArraySource(Facts("stl10", 10, IMAGENET_MEAN, IMAGENET_STD, CLASSES), config.split, read)


def _map_images(path: Path) -> np.ndarray:
    """(n, 3, 96, 96) uint8, read from the disk as rows are asked for; each channel lies there column by column."""
    if path.stat().st_size % np.prod(SHAPE):
        raise UserError(str(path), "is damaged: not a whole number of images", "remove it")
    return np.memmap(path, np.uint8, "r").reshape(-1, *SHAPE).transpose(0, 1, 3, 2)
