"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in IDX files."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from data.fetch import Published, obtain
from data.sources.arrays import ArraySource, Facts, Part, parts_of
from data.sources.base import DataConfig, Source
from utils.errors import UserError

IMAGES, LABELS = 2051, 2049  # the first four bytes: unsigned bytes in three dimensions, in one
PREFIX = {"train": "train", "test": "t10k"}
MNIST = Published(
    "mnist",
    "MNIST/raw",
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
)
FASHION_MNIST = Published(
    "fashion_mnist",
    "FashionMNIST/raw",
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
)
CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip


def mnist(config: DataConfig) -> Source:
    """Handwritten digits, (1, 28, 28). Mean and deviation are those of ProPos and of most code."""
    return _open(MNIST, Facts("mnist", 10, (0.1307,), (0.3081,)), config)


def fashion_mnist(config: DataConfig) -> Source:
    """Articles of clothing, (1, 28, 28). Mean and deviation of the train images."""
    return _open(FASHION_MNIST, Facts("fashion_mnist", 10, (0.2860,), (0.3530,), CLOTHES), config)


def _open(published: Published, facts: Facts, config: DataConfig) -> Source:
    parts = parts_of(facts.name, config.split)
    files = {part: [f"{PREFIX[part]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")] for part in parts}
    found = obtain(published, sum(files.values(), []), config.root, config.download)
    read = {}
    for part, (images, labels) in files.items():
        pixels, classes = read_idx(found[images], IMAGES), read_idx(found[labels], LABELS)
        read[part] = Part(pixels[:, None], classes)
    return ArraySource(facts, config.split, read)


def read_idx(path: Path, magic: int) -> np.ndarray:
    """uint8 (n,) or (n, H, W) of an IDX file, packed or not: big-endian header of magic number and sizes, then bytes.

    Raises:
        UserError: the file is damaged or of another kind.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        n_dimensions = magic & 0xFF
        found, *shape = struct.unpack_from(f">{1 + n_dimensions}i", data)
    except (OSError, EOFError, zlib.error, struct.error) as failure:
        raise UserError(str(path), f"is damaged: {failure}", "remove it") from None
    start = 4 * (1 + n_dimensions)
    if found != magic or len(data) - start != np.prod(shape):
        raise UserError(str(path), f"is damaged, or no IDX file of kind {magic}", "remove it")
    return np.frombuffer(bytearray(data), np.uint8, offset=start).reshape(shape)
