"""A cache is whole and right, or it is not there."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data import decode_all, pixel_cache
from data.pixels import open_pixels
from tests.listings import SIZE, config_for, expected, files, listing_of, make_images, opened, picture
from tests.ranks import context, run_ranks
from utils.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images and, between them, an empty file and one that is no image."""
    return make_images(tmp_path / "images")


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_the_second_opening_reads_nothing(images: Path, store: str) -> None:
    opened(images, store)
    record = images.parent / "record"
    again = opened(images, store, record)
    assert not record.exists()
    assert [name for name, _ in again.skipped] == ["1a.jpg", "3a.png"]
    assert torch.equal(again.read(), expected(images))


def test_the_name_of_a_cache_says_set_size_and_rule(images: Path) -> None:
    opened(images)
    opened(images, resize="squash")
    opened(images, "stream")
    assert [name.rsplit("-", 2)[0] for name in files(images.parent / "cache", ".npy")] == [
        "folder-11px-crop",
        "folder-11px-squash",
        "folder-sizes",
    ]


def touch(images: Path) -> None:
    os.utime(images / "2.png", ns=(5, 7))


CHANGES: dict[str, Callable[[Path], None]] = {
    "touched": touch,
    "changed": lambda images: picture(40, 40, 99).save(images / "2.png"),
    "added": lambda images: picture(40, 40, 99).save(images / "9.png"),
    "removed": lambda images: (images / "2.png").unlink(),
    "renamed": lambda images: (images / "2.png").rename(images / "8.png"),
    "renamed in its place": lambda images: (images / "2.png").rename(images / "2.PNG"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_has_another_cache_and_is_told(
    images: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(images)
    first = files(images.parent / "cache", ".npy")
    assert capsys.readouterr().err == ""
    CHANGES[change](images)
    assert torch.equal(opened(images).read(), expected(images))
    assert len(files(images.parent / "cache", ".npy")) == 2
    told = capsys.readouterr().err
    assert "has changed; out of date" in told
    assert first[0] in told
    opened(images)
    assert capsys.readouterr().err == ""


def test_equal_folders_in_two_places_have_two_caches(images: Path) -> None:
    shutil.copytree(images, images.parent / "twin")  # with the times
    picture(40, 40, 99).save(images / "same_size.bmp")
    picture(40, 40, 98).save(images.parent / "twin" / "same_size.bmp")
    for folder in (images, images.parent / "twin"):
        os.utime(folder / "same_size.bmp", ns=(5, 7))
    assert not torch.equal(opened(images).read(), opened(images.parent / "twin").read())


def test_another_decoder_makes_another_cache(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(images)
    monkeypatch.setattr(pixel_cache, "DECODER", "another")
    opened(images)
    assert len(files(images.parent / "cache", ".npy")) == 2


def edit_index(index: Path, **changes: Any) -> None:
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


def shorten(array: Path, index: Path) -> None:
    os.truncate(array, array.stat().st_size - 1)


def wrong_header(array: Path, index: Path) -> None:
    array.write_bytes(array.read_bytes().replace(b"(5, 3", b"(3, 5"))


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "array cut off": shorten,
    "array empty": lambda array, index: array.write_bytes(b""),
    "array gone": lambda array, index: array.unlink(),
    "array of another shape": wrong_header,
    "index cut off": lambda array, index: os.truncate(index, 20),
    "index without a fault": lambda array, index: edit_index(index, faults=[[2, "empty", False]]),
    "index with an impossible fault": lambda array, index: edit_index(index, faults=[[2, "", False], [7, "", False]]),
    "index of another listing": lambda array, index: edit_index(index, listed=8),
    "index without keys": lambda array, index: index.write_text("{}"),
    "index of another kind": lambda array, index: index.write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew_and_told_in_one_line(
    images: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(images)
    cache = images.parent / "cache"
    array, index = cache / files(cache, ".npy")[0], cache / files(cache, ".json")[0]
    DAMAGE[damage](array, index)
    assert torch.equal(opened(images).read(), expected(images))
    assert capsys.readouterr().err.count("\n") == 1
    opened(images)
    assert capsys.readouterr().err == ""


def test_rows_without_an_index_are_not_believed(images: Path) -> None:
    opened(images)
    cache, record = images.parent / "cache", images.parent / "record"
    (cache / files(cache, ".json")[0]).unlink()
    array = cache / files(cache, ".npy")[0]
    array.write_bytes(bytes(len(array.read_bytes())))
    assert torch.equal(opened(images, record=record).read(), expected(images))
    assert len(record.read_text().split()) == 7


def test_a_file_that_could_not_be_read_is_tried_again_and_a_damaged_one_is_not(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = listing_of(images)

    def locked_away(number: int) -> bytes:
        if number == 3:
            raise PermissionError(errno.EACCES, "Permission denied")
        return listing.read(number)

    config = config_for(images.parent / "cache")
    for _ in range(2):
        pixels = open_pixels(replace(listing, read=locked_away), config, SIZE)
        assert pixels.skipped[1] == ("2.png", "cannot be read: Permission denied")
        assert pixels.kept.tolist() == [0, 1, 4, 6]
        assert capsys.readouterr().err == ""
    assert len(open_pixels(listing, config, SIZE).kept) == 5
    assert "can" in capsys.readouterr().err


def build_to_the_middle(images: Path, said: Connection) -> None:
    decode_all.AT_ONCE = 1
    listing = listing_of(images)

    def read(number: int) -> bytes:
        if number == 6:
            said.send("in the middle")
            time.sleep(600)
        return listing.read(number)

    open_pixels(replace(listing, read=read), config_for(images.parent / "cache"), SIZE)


def test_a_builder_killed_in_the_middle_leaves_nothing_that_is_believed(images: Path) -> None:
    apart: Any = context()
    heard, said = apart.Pipe(duplex=False)
    process = apart.Process(target=build_to_the_middle, args=(images, said))
    process.start()
    said.close()
    assert heard.recv() == "in the middle"
    process.kill()
    process.join(60)
    heard.close()
    cache = images.parent / "cache"
    assert files(cache, ".npy") + files(cache, ".json") == []
    assert [".npy.tmp." in name for name in os.listdir(cache)].count(True) == 1
    touch(images)  # also what was left of another content is removed
    assert torch.equal(opened(images).read(), expected(images))
    assert not any(".tmp." in name for name in os.listdir(cache))


def open_at_once(rank: int, world: int, images: str) -> torch.Tensor:
    """The image read last is there once the other rank is seen to wait."""
    listing, waits = listing_of(Path(images), Path(images).parent / "record"), Path(images).parent / "waits"

    def read(number: int) -> bytes:
        end = time.monotonic() + 60
        while number == 6 and not waits.exists() and time.monotonic() < end:
            time.sleep(0.01)
        return listing.read(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_cache.CachedArray, "_tell_waiting", lambda _: waits.touch())
        cache = Path(images).parent / "cache"
        return open_pixels(replace(listing, read=read), config_for(cache), SIZE).read().clone()


def test_two_ranks_starting_at_once_decode_each_image_once(images: Path) -> None:
    both = run_ranks(2, open_at_once, str(images))
    assert sorted((images.parent / "record").read_text().split()) == sorted(os.listdir(images))
    assert (images.parent / "waits").exists()
    assert all(torch.equal(block, expected(images)) for block in both)


def test_an_interrupted_builder_cleans_up_after_itself(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened(images)
    assert [name.rsplit(".")[-1] for name in os.listdir(images.parent / "cache")] == ["lock"]
    assert torch.equal(opened(images).read(), expected(images))


def test_a_cache_is_used_where_nothing_can_be_written(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(images)

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(pixel_cache, "locked", read_only)
    assert torch.equal(opened(images).read(), expected(images))


def test_a_disk_without_room_is_told_before_anything_is_decoded(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**25))
    record = images.parent / "record"
    with pytest.raises(UserError, match=r"data.cache: .*has 0.03 GiB free, 0.06 GiB are needed; set data.cache"):
        opened(images, record=record)
    assert not record.exists()


def test_a_disk_that_fills_up_is_told_and_left_clean(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="data.cache: .*No space left on device"):
        opened(images)
    assert [name.rsplit(".")[-1] for name in os.listdir(images.parent / "cache")] == ["lock"]
