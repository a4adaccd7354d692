"""Data sets with names: rows, order, splits, and what is said when they are missing."""

import gzip
import pickle
import struct
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.sources import SOURCES
from data.store import DataConfig, Store, open_source
from tests.ranks import run_ranks
from utils import compat
from utils.errors import UserError

TRAIN, TEST = 7, 3


@pytest.fixture
def tiny_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five batches of 7 and one of 3 random images in CIFAR-10's files, their checksums known to torchvision."""
    compat.prepare_torchvision()
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        text = pickle.dumps(content)
        (folder / name).write_bytes(text)
        return md5(text).hexdigest()

    def batch(size: int) -> dict[str, Any]:
        images = random.integers(0, 256, (size, 3072), dtype=np.uint8)
        return {"data": images, "labels": random.integers(0, 10, size).tolist()}

    monkeypatch.setattr(
        CIFAR10, "train_list", [(f"data_batch_{i}", write(f"data_batch_{i}", batch(TRAIN))) for i in range(1, 6)]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [("test_batch", write("test_batch", batch(TEST)))])
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": write("batches.meta", {"label_names": list("abcdefghij")}),
    }
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path


def read_batch(root: Path, name: str) -> dict[str, Any]:
    return pickle.loads((root / "cifar-10-batches-py" / name).read_bytes())


def test_cifar10_rows_are_train_then_test_in_file_order(tiny_cifar10: Path) -> None:
    source = open_source(DataConfig(name="cifar10", root=tiny_cifar10))
    first, last = read_batch(tiny_cifar10, "data_batch_1"), read_batch(tiny_cifar10, "test_batch")
    rows = torch.tensor([0, 6, 35, 37])
    expected = [first["data"][0], first["data"][6], last["data"][0], last["data"][2]]
    assert torch.equal(source.read(rows), torch.tensor(np.stack(expected)).view(4, 3, 32, 32))
    truth = source.read_truth(rows)
    assert truth is not None
    assert truth.tolist() == [first["labels"][0], first["labels"][6], last["labels"][0], last["labels"][2]]
    assert [source.path(row) for row in (0, 34, 35, 37)] == ["train/00000", "train/00034", "test/00000", "test/00002"]
    assert source.protocol == "train+test, 38 rows"


@pytest.mark.parametrize(("split", "n_rows"), [("train", 35), ("test", 3)])
def test_one_part_of_cifar10_has_no_knn_split(tiny_cifar10: Path, split: Any, n_rows: int) -> None:
    source = open_source(DataConfig(name="cifar10", root=tiny_cifar10, split=split))
    assert (source.n_rows, source.path(2)) == (n_rows, f"{split}/00002")
    assert source.knn_split() is None


def test_knn_bank_is_train_and_queries_are_test(tiny_cifar10: Path) -> None:
    split = open_source(DataConfig(name="cifar10", root=tiny_cifar10)).knn_split()
    assert split is not None
    assert (split[0].tolist(), split[1].tolist()) == (list(range(35)), [35, 36, 37])


def test_a_damaged_file_is_the_users_error_and_not_a_row(tiny_cifar10: Path) -> None:
    with (tiny_cifar10 / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"data.root: no intact cifar10 under .*data.download=true"):
        open_source(DataConfig(name="cifar10", root=tiny_cifar10, download=False))


def test_a_failing_download_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compat.prepare_torchvision()
    from torchvision.datasets import CIFAR10

    def no_network(_: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(UserError, match=r"the download failed \(no route to host\)"):
        open_source(DataConfig(name="cifar10", root=tmp_path))


def open_missing(rank: int, world: int, root: str) -> str:
    try:
        open_source(DataConfig(name="cifar10", root=Path(root), download=False))
    except UserError as error:
        return error.place
    return "opened"


def test_all_ranks_meet_the_same_error(tmp_path: Path) -> None:
    assert run_ranks(2, open_missing, str(tmp_path)) == ["data.root", "data.root"]


def test_fashion_mnist_reads_grey_images_from_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for part, size in (("train", 5), ("t10k", 2)):
        pixels = struct.pack(">iiii", 2051, size, 28, 28) + images[:size].tobytes()
        classes = struct.pack(">ii", 2049, size) + bytes(range(size))
        for kind, content in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", classes)):
            (folder / f"{part}-{kind}").write_bytes(content)
            (folder / f"{part}-{kind}.gz").write_bytes(gzip.compress(content))
    source = open_source(DataConfig(name="fashion_mnist", root=tmp_path))
    assert source.image_shape == (1, 28, 28)
    assert torch.equal(source.read(), torch.from_numpy(np.concatenate([images, images[:2]]))[:, None])
    truth = source.read_truth()
    assert truth is not None
    assert truth.tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_digits_are_sixteenths_as_near_as_bytes_allow() -> None:
    from sklearn.datasets import load_digits

    source = open_source(DataConfig(name="digits"))
    images = source.read()
    expected = torch.from_numpy(load_digits().images)[:, None] / 16
    assert images.shape == (1797, 1, 8, 8)
    assert (images.double() / 255 - expected).abs().max() < 0.5 / 255
    assert (images.double() / 255).mean().item() == pytest.approx(source.mean[0], abs=1e-4)
    assert (images.double() / 255).std().item() == pytest.approx(source.std[0], abs=2e-4)


def test_every_fifth_digit_is_a_query() -> None:
    source = open_source(DataConfig(name="digits"))
    split = source.knn_split()
    assert split is not None
    assert torch.equal(split[1], torch.arange(0, 1797, 5))
    assert torch.equal(torch.cat(split).sort().values, torch.arange(1797))


def test_the_parts_of_digits_are_its_bank_and_its_queries() -> None:
    whole, part = open_source(DataConfig(name="digits")), open_source(DataConfig(name="digits", split="test"))
    assert (part.n_rows, part.path(1), part.knn_split()) == (360, "digits/0005", None)
    assert torch.equal(part.read(), whole.read(torch.arange(0, 1797, 5)))


def test_digits_know_their_classes() -> None:
    truth = open_source(DataConfig(name="digits")).read_truth()
    assert truth is not None
    assert truth.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data.name: 'cifar' is unknown \(did you mean cifar10\?\)"):
        open_source(DataConfig(name="cifar"))


def test_every_source_is_named_in_the_documentation_of_its_key() -> None:
    assert all(name in str(DataConfig.model_fields["name"].description) for name in SOURCES)


def test_store_gives_the_rows_asked_for_in_their_order() -> None:
    source = open_source(DataConfig(name="digits"))
    store, rows = Store(source, torch.device("cpu")), torch.tensor([1796, 3, 3, 0])
    assert len(store) == 1797
    assert torch.equal(store.images(rows), source.read(rows))


def test_shards_are_contiguous_and_cover_all_rows_once() -> None:
    store = Store(open_source(DataConfig(name="digits")), torch.device("cpu"))
    shards = [store.shard(rank, 4) for rank in range(4)]
    assert torch.equal(torch.cat(shards), torch.arange(1797))
    assert [len(shard) for shard in shards] == [449, 449, 449, 450]
