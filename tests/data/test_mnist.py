"""MNIST's and Fashion-MNIST's IDX files."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from data.fetch import Published
from data.sources.base import DataConfig
from data.sources.mnist import FASHION_MNIST, MNIST
from data.store import open_source
from tests.official_files import idx_files, publish, random_images
from utils.errors import UserError

TRAIN, TEST = random_images(7, 28, 28), random_images(3, 28, 28)
TRAIN_LABELS, TEST_LABELS = np.array([0, 9, 1, 8, 2, 7, 3]), np.array([5, 4, 6])
FILES = {**idx_files(TRAIN, TRAIN_LABELS, "train"), **idx_files(TEST, TEST_LABELS, "t10k")}


@pytest.mark.parametrize(("name", "published"), [("mnist", MNIST), ("fashion_mnist", FASHION_MNIST)])
def test_grey_images_and_classes_in_file_order(
    name: str, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, published, tmp_path, FILES)
    source = open_source(DataConfig(name=name, root=tmp_path, download=False))
    assert (source.name, source.image_shape, source.protocol) == (name, (1, 28, 28), "train+test, 10 rows")
    assert torch.equal(source.read(), torch.from_numpy(np.concatenate([TRAIN, TEST]))[:, None])
    truth = source.read_truth()
    assert truth is not None
    assert truth.tolist() == [*TRAIN_LABELS, *TEST_LABELS]
    assert truth.dtype == torch.int64


def test_the_test_part_needs_the_test_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, MNIST, tmp_path, idx_files(TEST, TEST_LABELS, "t10k"))
    source = open_source(DataConfig(name="mnist", root=tmp_path, split="test", download=False))
    assert torch.equal(source.read(torch.tensor([2])), torch.from_numpy(TEST[2:])[:, None])
    with pytest.raises(
        UserError, match=r"\(train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz missing\); .*\(MD5 f68b3"
    ):
        open_source(DataConfig(name="mnist", root=tmp_path, download=False))


def unpack(root: Path, cut: int = 0) -> None:
    """The test files as gunzip leaves them, `cut` bytes short."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in idx_files(TEST, TEST_LABELS, "t10k").items():
        data = gzip.decompress(content)
        (folder / name.removesuffix(".gz")).write_bytes(data[: len(data) - cut])


def test_unpacked_files_will_do(tmp_path: Path) -> None:
    unpack(tmp_path)
    source = open_source(DataConfig(name="mnist", root=tmp_path, split="test", download=False))
    assert torch.equal(source.read(), torch.from_numpy(TEST)[:, None])


@pytest.mark.parametrize("cut", [1, 28 * 28 * 3, 28 * 28 * 3 + 14])
def test_an_unpacked_file_that_is_cut_short_is_the_users_error(tmp_path: Path, cut: int) -> None:
    unpack(tmp_path, cut)
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte: is damaged.*; remove it"):
        open_source(DataConfig(name="mnist", root=tmp_path, split="test", download=False))
