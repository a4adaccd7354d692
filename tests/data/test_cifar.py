"""CIFAR's pickles: rows, order, classes, and that none is opened unchecked."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.sources.base import DataConfig, Source
from data.sources.cifar import CIFAR10, CIFAR100, FINE_TO_COARSE
from data.store import open_source
from tests.official_files import publish, random_images
from utils.errors import UserError

TRAIN, TEST = 7, 3
BATCHES = {**{f"data_batch_{number}": TRAIN + number for number in range(1, 6)}, "test_batch": TEST}


def content(size: int) -> dict[str, Any]:
    return {"data": random_images(size, 3072), "labels": [(3 * i + size) % 10 for i in range(size)]}


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    publish(monkeypatch, CIFAR10, tmp_path, {name: pickle.dumps(content(size)) for name, size in BATCHES.items()})
    return tmp_path


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def dump(size: int) -> bytes:
        fine = [(37 * i + size) % 100 for i in range(size)]
        coarse = [int(FINE_TO_COARSE[label]) for label in fine]
        return pickle.dumps({"data": random_images(size, 3072), "fine_labels": fine, "coarse_labels": coarse})

    publish(monkeypatch, CIFAR100, tmp_path, {"train": dump(11), "test": dump(TEST)})
    return tmp_path


def truth_of(source: Source) -> list[int]:
    truth = source.read_truth()
    assert truth is not None
    return truth.tolist()


def test_rows_of_cifar10_are_train_then_test_in_file_order(cifar10: Path) -> None:
    source = open_source(DataConfig(name="cifar10", root=cifar10))
    batches = [content(size) for size in BATCHES.values()]
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    assert torch.equal(source.read(), torch.from_numpy(pixels))
    rows = torch.tensor([49, 52, 0, 17])
    assert torch.equal(source.read(rows), torch.from_numpy(pixels)[rows])
    assert truth_of(source) == sum((batch["labels"] for batch in batches), [])
    assert [source.path(row) for row in (0, 49, 50, 52)] == ["train/00000", "train/00049", "test/00000", "test/00002"]
    assert (source.protocol, source.n_classes, source.n_extra) == ("train+test, 53 rows", 10, 0)


@pytest.mark.parametrize(("split", "n_rows"), [("train", 50), ("test", 3)])
def test_one_part_has_no_knn_split(cifar10: Path, split: Any, n_rows: int) -> None:
    source = open_source(DataConfig(name="cifar10", root=cifar10, split=split))
    assert (source.n_rows, source.path(2), source.protocol) == (n_rows, f"{split}/00002", f"{split}, {n_rows} rows")
    assert source.knn_split() is None


def test_the_knn_bank_is_train_and_its_queries_are_test(cifar10: Path) -> None:
    split = open_source(DataConfig(name="cifar10", root=cifar10)).knn_split()
    assert split is not None
    assert (split[0].tolist(), split[1].tolist()) == (list(range(50)), [50, 51, 52])


def test_data_root_may_be_the_folder_of_the_files_itself(cifar10: Path) -> None:
    inside = DataConfig(name="cifar10", root=cifar10 / "cifar-10-batches-py", split="test", download=False)
    assert open_source(inside).n_rows == TEST


class Harmful:
    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_pickle_with_a_wrong_checksum_is_never_opened(cifar10: Path) -> None:
    (cifar10 / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(
        UserError, match=r"no intact cifar10 under .* \(data_batch_3: MD5 differs\); data.download=true"
    ):
        open_source(DataConfig(name="cifar10", root=cifar10, download=False))


def test_cifar100_has_the_fine_classes_and_cifar20_the_coarse_ones(cifar100: Path) -> None:
    fine, coarse = (open_source(DataConfig(name=name, root=cifar100)) for name in ("cifar100", "cifar20"))
    assert torch.equal(fine.read(), coarse.read())
    assert fine.read().shape == (14, 3, 32, 32)
    assert truth_of(fine) == [(37 * i + 11) % 100 for i in range(11)] + [(37 * i + 3) % 100 for i in range(3)]
    assert truth_of(coarse) == FINE_TO_COARSE[truth_of(fine)].tolist()
    assert (fine.n_classes, coarse.n_classes, coarse.name) == (100, 20, "cifar20")


def test_each_coarse_class_has_five_fine_ones() -> None:
    assert np.bincount(FINE_TO_COARSE).tolist() == [5] * 20


def test_known_classes_of_cifar100_lie_where_they_belong() -> None:
    fine = {"apple": 0, "aquarium_fish": 1, "baby": 2, "bicycle": 8, "maple_tree": 47, "shark": 73, "whale": 95}
    coarse = {"apple": 4, "aquarium_fish": 1, "baby": 14, "bicycle": 18, "maple_tree": 17, "shark": 1, "whale": 0}
    assert {name: int(FINE_TO_COARSE[label]) for name, label in fine.items()} == coarse


def test_other_coarse_classes_than_the_published_ones_are_an_error(
    cifar100: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"data": random_images(2, 3072), "fine_labels": [0, 1], "coarse_labels": [4, 2]}
    publish(monkeypatch, CIFAR100, cifar100, {"test": pickle.dumps(wrong)})
    with pytest.raises(UserError, match="its coarse classes are not those that publications use"):
        open_source(DataConfig(name="cifar20", root=cifar100))
