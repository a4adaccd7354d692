"""A folder of images as users have them: what is a row, what is skipped and why, what is passed over."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.listing import Listing
from data.sources.folder import list_folder, list_tree
from data.store import DataConfig, open_source
from tests.data.pictures import cut_png, encoded, picture, with_exif
from utils.errors import UserError

COLOUR = picture(40, 40)
GREY = COLOUR.convert("L")
WIDE = picture(90, 40)


def listed(root: Path, truth: str = "none") -> Listing:
    return list_folder(DataConfig(name="folder", root=root, truth=truth))


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_rows_are_the_images_in_sorted_order_of_their_paths_in_all_subfolders(tmp_path: Path) -> None:
    write(tmp_path, {name: name.encode() for name in ("z.png", "b/a.jpg", "a.PNG", "b/c/d.JPeG", "b-a.jpg", "b.jpg")})
    listing = listed(tmp_path)
    assert listing.names == ["a.PNG", "b-a.jpg", "b.jpg", "b/a.jpg", "b/c/d.JPeG", "z.png"]
    assert [listing.read(item).decode() for item in range(len(listing))] == listing.names
    assert (listing.skipped, listing.labels, listing.where) == ([], None, str(tmp_path))


def test_a_changed_file_has_another_stamp(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"seven..", "b.png": b"eleven....."})
    os.utime(tmp_path / "a.png", ns=(5, 13))
    before = listed(tmp_path).stamps
    os.utime(tmp_path / "a.png", ns=(5, 17))
    after = listed(tmp_path).stamps
    assert before[0].tolist() == [7, 13]
    assert after[0].tolist() == [7, 17]
    assert before[1].tolist() == after[1].tolist() == [11, (tmp_path / "b.png").stat().st_mtime_ns]


def test_what_systems_and_file_managers_leave_behind_is_passed_over_in_silence(tmp_path: Path) -> None:
    left = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.jpg", "b/._a.jpg", ".git/a.jpg", "b/.trash/c/a.jpg")
    write(tmp_path, dict.fromkeys((*left, "b/a.jpg"), b""))
    listing = listed(tmp_path)
    assert (listing.names, listing.skipped) == (["b/a.jpg"], [])


def test_a_link_to_a_file_is_followed_one_to_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"images/a.png": b"a", "elsewhere/photo": b"linked"})
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "elsewhere" / "photo")
    listing = listed(tmp_path / "images")
    assert listing.names == ["a.png", "b.png"]
    assert listing.read(1) == b"linked"
    assert listing.skipped == [("again", "a link to a folder is not followed")]


def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.png": b"", "locked/b.png": b""})
    scan = os.scandir

    def scan_but_one(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_but_one)
    listing = listed(tmp_path)
    assert listing.names == ["a.png"]
    assert listing.skipped == [("locked/", "a folder that cannot be opened (Permission denied)")]


def test_a_tree_of_class_folders_knows_each_images_folder(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(("cat/a.png", "cat/images/b.png", "c.png"), b""))
    assert list_tree(tmp_path, labelled=True).labels == [None, "cat", "images"]
    assert list_tree(tmp_path).labels is None


GOOD = {
    "1bit.png": encoded(GREY.convert("1"), "PNG"),
    "a name\nof two lines.png": encoded(COLOUR, "PNG"),
    "animated.gif": encoded(GREY, "GIF", save_all=True, append_images=[COLOUR.rotate(90).convert("L")]),
    "animated.webp": encoded(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(90)]),
    "cmyk.jpg": encoded(COLOUR.convert("CMYK"), "JPEG"),
    "cmyk.tif": encoded(COLOUR.convert("CMYK"), "TIFF"),
    "deep/er/and/deeper.bmp": encoded(COLOUR, "BMP"),
    "folder.jpg/really.jpg": encoded(COLOUR, "JPEG"),
    "grey.jpeg": encoded(GREY, "JPEG"),
    "grey16.pgm": encoded(Image.fromarray(np.full((40, 40), 40_009, dtype=np.uint16)), "PPM"),
    "grey16.png": encoded(Image.fromarray(np.full((40, 40), 40_009, dtype=np.uint16)), "PNG"),
    "grey16.tiff": encoded(Image.fromarray(np.full((40, 40), 40_009, dtype=np.uint16)), "TIFF"),
    "IN CAPITALS.JPG": encoded(COLOUR, "JPEG"),
    "j2k.jp2": encoded(COLOUR, "JPEG2000"),
    "line.png": encoded(picture(1, 211), "PNG"),
    "palette.png": encoded(COLOUR.quantize(7), "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255])),
    "pixel.png": encoded(picture(1, 1), "PNG"),
    "png_called.jpg": encoded(COLOUR, "PNG"),
    "progressive.jpg": encoded(COLOUR, "JPEG", progressive=True),
    "see-through.png": encoded(COLOUR.convert("RGBA"), "PNG"),
    "turned.jpg": encoded(WIDE, "JPEG", exif=with_exif(6)),
    "with trailing rubbish.jpg": encoded(COLOUR, "JPEG") + b"more" * 99,
    "größe 雪.png": encoded(WIDE, "PNG"),
}
BROKEN = {
    "b.ai.png": (b"%PDF-1.4 as many programs write", "not an image of a known format"),
    "b.bmp": (encoded(COLOUR, "BMP")[:-99], "truncated"),
    "b.bomb.png": (cut_png(30_011, 20_011), "too large"),
    "b.cut.png": (cut_png(40, 40), "cannot be decoded"),
    "b.empty.jpg": (b"", "the file is empty"),
    "b.eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image of a known format"),
    "b.fraction.jpg": (encoded(picture(800, 600), "JPEG")[:-99], "truncated"),
    "b.gif": (encoded(GREY, "GIF")[:-99], "cannot be decoded"),
    "b.half.jpg": (encoded(COLOUR, "JPEG")[:-99], "truncated"),
    "b.head.jpg": (encoded(COLOUR, "JPEG")[:2], "not an image of a known format"),
    "b.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: convert it"),
    "b.html.jpg": (b"<!DOCTYPE html><title>404</title>", "not an image of a known format"),
    "b.jp2": (encoded(COLOUR, "JPEG2000")[:-999], "cannot be decoded"),
    "b.movie.jpg": (b"\0\0\0\x18ftypisom" + bytes(99), "not an image of a known format"),
    "b.progressive.jpg": (encoded(COLOUR, "JPEG", progressive=True)[:-99], "truncated"),
    "b.ppm": (encoded(COLOUR, "PPM")[:-99], "truncated"),
    "b.svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image of a known format"),
    "b.text.jpg": (b"this is no JPEG", "not an image of a known format"),
    "b.tif": (encoded(COLOUR, "TIFF")[:-999], "cannot be decoded"),
    "b.webp": (encoded(COLOUR, "WEBP")[:-99], "cannot be decoded"),
    "b.zeros.jpg": (bytes(4096), "not an image of a known format"),
    "b.zip.jpg": (b"PK\3\4" + bytes(99), "not an image of a known format"),
    "c.cr2": (b"raw", r"not an image by its name \(.cr2\)"),
    "c.notes.txt": (b"no image", r"not an image by its name \(.txt\)"),
    "c.svg": (b"<svg/>", r"not an image by its name \(.svg\)"),
    "c/Makefile": (b"", r"not an image by its name \(no ending\)"),
}


def test_of_broken_and_good_files_of_all_kinds_exactly_the_broken_are_skipped_each_with_a_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {**GOOD, **{name: content for name, (content, _) in BROKEN.items()}})
    reasons = {name: reason for name, (_, reason) in BROKEN.items()}
    (tmp_path / "d.nowhere.jpg").symlink_to(tmp_path / "missing")
    (tmp_path / "d.again").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "d.pipe.jpg")
    reasons |= {"d.nowhere.jpg": "a link to nowhere", "d.again": "a link to a folder", "d.pipe.jpg": "a pipe"}
    if os.geteuid() != 0:  # to root nothing is forbidden
        write(tmp_path, {"d.locked.jpg": GOOD["grey.jpeg"]})
        (tmp_path / "d.locked.jpg").chmod(0)
        reasons["d.locked.jpg"] = "Permission denied"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/d.\xff.jpg")).write_bytes(GOOD["grey.jpeg"])
    reasons["d.\\udcff.jpg"] = "its name is not UTF-8"
    source = open_source(DataConfig(name="folder", root=tmp_path, image_size=31, store="memory"))
    assert [source.path(row) for row in range(source.n_rows)] == sorted(GOOD)
    assert sorted(name for name, _ in source.skipped) == sorted(reasons)
    for name, reason in source.skipped:
        assert re.search(reasons[name], reason), f"{name}: {reason}"
        assert 0 < len(reason) < 150
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_an_image_is_the_users_error(tmp_path: Path) -> None:
    write(tmp_path, {"notes.txt": b"not an image"})
    with pytest.raises(UserError, match="data.root: no image under .* known endings: .avif"):
        listed(tmp_path)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.root: .*nowhere' is not there"):
        listed(tmp_path / "nowhere")
    write(tmp_path, {"file": b""})
    with pytest.raises(UserError, match="data.root: .*file' is not a folder"):
        listed(tmp_path / "file")
