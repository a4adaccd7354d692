"""SVHN, the cropped house numbers: 73,257 + 26,032 photographs of 32 x 32 pixels in MATLAB files."""

import numpy as np

from data.fetch import Published, obtain
from data.sources.arrays import ArraySource, Facts, Part, parts_of
from data.sources.base import DataConfig, Source

SVHN = Published(
    "svhn",
    ".",
    {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    },
    ("http://ufldl.stanford.edu/housenumbers/",),
)


def svhn(config: DataConfig) -> Source:
    """Digits in photographs, (3, 32, 32); class = digit. Mean and deviation are those of AND."""
    from scipy.io import loadmat

    parts = {part: f"{part}_32x32.mat" for part in parts_of("svhn", config.split)}
    found = obtain(SVHN, list(parts.values()), config.root, config.download)
    read = {}
    for part, name in parts.items():
        content = loadmat(found[name])
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))  # (H, W, C, n) there
        read[part] = Part(images, content["y"].ravel() % 10)  # the digit 0 is class 10 there
    facts = Facts("svhn", 10, (0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052))
    return ArraySource(facts, config.split, read)
