"""Image files that are broken, disguised or strangely named: rows or reasons, never a traceback, never a wait."""

import csv
import os
import pickle
import random
import socket
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from data.prepare_inputs import find_tiny
from data.sources import cifar
from data.sources.base import Source
from data.sources.folder import list_folder
from data.store import DataConfig, open_source
from evaluation.given_images import list_given
from evaluation.load_run import Predictions
from evaluation.predict import write_table
from evaluation.predict_images import make_folders
from tests.data.pictures import cut_png, encoded, picture
from utils.errors import UserError

PHOTO = picture(64, 48)
JPEG, PNG, GIF = encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG"), encoded(PHOTO, "GIF")
STRANGE_NAMES = (
    *(
        "a\nb.png",
        "\x1b[31mred\x1b[0m.png",
        "-rf.png",
        "--out.png",
        "=cmd()|'C calc'!A0.png",
        "@SUM(1).png",
        "+1.png",
    ),
    *(
        "<script>alert(1)<.png",
        "a,b.png",
        'a"b.png',
        " .png",
        "$(id).png",
        "`id`.png",
        "%s%n.png",
        "a;b.png",
    ),
    *(
        "\u202egnp.png",
        "é\u0301 雪.png",
        "x" * 240 + ".png",
        "a\\..\\b.png",
        "con.png",
        "*.png",
        "a\r.png",
        "tab\t.png",
    ),
)


def png_with(kind: bytes, content: bytes) -> bytes:
    """The PNG with one more chunk before its pixels."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return PNG[:33] + chunk + PNG[33:]


def flipped(data: bytes, seed: int) -> bytes:
    """With 20 random bytes changed, none of the first two."""
    damaged, dice = bytearray(data), random.Random(seed)
    for _ in range(20):
        damaged[dice.randrange(2, len(data))] ^= dice.randrange(1, 256)
    return bytes(damaged)


def broken_files() -> dict[str, bytes]:
    """What no decoder can read whole."""
    files = {f"cut/{i:02d}.jpg": JPEG[: len(JPEG) * i // 16] for i in range(1, 16)}
    files |= {f"cut/{i:02d}.png": PNG[: len(PNG) * i // 12] for i in range(1, 12)}
    files |= {f"cut/{i:02d}.gif": GIF[: len(GIF) * i // 5] for i in range(1, 5)}
    size = JPEG.index(b"\xff\xc0") + 5  # height and width of a JPEG
    return files | {
        "huge.png": cut_png(2**31 - 1, 2**31 - 1),
        "large.png": cut_png(20_000, 10_000),
        "no_pixels.png": cut_png(0, 0),
        "huge.jpg": JPEG[:size] + b"\xff\xff\xff\xff" + JPEG[size + 4 :],
        "no_pixels.jpg": JPEG[:size] + bytes(4) + JPEG[size + 4 :],
        "huge.gif": GIF[:6] + b"\xff" * 4 + GIF[10:20],
        "huge.ppm": b"P6 999999999 999999999 255\n" + bytes(99),
        "minus.ppm": b"P6 -5 5 255\n" + bytes(99),
        "huge.bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 2**31 - 1, -(2**31), 1, 24) + bytes(99),
        "ring.tif": b"II*\0" + struct.pack("<IHHHII", 8, 1, 256, 3, 1, 64) + struct.pack("<I", 8),
        "text.png": b"no image", "empty.png": b"", "zeros.jpg": bytes(9999), "html.jpg": b"<!DOCTYPE html>",
        "pickle.png": pickle.dumps(open), "zip.jpg": b"PK\3\4" + bytes(99), "tail.png": PNG[2:], "eps.jpg": b"%!PS\n",
        "text_bomb.png": png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))[:-20],
    }  # fmt: skip


def test_of_more_than_50_broken_files_each_is_skipped_once_with_a_reason_and_the_good_are_read(tmp_path: Path) -> None:
    good, broken = {"cut/a.png": PNG, "good.jpg": JPEG, "png_called.jpg": PNG}, broken_files()
    for name, data in {**broken, **good}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "ring.png").symlink_to(tmp_path / "ring.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "dir.png").symlink_to(tmp_path / "cut")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
    skipped = {*broken, "nowhere.png", "ring.png", "device.png", "dir.png", "pipe.png", "socket.png"}
    assert len(skipped) >= 50
    for store in ("memory", "cache", "stream"):
        config = DataConfig(name="folder", root=tmp_path, image_size=16, store=store, cache=tmp_path / ".cache")
        source = open_source(config)
        assert [source.path(row) for row in range(source.n_rows)] == sorted(good)
        assert source.read(torch.arange(3)).shape == (3, 3, 16, 16)
        assert sorted(name for name, _ in source.skipped) == sorted(skipped)
        for name, reason in source.skipped:
            assert reason.isprintable() and 0 < len(reason) < 150, (name, reason)


def test_a_file_with_flipped_bytes_is_a_row_or_is_skipped_and_never_both_or_neither(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(PNG)
    names = {"good.png"}
    for seed in range(25):
        for ending, data in (("jpg", JPEG), ("png", PNG), ("gif", GIF), ("webp", encoded(PHOTO, "WEBP"))):
            names.add(f"{seed:02d}.{ending}")
            (tmp_path / f"{seed:02d}.{ending}").write_bytes(flipped(data, seed))
    source = open_source(DataConfig(name="folder", root=tmp_path, image_size=16, store="memory"))
    rows, skipped = [source.path(row) for row in range(source.n_rows)], [name for name, _ in source.skipped]
    assert sorted([*rows, *skipped]) == sorted(names)
    assert len(skipped) > 20
    assert len(source.read()) == len(rows)


@pytest.fixture
def strangely_named(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "=1+1").mkdir(parents=True)
    for name in (*STRANGE_NAMES, "=1+1/a.png", os.fsdecode(b"\xff\xfe.png")):
        (folder / name).write_bytes(PNG)
    return folder


def predictions(paths: list[str]) -> Predictions:
    zeros = torch.zeros(len(paths), dtype=torch.int64)
    return Predictions(zeros, zeros.double(), zeros.double(), zeros, paths, zeros[:, None].float(), [])


def names_in(source: Source) -> list[str]:
    return [source.path(row) for row in range(source.n_rows)]


def test_strange_names_are_rows_and_the_table_of_them_is_a_list_that_finds_them_again(strangely_named: Path) -> None:
    source = open_source(DataConfig(name="folder", root=strangely_named, image_size=16, store="memory"))
    names = names_in(source)
    assert sorted(names) == sorted([*STRANGE_NAMES, "=1+1/a.png"])
    assert source.skipped == [("\\udcff\\udcfe.png", "its name is not UTF-8")]
    table = strangely_named / "clusters.csv"
    write_table(table, ["path"], [(name,) for name in names], predictions(names))
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == names
    again = open_source(DataConfig(name="list", root=table, image_size=16, store="memory"))
    assert (names_in(again), again.skipped) == (names, [])


def test_folders_of_links_hold_a_link_for_each_strange_name_and_nothing_lies_outside_them(
    strangely_named: Path, tmp_path: Path
) -> None:
    names = [*STRANGE_NAMES, "=1+1/a.png", "../photos/a,b.png"]
    make_folders(predictions(names), strangely_named, tmp_path / "sorted", 3)
    made = list((tmp_path / "sorted").rglob("*"))
    assert len([path for path in made if path.is_symlink()]) == len(names) == len(made) - 1
    assert all(path.read_bytes() == PNG for path in made if path.is_symlink())
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["photos", "sorted"]


def test_what_is_printed_of_a_strange_name_is_one_line_without_terminal_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\nb\x1b[31m"
    (folder / "cat\x1b[0m").mkdir(parents=True)
    for name in ("cat\x1b[0m/a.png", "\x1b]0;title\x07\n.png"):
        (folder / name).write_bytes(PNG)
    with pytest.raises(UserError) as caught:
        list_given(folder / "cat\x1b[0m" / "no\nthing")
    assert str(caught.value).isprintable()
    list_folder(DataConfig(name="folder", root=folder, truth="folders"))
    printed = capsys.readouterr().out
    assert "1 of 2 images have no class" in printed
    assert printed.removesuffix("\n").isprintable()


def test_a_cifar_pickle_runs_no_code_even_with_the_right_checksum(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/harm",)

    (tmp_path / "batch").write_bytes(pickle.dumps({"data": Harmful()}))
    with pytest.raises(UserError, match=r"batch: holds posix.system, which only running its code could read"):
        cifar._unpickle(tmp_path / "batch")
    assert not (tmp_path / "harm").exists()


def test_a_cifar_pickle_as_python_2_wrote_it_is_read(tmp_path: Path) -> None:
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x03tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x03\x00\x80\xfftb"
    )
    (tmp_path / "batch").write_bytes(b"\x80\x02}U\x04data" + array + b"s.")
    assert cifar._unpickle(tmp_path / "batch")["data"].tolist() == [0, 128, 255]


@pytest.mark.parametrize("strange", ["..", "/tmp/elsewhere", "n123", "n01440764/../.."])
def test_no_class_of_an_archive_leads_out_of_the_folder_that_is_built(tmp_path: Path, strange: str) -> None:
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as packed:
        packed.writestr("tiny-imagenet-200/train/n01440764/images/a.JPEG", b"a")
        packed.writestr("tiny-imagenet-200/val/images/b.JPEG", b"b")
        packed.writestr("tiny-imagenet-200/val/val_annotations.txt", f"b.JPEG\t{strange}\t0\n")
    with pytest.raises(UserError, match=r"no class of ImageNet"):
        find_tiny(tmp_path, [])
