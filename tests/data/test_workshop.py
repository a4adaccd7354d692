"""Folders made beside their place."""

import subprocess
import sys
from pathlib import Path

import pytest

from data.workshop import workshop

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys
from pathlib import Path
from data.workshop import workshop

with workshop(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_not_moved_out_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set"
    with workshop(target) as folder:
        (folder / "made").mkdir()
        (folder / "rest").write_text("")
        (folder / "made").rename(target)
    assert sorted(path.name for path in target.parent.iterdir()) == [".set.lock", "set"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), workshop(tmp_path / "set") as folder:
        (folder / "half").write_text("")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == [".set.lock"]


def test_the_next_one_removes_what_a_killed_one_left_and_nothing_of_other_sets(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "set")], cwd=ROOT)
    assert killed.returncode == -9
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    (tmp_path / ".set2.tmp.1").mkdir()
    with workshop(tmp_path / "set") as folder:
        assert list(folder.iterdir()) == []
        assert {path.name for path in tmp_path.iterdir()} == {".set.lock", ".set2.tmp.1", folder.name}
