"""YAML words: which are numbers, which are strings, and what a broken file is told."""

import math
from pathlib import Path
from typing import Any

import pytest

from utils.errors import UserError
from utils.yaml_text import parse_value, read_yaml, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5e-4", 0.0005),
        ("1E5", 100000.0),
        ("0.1", 0.1),
        ("1.", 1.0),
        ("+.5", 0.5),
        ("2.5e+3", 2500.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("10", 10),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("1_000", 1000),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("'5'", "5"),
        ("e5", "e5"),
        ("[0.2, 1]", [0.2, 1]),
        ("{blur: 1e-1}", {"blur": 0.1}),
    ],
)
def test_a_word_is_what_it_looks_like(text: str, value: Any) -> None:
    parsed = parse_value(text, "here")
    assert (parsed, type(parsed)) == (value, type(value))


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(parse_value(".nan", "here"))


@pytest.mark.parametrize(
    "word", ["1e-3", "5", "true", "null", "~", "", "yes", "1:30", "a: b", "# no", "2026-11-21", "ä"]
)
def test_a_string_is_written_so_that_it_is_read_back_as_a_string(word: str) -> None:
    values = {"section": {"key": word, "list": [word, 1, 2.5e-7, None, False], "empty": {}, "none": None}}
    assert parse_value(to_yaml(values), "here") == values


def test_lists_are_written_in_one_line() -> None:
    assert to_yaml({"views": {"jitter": [0.4, 0.4, 0.4, 0.1]}}) == "views:\n  jitter: [0.4, 0.4, 0.4, 0.1]\n"


def test_each_key_knows_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("# first\noptim:\n  epochs: 3\n\n  views: {blur: 1}\nrun:\n  name: x\n")
    lines = read_yaml(file)[1]
    assert lines == {
        "optim": 2,
        "optim.epochs": 3,
        "optim.views": 5,
        "optim.views.blur": 5,
        "run": 6,
        "run.name": 7,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  epochs: [1, 2\n", "a.yml:3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("optim:\n\tepochs: 3\n", "a.yml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: 1\nb: 2: 3\n", "a.yml:2: not valid YAML: mapping values are not allowed here"),
        ("optim: {}\n---\nrun: {}\n", "a.yml:2: not valid YAML: but found another document"),
        (
            "run: !!python/object:os.system x\n",
            "a.yml:1: tag:yaml.org,2002:python/object:os.system is not a kind of value that a config has",
        ),
        ("run: !!int x\n", "a.yml: not valid YAML: invalid literal for int() with base 16: 'x'"),
        ("run: !!timestamp 2026-11-21\n", "a.yml:1: tag:yaml.org,2002:timestamp is not a kind of value"),
        ("- a\n- b\n", "a.yml:1: expected sections with keys, found ['a', 'b']"),
        ("optim:\n  epochs: 3\n  epochs: 4\n", "a.yml:3: optim.epochs: stands twice (first in line 2)"),
        ("optim:\n  3: 4\n", "a.yml:2: the key 3 is not a word"),
        ("a: &x [*x]\n", "a.yml: not valid YAML: maximum recursion depth exceeded"),
        ("a: \x00\n", "a.yml: not valid YAML: unacceptable character"),
    ],
)
def test_a_broken_file_is_told_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "digits.yml").write_text("run: {}")
    with pytest.raises(UserError, match=r"digit\.yml: no such file \(did you mean .*/digits\.yml\?\)$"):
        read_yaml(tmp_path / "digit.yml")


def test_a_missing_file_in_an_empty_folder_is_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"digit\.yml: no such file$"):
        read_yaml(tmp_path / "digit.yml")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_picture_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match=r"a\.yml: cannot be read: it is not text"):
        read_yaml(tmp_path / "a.yml")


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "a.yml") == ({}, {})
