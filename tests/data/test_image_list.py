"""Images named by a CSV or by plain lines: which are rows, in which order, under which name."""

import os
from pathlib import Path

import pytest

from data.listing import Listing
from data.sources.image_list import list_file
from data.store import DataConfig, open_source
from tests.data.pictures import encoded, picture
from utils.errors import UserError


def listed(root: Path, text: str, name: str = "list.csv", truth: str = "none") -> Listing:
    """The listing of a list with this text, beside images/a.jpg, images/b c.jpg and d.jpg that hold their names."""
    (root / "images").mkdir(exist_ok=True)
    for image in ("images/a.jpg", "images/b c.jpg", "d.jpg"):
        (root / image).write_text(image)
    (root / name).write_text(text, encoding="utf-8", newline="")
    return list_file(DataConfig(name="list", root=root / name, truth=truth))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path\nd.jpg\nimages/b c.jpg\nimages/a.jpg\n"),
        ("list.csv", '\ufeffFilename,"number"\r\nd.jpg,1\r\n"images/b c.jpg",2\r\n\r\nimages/a.jpg'),
        ("list.csv", "image;label\nd.jpg;x\nimages/b c.jpg;\nimages/a.jpg;y\n"),
        ("list.tsv", "label\tfile\nx\td.jpg\n\timages/b c.jpg\ny\t./images//a.jpg\n"),
        ("list.txt", "d.jpg\n\nimages/b c.jpg\nimages/../images/a.jpg\n"),
        ("list", "d.jpg\r\nimages/b c.jpg\r\nimages/a.jpg"),
    ],
)
def test_rows_have_the_order_of_the_list_however_it_is_written(tmp_path: Path, name: str, text: str) -> None:
    listing = listed(tmp_path, text, name)
    assert listing.names == ["d.jpg", "images/b c.jpg", "images/a.jpg"]
    assert [listing.read(item).decode() for item in range(len(listing))] == listing.names
    assert listing.stamps[:, 0].tolist() == [5, 14, 12]
    assert listing.stamps[0, 1] == (tmp_path / "d.jpg").stat().st_mtime_ns
    assert (listing.skipped, listing.labels) == ([], None)


def test_what_is_missing_or_named_again_is_skipped_and_told(tmp_path: Path) -> None:
    text = f"d.jpg\ngone.jpg\nimages\n./d.jpg\n{tmp_path}/d.jpg\ngone.jpg\nzero\0.jpg\nimages/a.jpg\n"
    listing = listed(tmp_path, text, "list.txt")
    assert listing.names == ["d.jpg", "images/a.jpg"]
    assert listing.skipped == [
        ("gone.jpg", "cannot be read (No such file or directory)"),
        ("images", "a folder"),
        ("d.jpg", "named again in the list; the first counts"),
        ("zero\0.jpg", "cannot be read (embedded null byte)"),
    ]


def test_images_elsewhere_keep_their_relative_or_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "..x.jpg").write_bytes(b"dots")
    (tmp_path / "e.jpg").write_bytes(b"e")
    (tmp_path / "f.jpg").write_bytes(b"f")
    (tmp_path / "lists" / "l.txt").write_text(
        f"../e.jpg\n{tmp_path}/f.jpg\n{tmp_path}/lists/..x.jpg\n{tmp_path}/lists/l.txt"
    )
    monkeypatch.chdir(tmp_path)
    listing = list_file(DataConfig(name="list", root=Path("lists/l.txt")))
    assert listing.names == ["../e.jpg", f"{tmp_path}/f.jpg", "..x.jpg", "l.txt"]  # whatever its ending: it was named
    assert [listing.read(item) for item in range(3)] == [b"e", b"f", b"dots"]


def test_a_relative_list_and_an_absolute_one_name_images_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, f"{tmp_path}/images/a.jpg\nd.jpg\n", "l.txt")
    monkeypatch.chdir(tmp_path / "images")
    assert list_file(DataConfig(name="list", root=Path("../l.txt"))).names == ["images/a.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,size\nd.jpg,5\n", "no column named path in its first line 'name,size'"),
        ("path\nx.jpg\ny.jpg\n", r"no image in it: none of its 2 paths is a file \(the first: x.jpg\)"),
        ("path,label\n", "no image in it: none of its 0 paths is a file$"),
        ('path\n"' + "x" * 200_000, "is not a CSV"),
    ],
)
def test_a_list_without_images_is_the_users_error(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        listed(tmp_path, text)


def test_no_list_a_folder_and_no_text_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; .* data.name=folder"):
        list_file(DataConfig(name="list", root=tmp_path))
    with pytest.raises(UserError, match=r"gone.csv: cannot be read \(No such file"):
        list_file(DataConfig(name="list", root=tmp_path / "gone.csv"))
    (tmp_path / "latin.txt").write_bytes("für.jpg".encode("latin-1"))
    with pytest.raises(UserError, match="latin.txt: is not UTF-8 text; save it as UTF-8"):
        list_file(DataConfig(name="list", root=tmp_path / "latin.txt"))


def test_a_file_that_vanished_since_it_was_listed_is_an_error_of_the_system(tmp_path: Path) -> None:
    listing = listed(tmp_path, "d.jpg\n", "l.txt")
    os.unlink(tmp_path / "d.jpg")
    with pytest.raises(OSError, match="No such file"):
        listing.read(0)


def test_a_listed_file_that_is_no_image_is_skipped_by_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.photo").write_bytes(encoded(picture(40, 40), "JPEG"))
    (tmp_path / "b.jpg").write_text("no image")
    (tmp_path / "l.txt").write_text("b.jpg\na.photo\nc.jpg\n")
    source = open_source(DataConfig(name="list", root=tmp_path / "l.txt", image_size=31, store="memory"))
    assert [source.path(row) for row in range(source.n_rows)] == ["a.photo"]
    assert sorted(name for name, _ in source.skipped) == ["b.jpg", "c.jpg"]
