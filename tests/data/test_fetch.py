"""Published files: found whole, unpacked, or fetched by one process; never believed when they are not whole."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data import fetch
from data.fetch import Published, obtain
from tests.official_files import tar_of
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
CONTENTS = {"one.bin": b"1" * 7919, "two.bin": b"2" * 7907}
MD5S = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}
PACKED = tar_of({f"somewhere/{name}": content for name, content in CONTENTS.items()}, "w:gz")
ARCHIVE = ("set.tar.gz", hashlib.md5(PACKED).hexdigest())


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A folder that stands for a server: the files and their archive."""
    folder = tmp_path / "server"
    folder.mkdir()
    for name, content in {**CONTENTS, ARCHIVE[0]: PACKED}.items():
        (folder / name).write_bytes(content)
    return folder


def archived(server: Path) -> Published:
    return Published("set", "set-files", MD5S, (f"{server.as_uri()}/{ARCHIVE[0]}",), ARCHIVE)


def loose(*servers: Path) -> Published:
    return Published("set", "set-files", MD5S, tuple(f"{server.as_uri()}/" for server in servers))


def contents_of(found: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in found.items()}


def no_download(*_: Any) -> None:
    pytest.fail("downloaded")


@pytest.mark.parametrize("make", [archived, loose])
def test_what_is_missing_is_downloaded_into_its_folder_and_nothing_else_left(
    make: Any, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new" / "root"
    found = obtain(make(server), [*CONTENTS], root, download=True)
    assert contents_of(found) == CONTENTS
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == [
        ".set.lock",
        "set-files",
        "set-files/one.bin",
        "set-files/two.bin",
    ]
    monkeypatch.setattr(fetch, "_download", no_download)
    assert obtain(make(server), [*CONTENTS], root, download=True) == found


def test_only_the_files_asked_for_are_fetched(server: Path, tmp_path: Path) -> None:
    found = obtain(loose(server), ["two.bin"], tmp_path, download=True)
    assert contents_of(found) == {"two.bin": CONTENTS["two.bin"]}
    assert not (tmp_path / "set-files" / "one.bin").exists()


def test_a_damaged_file_is_replaced(server: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set-files"
    folder.mkdir()
    (folder / "one.bin").write_bytes(CONTENTS["one.bin"][:-1])
    (folder / "two.bin").write_bytes(CONTENTS["two.bin"])
    assert contents_of(obtain(loose(server), [*CONTENTS], tmp_path, download=True)) == CONTENTS


def test_the_next_address_is_tried_when_one_fails_or_gives_other_bytes(server: Path, tmp_path: Path) -> None:
    liar = tmp_path / "liar"
    liar.mkdir()
    (liar / "one.bin").write_bytes(b"<html>not found</html>")
    found = obtain(loose(tmp_path / "gone", liar, server), ["one.bin"], tmp_path, download=True)
    assert contents_of(found) == {"one.bin": CONTENTS["one.bin"]}


def test_a_failing_download_is_told_in_one_line_with_each_reason(server: Path, tmp_path: Path) -> None:
    (server / "one.bin").write_bytes(b"other")
    with pytest.raises(UserError) as caught:
        obtain(loose(tmp_path / "gone", server), ["one.bin"], tmp_path / "root", download=True)
    told = str(caught.value)
    assert told.startswith(f"data.root: no intact set under '{tmp_path}/root', and the download failed (file://")
    assert "No such file" in told
    assert f"server/one.bin: what came is damaged or another file, its MD5 is not {MD5S['one.bin']})" in told
    assert told.endswith(f"; check the network, or put one.bin (MD5 {MD5S['one.bin']}) there")
    assert "\n" not in told
    assert [path.name for path in (tmp_path / "root").rglob("*")] == [".set.lock"]


def test_without_download_nothing_is_made_and_the_remedy_names_the_file(server: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        obtain(archived(server), [*CONTENTS], tmp_path / "root", download=False)
    assert str(caught.value) == (
        f"data.root: no intact set under '{tmp_path}/root'; data.download=true fetches it, "
        f"or put set.tar.gz (MD5 {ARCHIVE[1]}) there"
    )
    assert not (tmp_path / "root").exists()


def test_an_archive_put_there_by_hand_is_unpacked_without_download(server: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / ARCHIVE[0]).write_bytes(PACKED)
    assert contents_of(obtain(archived(tmp_path / "gone"), [*CONTENTS], root, download=False)) == CONTENTS
    assert (root / ARCHIVE[0]).is_file()


def test_a_damaged_archive_is_not_unpacked(server: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / ARCHIVE[0]).write_bytes(PACKED[:-9])
    with pytest.raises(UserError, match=r"unpacking failed \(set.tar.gz is damaged: its MD5 is not"):
        obtain(archived(server), [*CONTENTS], root, download=False)
    assert contents_of(obtain(archived(server), [*CONTENTS], root, download=True)) == CONTENTS


def test_a_root_that_cannot_be_written_is_the_users_error(server: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.root: no intact set under"):
        obtain(archived(server), [*CONTENTS], tmp_path / "file", download=True)


CHILD = """
import sys
from pathlib import Path
from data import fetch

server, root, md5s, archive = eval(sys.argv[1])
download = fetch._download

def stop_in_the_middle(urls, md5, target):
    with open(root + "/downloads", "a") as counter:
        counter.write("x")
    target.write_bytes(b"half")
    print("started", flush=True)
    sys.stdin.readline()
    download(urls, md5, target)

fetch._download = stop_in_the_middle
published = fetch.Published("set", "set-files", md5s, (server,), archive)
found = fetch.obtain(published, list(md5s), Path(root), True)
print(sum(path.stat().st_size for path in found.values()), flush=True)
"""


@pytest.fixture
def begin(server: Path, tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start a process that obtains the set, stops in the middle of its download and goes on when its input ends."""
    children: list[subprocess.Popen[str]] = []
    facts = repr((f"{server.as_uri()}/{ARCHIVE[0]}", str(tmp_path / "root"), MD5S, ARCHIVE))
    (tmp_path / "root").mkdir()

    def start() -> "subprocess.Popen[str]":
        words, pipe = [sys.executable, "-c", CHILD, facts], subprocess.PIPE
        children.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def test_one_process_downloads_while_others_wait_and_the_next_takes_over_when_it_is_killed(
    begin: Any, server: Path, tmp_path: Path
) -> None:
    root, size = tmp_path / "root", sum(map(len, CONTENTS.values()))
    first = begin()
    assert first.stdout.readline() == "started\n"
    waiting = [begin(), begin()]
    for process in waiting:
        assert process.stderr.readline() == f"waiting for the process that is making {root}/set\n"
    first.kill()
    first.wait()
    with pytest.raises(UserError, match="no intact set"):  # what the dead one left is not believed
        obtain(archived(server), [*CONTENTS], root, download=False)
    for process in waiting:
        process.stdin.close()
    assert sorted(process.stdout.read() for process in waiting) == [f"{size}\n", f"started\n{size}\n"]
    assert (root / "downloads").read_text() == "xx"
    assert sorted(path.name for path in root.iterdir()) == [".set.lock", "downloads", "set-files"]
