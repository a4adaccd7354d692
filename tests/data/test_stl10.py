"""STL-10's binary files: column-major pixels, unlabelled images that are never scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.sources.base import DataConfig, Source
from data.sources.stl10 import STL10
from data.store import open_source
from tests.official_files import publish, random_images
from utils.errors import UserError

PARTS = {"train": random_images(5, 3, 96, 96), "test": random_images(3, 3, 96, 96)}
PARTS["unlabelled"] = random_images(7, 3, 96, 96)
TRAIN_LABELS, TEST_LABELS = [1, 10, 2, 5, 7], [10, 3, 1]


def by_columns(images: np.ndarray) -> bytes:
    """Pixel (row, column) of a channel lies at column * 96 + row."""
    return b"".join(bytes(channel[:, column]) for image in images for channel in image for column in range(96))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "train_X.bin": by_columns(PARTS["train"]),
        "train_y.bin": bytes(TRAIN_LABELS),
        "test_X.bin": by_columns(PARTS["test"]),
        "test_y.bin": bytes(TEST_LABELS),
        "unlabeled_X.bin": by_columns(PARTS["unlabelled"]),
    }
    publish(monkeypatch, STL10, tmp_path, files)
    return tmp_path


def pixels(*parts: str) -> Tensor:
    return torch.from_numpy(np.concatenate([PARTS[part] for part in parts]))


def truth_of(source: Source) -> list[int]:
    truth = source.read_truth()
    assert truth is not None
    return truth.tolist()


@pytest.mark.parametrize(
    ("split", "n_rows", "n_extra", "protocol"),
    [
        ("train+test", 8, 0, "train+test, 8 rows"),
        ("train", 5, 0, "train, 5 rows"),
        ("test", 3, 0, "test, 3 rows"),
        ("train+unlabelled", 5, 7, "train, 5 rows, and 7 unlabelled to train on"),
        ("train+test+unlabelled", 8, 7, "train+test, 8 rows, and 7 unlabelled to train on"),
        ("unlabelled", 7, 0, "unlabelled, 7 rows"),
    ],
)
def test_each_split_has_its_rows_and_its_extra_rows(
    root: Path, split: Any, n_rows: int, n_extra: int, protocol: str
) -> None:
    source = open_source(DataConfig(name="stl10", root=root, split=split, download=False))
    assert (source.n_rows, source.n_extra, source.protocol) == (n_rows, n_extra, protocol)
    everything = pixels(*split.split("+"))
    assert torch.equal(source.read(), everything)
    rows = torch.arange(len(everything)).flip(0)[::2]
    assert torch.equal(source.read(rows), everything[rows])
    assert source.image_shape == (3, 96, 96)


def test_classes_count_from_zero_and_extra_rows_have_none(root: Path) -> None:
    source = open_source(DataConfig(name="stl10", root=root, split="train+test+unlabelled"))
    assert truth_of(source) == [0, 9, 1, 4, 6, 9, 2, 0]
    assert [source.path(row) for row in (4, 5, 8, 14)] == [
        "train/00004",
        "test/00000",
        "unlabelled/00000",
        "unlabelled/00006",
    ]


def test_the_knn_split_is_of_labelled_rows_alone(root: Path) -> None:
    split = open_source(DataConfig(name="stl10", root=root, split="train+test+unlabelled")).knn_split()
    assert split is not None
    assert (split[0].tolist(), split[1].tolist()) == ([0, 1, 2, 3, 4], [5, 6, 7])
    assert open_source(DataConfig(name="stl10", root=root, split="train+unlabelled")).knn_split() is None


def test_unlabelled_rows_alone_have_no_truth(root: Path) -> None:
    source = open_source(DataConfig(name="stl10", root=root, split="unlabelled"))
    assert source.read_truth() is None
    assert source.read_truth(torch.tensor([1])) is None
    assert (source.n_classes, source.knn_split()) == (None, None)


def test_the_labelled_splits_do_without_the_large_file(root: Path) -> None:
    (root / "stl10_binary" / "unlabeled_X.bin").unlink()
    assert open_source(DataConfig(name="stl10", root=root, download=False)).n_rows == 8
    with pytest.raises(
        UserError, match=r"no intact stl10 .*\(unlabeled_X.bin missing\).*stl10_binary.tar.gz \(MD5 91f77"
    ):
        open_source(DataConfig(name="stl10", root=root, split="train+unlabelled", download=False))


def test_a_file_that_is_no_whole_number_of_images_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, STL10, root, {"test_X.bin": by_columns(PARTS["test"])[:-1]})
    with pytest.raises(UserError, match=r"test_X.bin: is damaged: not a whole number of images"):
        open_source(DataConfig(name="stl10", root=root))
