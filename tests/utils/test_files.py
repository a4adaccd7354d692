"""A file is whole or not there."""

import hashlib
import math
import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import json_ready, read_json, sha256_of, write_bytes, write_json, write_text


def test_new_content_replaces_the_old_and_leaves_nothing_beside(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old and longer")
    write_bytes(file, memoryview("nëw".encode()))
    assert file.read_text(encoding="utf-8") == "nëw"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_crash_before_the_rename_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_content_and_name_are_flushed_to_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace", "fsync"]


def test_json_comes_back_with_nan_as_a_word(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(
        file, {"loss": math.nan, "up": math.inf, "down": -math.inf, 3: (1, 2.5, None, True), "path": Path("a/b")}
    )
    assert read_json(file) == {
        "loss": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
        "3": [1, 2.5, None, True],
        "path": "a/b",
    }


def test_plain_values_are_ready_for_json_as_they_are() -> None:
    value = {"a": [1, 2.5, "x", None, {"b": False}]}
    assert json_ready(value) == value


def test_damaged_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1')
    with pytest.raises(UserError, match=r"a\.json: is damaged: Expecting"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json: cannot be read: No such file"):
        read_json(tmp_path / "a.json")


def test_checksums_of_bytes_and_of_their_file_agree(tmp_path: Path) -> None:
    data = bytes(range(251)) * 97
    write_bytes(tmp_path / "a", data)
    assert sha256_of(tmp_path / "a") == sha256_of(memoryview(data)) == hashlib.sha256(data).hexdigest()
