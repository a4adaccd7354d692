"""Rows on the device: from a block that lies there, or fetched from the source; the same pixels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data import store as store_module
from data.sources import SOURCES
from data.sources.base import Cut, DataConfig, Source
from data.sources.encoded import EncodedImages
from data.store import Store
from tests.listings import fill, listing_of

CPU = torch.device("cpu")


class Recorded(Source):
    """41 made images of (2, 5, 7), which tell what was read of them; the last 4 only train."""

    name, protocol, n_classes, n_rows, n_extra, image_shape = "made", "made", None, 37, 4, (2, 5, 7)
    mean, std = (0.0, 0.0), (1.0, 1.0)

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.block = torch.randint(0, 256, (41, 2, 5, 7), dtype=torch.uint8, generator=random)
        self.asked: list[list[int] | None] = []

    def read(self, rows: Tensor | None = None) -> Tensor:
        self.asked.append(None if rows is None else rows.tolist())
        return self.block if rows is None else self.block[rows]

    def path(self, row: int) -> str:
        return str(row)

    def read_truth(self, rows: Tensor | None = None) -> None:
        return None

    def knn_split(self) -> None:
        return None


def test_a_small_set_lies_on_the_device_and_is_read_once() -> None:
    source, rows = Recorded(), torch.tensor([40, 3, 3, 0])
    store = Store(source, CPU, DataConfig())
    assert store.resident
    assert torch.equal(store.images(rows), source.block[rows])
    assert source.asked == [None]


def test_a_set_above_the_limit_is_read_by_rows() -> None:
    source, rows = Recorded(), torch.tensor([40, 3, 3, 0])
    n_bytes = 41 * 70
    store = Store(source, CPU, DataConfig(memory_gib=(n_bytes - 1) / 2**30))
    assert not store.resident
    assert torch.equal(store.images(rows), source.block[rows])
    assert source.asked == [rows.tolist()]
    assert Store(source, CPU, DataConfig(memory_gib=n_bytes / 2**30)).resident


def test_a_device_with_little_room_holds_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_room", lambda device: 41 * 70 - 1)
    assert not Store(Recorded(), CPU, DataConfig()).resident


def test_rows_that_only_train_count_for_the_store_and_not_for_its_shards() -> None:
    store = Store(Recorded(), CPU, DataConfig())
    assert (len(store), store.n_rows) == (41, 37)
    shards = [store.shard(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(shards), torch.arange(37))
    assert [len(shard) for shard in shards] == [12, 12, 13]


def encoded(folder: Path, way: str, **words: Any) -> EncodedImages:
    config = DataConfig.model_validate({"name": "folder", "cache": folder.parent / "cache", "store": way, **words})
    return EncodedImages("folder", listing_of(folder), config, default_size=11)


def test_every_way_to_keep_images_gives_equal_rows(tmp_path: Path) -> None:
    fill(tmp_path / "images")
    rows = torch.tensor([3, 1, 1, 4])
    sources = {way: encoded(tmp_path / "images", way) for way in ("memory", "cache", "stream")}
    stores = [Store(source, CPU, DataConfig(memory_gib=gib)) for source in sources.values() for gib in (4.0, 0.0)]
    assert [store.resident for store in stores] == [True, False, True, False, False, False]
    assert [store.streams for store in stores] == [False, False, False, False, True, True]
    assert all(torch.equal(store.images(rows), stores[0].images(rows)) for store in stores[1:])


def test_a_streams_sizes_and_crops_pass_through(tmp_path: Path) -> None:
    fill(tmp_path / "images")
    source = encoded(tmp_path / "images", "stream")
    store, rows = Store(source, CPU, DataConfig()), torch.tensor([2, 0])
    assert store.sizes(rows).tolist() == [[49, 43], [53, 37]]
    cuts = [Cut(torch.tensor([[2, 3, 17, 19], [5, 7, 23, 11]]), torch.tensor([True, False]), side) for side in (7, 13)]
    for crop, direct in zip(store.crops(rows, cuts), source.crops(rows, cuts), strict=True):
        assert torch.equal(crop, direct)
    with pytest.raises(TypeError, match="folder is not streamed"):
        Store(encoded(tmp_path / "images", "memory"), CPU, DataConfig()).sizes(rows)


def test_every_source_has_its_name_in_the_table() -> None:
    assert {"digits", "cifar10", "stl10", "imagenet", "folder", "list", "shards"} <= SOURCES.keys()


@pytest.mark.gpu
@pytest.mark.parametrize("memory_gib", [4.0, 0.0])
def test_on_a_gpu_rows_arrive_whole_and_in_order(memory_gib: float) -> None:
    source, device = Recorded(), torch.device("cuda")
    store = Store(source, device, DataConfig(memory_gib=memory_gib))
    assert store.resident == (memory_gib > 0)
    for start in range(0, 34, 3):
        rows = torch.arange(start + 7, start, -1)
        for asked in (rows, rows.to(device)):
            images = store.images(asked)
            assert images.device.type == "cuda"
            assert torch.equal(images.cpu(), source.block[rows])
