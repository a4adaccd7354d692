"""Images inside tar files: which are rows, in which order, their bytes, their classes, and what damage leaves."""

import gzip
import io
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from data.listing import Listing
from data.sources.shards import list_shards
from data.store import DataConfig, open_source
from tests.data.pictures import encoded, picture
from utils.errors import UserError


def pack(file: Path, members: dict[str, bytes] | list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=format) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def listed(root: Path, truth: str = "none") -> Listing:
    return list_shards(DataConfig(name="shards", root=root, truth=truth))


def contents(listing: Listing) -> list[bytes]:
    return [listing.read(item) for item in range(len(listing))]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_rows_are_in_sorted_order_of_shards_then_of_names_whatever_the_order_of_packing(
    tmp_path: Path, format: int
) -> None:
    long = "l" * 90 + "/" + "o" * 90 + ".jpg"
    pack(tmp_path / "s-10.tar", {"b.png": b"three", long: b"", "a.jpg": b"eleven bytes"}, format)
    pack(tmp_path / "more" / "s.TAR", {"./9.JPEG": b"nine"}, format)
    pack(tmp_path / "s-02.tar", {"a.jpg": b"other", "c/a.webp": b"C" * 1009}, format)
    listing = listed(tmp_path)
    first = ["more/s.TAR/9.JPEG", "s-02.tar/a.jpg", "s-02.tar/c/a.webp"]
    assert listing.names == [*first, "s-10.tar/a.jpg", "s-10.tar/b.png", f"s-10.tar/{long}"]
    assert contents(listing) == [b"nine", b"other", b"C" * 1009, b"eleven bytes", b"three", b""]
    assert (listing.skipped, listing.labels) == ([], None)
    assert listing.stamps[:, 0].tolist() == [4, 5, 1009, 12, 5, 0]
    assert listing.stamps[3, 1] == (tmp_path / "s-10.tar").stat().st_mtime_ns


def test_the_names_of_one_tar_file_are_those_of_its_members(tmp_path: Path) -> None:
    pack(tmp_path / "one.tar", {"x/b.jpg": b"b", "x/a.jpg": b"a"})
    assert listed(tmp_path).names == listed(tmp_path / "one.tar").names == ["x/a.jpg", "x/b.jpg"]


def test_threads_read_many_items_of_one_shard_at_once(tmp_path: Path) -> None:
    members = {f"{number:04d}.jpg": bytes([number % 251]) * (number + 1) for number in range(307)}
    pack(tmp_path / "one.tar", members)
    listing = listed(tmp_path / "one.tar")
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(listing.read, range(307))) == list(members.values())


def test_members_of_a_sample_are_passed_over_others_are_named(tmp_path: Path) -> None:
    members = ("a.jpg", "a.json", "a.txt", "b.png", "b.seg.png", "b.cls", "notes.txt", ".DS_Store", "__MACOSX/._a.jpg")
    pack(tmp_path / "one.tar", dict.fromkeys(members, b"7"))
    listing = listed(tmp_path)
    assert listing.names == ["a.jpg", "b.png", "b.seg.png"]
    assert listing.skipped == [("notes.txt", "not an image by its name (.txt)")]


def test_links_repeated_and_unnameable_members_are_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name, kind in (("a.jpg", tarfile.REGTYPE), ("b.jpg", tarfile.SYMTYPE), ("c.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.jpg"
            tar.addfile(member)
        again = tarfile.TarInfo("./a.jpg")
        again.size = 6
        tar.addfile(again, io.BytesIO(b"second"))
        tar.addfile(tarfile.TarInfo("d\udcff.jpg"))
    listing = listed(tmp_path)
    assert (listing.names, contents(listing)) == (["a.jpg"], [b"second"])
    assert listing.skipped == [
        ("b.jpg", "a link inside a tar file is not followed"),
        ("c.jpg", "not a plain file"),
        ("a.jpg", "is in its tar file twice; the last counts"),
        ("d\\udcff.jpg", "its name is not UTF-8"),
    ]


def test_of_a_shard_cut_short_the_whole_images_are_used(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.jpg": b"1" * 600, "2.jpg": b"2" * 600, "3.jpg": b"3" * 600})
    pack(tmp_path / "b.tar", {"4.jpg": b"4"})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 512 + 1024 + 512 + 599])  # within the second image
    listing = listed(tmp_path)
    assert (listing.names, contents(listing)) == (["a.tar/1.jpg", "b.tar/4.jpg"], [b"1" * 600, b"4"])
    assert listing.skipped == [
        ("a.tar/2.jpg", "cut off: its tar file ends before it does"),
        ("a.tar", "damaged (unexpected end of data): used are its first 1 images"),
    ]


def test_of_a_shard_with_a_damaged_header_the_images_before_it_are_used(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.jpg": b"1" * 600, "2.jpg": b"2" * 600, "3.jpg": b"3" * 600})
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    whole[1536:1600] = b"\xff" * 64  # of the second header
    (tmp_path / "a.tar").write_bytes(whole)
    listing = listed(tmp_path)
    assert (listing.names, contents(listing)) == (["1.jpg"], [b"1" * 600])
    assert listing.skipped == [
        (str(tmp_path / "a.tar"), "damaged (bad header at byte 1536): used are its first 1 images")
    ]


def test_a_shard_whose_headers_lead_back_is_not_read_forever(tmp_path: Path) -> None:
    header = tarfile.TarInfo("2.jpg")
    header.size = -512
    pack(tmp_path / "a.tar", {"1.jpg": b"1"})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:1024] + header.tobuf(tarfile.GNU_FORMAT) + whole[1024:])
    listing = listed(tmp_path)
    assert listing.names == ["1.jpg"]
    assert listing.skipped == [(str(tmp_path / "a.tar"), "damaged (a negative size): used are its first 1 images")]


def test_a_shard_without_an_end_mark_is_whole(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.jpg": b"1" * 512})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1024])
    assert (contents(listed(tmp_path)), listed(tmp_path).skipped) == ([b"1" * 512], [])


def test_a_shard_that_became_shorter_is_an_error_of_the_system(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.jpg": b"1" * 600})
    listing = listed(tmp_path)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(OSError, match="its tar file has become shorter"):
        listing.read(0)


def test_files_that_are_no_tar_are_named_beside_one_that_is(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.jpg": b"1"})
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"no tar file" * 99)
    (tmp_path / "index.json").write_text("{}")
    listing = listed(tmp_path)
    assert listing.names == ["a.tar/1.jpg"]
    assert listing.skipped == [
        ("index.json", "not a tar file by its name"),
        ("b.tar", "damaged (empty file): used are its first 0 images"),
        ("c.tar", "damaged (invalid header): used are its first 0 images"),
    ]


def test_a_compressed_shard_is_the_users_error_whatever_its_name(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.jpg": b"1"})
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(UserError, match=r"b.tar.gz: is compressed \(gz\): .*; unpack it to a plain .tar"):
        listed(tmp_path)
    (tmp_path / "b.tar.gz").rename(tmp_path / "b.tar")
    with pytest.raises(UserError, match=r"b.tar: is compressed \(gzip\): .*; unpack it to a plain .tar"):
        listed(tmp_path)


def test_no_shards_and_shards_without_images_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.root: .*nowhere' is not there"):
        listed(tmp_path / "nowhere")
    with pytest.raises(UserError, match="data.root: no tar file in"):
        listed(tmp_path)
    pack(tmp_path / "a.tar", {"notes.txt": b""})
    with pytest.raises(
        UserError, match=r"no image in its 1 tar files \(notes.txt: not an image by its name \(.txt\)\)"
    ):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ({"a.jpg": b"", "a.cls": b"7\n", "x.y.jpg": b"", "x.y.cls": b"11", "x.z.jpg": b"", "x.cls": b"13"}, "7 11 13"),
        ({"c/a.jpg": b"", "c/a.cls": b"7", "d/a.jpg": b"", "d/b.jpg": b"", "d/a.txt": b"no"}, "7 None None"),
        ({"c/a.jpg": b"", "c/a.json": b'{"label": "cat"}', "c/b.jpg": b"", "c/b.json": b'{"cls": 5}'}, "cat 5"),
        ({"p/c/a.jpg": b"", "p/c/a.json": b'{"caption": "x"}', "p/d/b.jpg": b"", "p/d/b.txt": b"caption"}, "c d"),
        ({"a.jpg": b"", "a.json": b"{damaged", "a.txt": "größe\nmore".encode()}, "größe"),
    ],
)
def test_classes_are_read_from_the_first_kind_of_hint_there_is(
    tmp_path: Path, members: dict[str, bytes], labels: str
) -> None:
    pack(tmp_path / "a.tar", members)
    assert listed(tmp_path).labels is None
    assert [str(label) for label in listed(tmp_path, "folders").labels or ()] == labels.split()


def test_the_name_of_a_shard_is_no_class(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack(tmp_path / f"{name}.tar", {"1.jpg": b""})
    with pytest.raises(UserError, match="data.truth: no class folders"):
        listed(tmp_path, "folders")


def test_a_folder_a_flat_copy_a_list_and_shards_of_the_same_images_have_the_same_rows(tmp_path: Path) -> None:
    folder, flat = tmp_path / "photos", tmp_path / "flat"
    names = [f"{kind}/{number:02d}.{ending}" for kind in ("cat", "dog") for number, ending in enumerate(("png", "jpg"))]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(40 + 7 * seed, 53, seed), name[-3:].replace("jpg", "jpeg")))
    flat.mkdir()
    for name in names:
        shutil.copy(folder / name, flat / name.replace("/", "_"))
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"photos/{name}\n" for name in names))
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name in reversed(names):
            tar.add(folder / name, f"photos/{name}")
    for number in range(2):
        pack(tmp_path / "several" / f"{number}.tar", {n: (folder / n).read_bytes() for n in names[2 * number :][:2]})
    ways = {"folder": folder, "flat": flat, "list": tmp_path / "list.csv", "shards": tmp_path / "one.tar"}
    ways["several"] = tmp_path / "several"
    sources = {
        way: open_source(
            DataConfig(
                name={"flat": "folder", "several": "shards"}.get(way, way), root=root, store="memory", image_size=31
            )
        )
        for way, root in ways.items()
    }
    assert [sources["folder"].path(row) for row in range(4)] == names
    for source in sources.values():
        assert torch.equal(source.read(), sources["folder"].read())
