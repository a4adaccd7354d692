"""Decoded once into a file or into memory, or decoded each time: the same pixels."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from data import decode_all
from data.decode import decode_crops
from data.pixels import Pixels, open_pixels
from data.sources.base import Cut
from tests.listings import SIZE, config_for, expected, listing_of, make_images, opened
from utils.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images and, between them, an empty file and one that is no image."""
    return make_images(tmp_path / "images")


@pytest.mark.parametrize("rule", ["crop", "squash"])
@pytest.mark.parametrize("store", ["memory", "cache", "stream", "auto"])
def test_all_ways_give_the_same_squares_in_the_order_of_the_listing(images: Path, store: str, rule: str) -> None:
    pixels, rows = opened(images, store, resize=rule), torch.tensor([4, 0, 0, 2])
    assert torch.equal(pixels.read(), expected(images, rule))
    assert torch.equal(pixels.read(rows), expected(images, rule)[rows])
    assert pixels.read(rows[:0]).shape == (0, 3, SIZE, SIZE)
    assert pixels.kept.tolist() == [0, 1, 3, 4, 6]
    assert [name for name, _ in pixels.skipped] == ["1a.jpg", "3a.png"]
    assert "empty" in pixels.skipped[0][1]
    assert pixels.streams == (store == "stream")


def test_rows_keep_their_order_however_the_threads_share_the_work(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_all, "AT_ONCE", 1)
    assert torch.equal(opened(images, "memory").read(), expected(images))


def test_crops_of_a_stream_are_cut_from_the_originals_of_their_rows(images: Path) -> None:
    pixels, rows = opened(images, "stream"), torch.tensor([3, 1])
    assert pixels.sizes[rows].tolist() == [[47, 46], [51, 40]]
    boxes = torch.tensor([[3, 5, 29, 31], [0, 0, 51, 40]])
    cuts = [Cut(boxes, torch.tensor([False, True]), 7), Cut(boxes.flip(1) % 13 + 2, torch.tensor([True, True]), 13)]
    crops = pixels.crops(rows, cuts)
    assert [crop.shape for crop in crops] == [(2, 3, 7, 7), (2, 3, 13, 13)]
    for place, name in enumerate(("3.jpg", "1.jpg")):
        wanted = [((*cut.boxes[place].tolist(),), bool(cut.flipped[place]), cut.side) for cut in cuts]
        for crop, square in zip(crops, decode_crops((images / name).read_bytes(), wanted), strict=True):
            assert torch.equal(crop[place], torch.from_numpy(square).permute(2, 0, 1))


def test_decoded_squares_are_not_cut_from_originals(images: Path) -> None:
    with pytest.raises(TypeError, match="only streamed"):
        opened(images).crops(torch.tensor([0]), [])


def test_memory_writes_no_file(images: Path) -> None:
    opened(images, "memory")
    assert os.listdir(images.parent) == ["images"]


def without_folder(images: Path, store: str, **words: Any) -> Pixels:
    """The cache folder would lie in a file."""
    (images.parent / "file").write_text("")
    return open_pixels(listing_of(images), config_for(images.parent / "file" / "cache", store, **words), SIZE)


def test_a_cache_folder_of_no_use_is_told_with_the_remedy(images: Path) -> None:
    with pytest.raises(
        UserError, match=r"data.cache: '.*cache' cannot be written \(Not a directory\); .*data.store=stream"
    ):
        without_folder(images, "cache")


@pytest.mark.parametrize(("memory_gib", "streams"), [(4.0, False), (1e-6, True)])
def test_auto_goes_on_without_a_cache_folder_and_says_so(
    images: Path, memory_gib: float, streams: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = without_folder(images, "auto", memory_gib=memory_gib)
    assert pixels.streams == streams
    assert torch.equal(pixels.read(), expected(images))
    assert "Not a directory" in capsys.readouterr().err


def test_auto_streams_what_would_be_too_large_a_cache(images: Path) -> None:
    n_bytes = 7 * 3 * SIZE * SIZE
    assert opened(images, "auto", cache_gib=(n_bytes - 1) / 2**30).streams
    assert not opened(images, "auto", cache_gib=n_bytes / 2**30).streams


def test_too_little_memory_is_the_users_error(images: Path) -> None:
    with pytest.raises(UserError, match=r"data.store: there are no 1955777.4 GiB of memory; data.store=cache"):
        open_pixels(listing_of(images), config_for(images.parent, "memory"), 10**7)


@pytest.mark.parametrize("store", ["memory", "cache", "stream"])
def test_no_readable_image_is_the_users_error_and_leaves_nothing(tmp_path: Path, store: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"images: none of its 1 image files can be read \(a.jpg: .*empty"):
        opened(images, store)
    assert not (tmp_path / "cache").exists() or all(name.endswith(".lock") for name in os.listdir(tmp_path / "cache"))


def test_an_image_that_vanishes_from_a_stream_is_the_users_error(images: Path) -> None:
    pixels = opened(images, "stream")
    (images / "2.png").unlink()
    with pytest.raises(UserError, match=r"images: 2.png: cannot be read: No such file.*; .*start again"):
        pixels.read(torch.tensor([0, 2]))


def test_several_threads_may_read_at_once(images: Path) -> None:
    for store in ("cache", "stream"):
        pixels, wanted = opened(images, store), expected(images)
        with ThreadPoolExecutor(3) as pool:
            blocks = list(pool.map(lambda row, read=pixels.read: read(torch.tensor([row, 0])), [1, 2, 3, 4] * 5))
        assert all(torch.equal(block, wanted[[row, 0]]) for block, row in zip(blocks, [1, 2, 3, 4] * 5, strict=True))
