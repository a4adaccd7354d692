"""Configs as no sane person writes them: settings or one printable line, never a traceback, never a full memory."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import main
import utils.config
from tests.flat_configs import CIFAR10_R18
from training.settings import sections
from utils.errors import UserError
from utils.yaml_text import read_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = ("digits_propos", "digits_temi", "cifar10_r18_scan", "own_images")
TEXTS = [(ROOT / f"config/{name}.yml").read_text().replace("base: ", f"base: {ROOT}/config/") for name in SHIPPED]
TEXTS.append(CIFAR10_R18)
ODD_TEXT = [
    *("", " ", "\0", "a\nb", "a\r\nb: c", "\x1b[31mred", "\u2028", "\U0001f600", "\udcff", "é" * 300, "../..", "/dev"),
    *("no", "null", "1e999", "-1", "0", "nan", ".nan", "-.inf", "1_000", "0o7", "1:30", "~", "2020-02-30", "<b>", "%s"),
    *(
        "0x" + "f" * 5000,
        "9" * 5000,
        "1" * 99,
        "1e-400",
        "true",
        "12",
        "digits",
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
        "'12'",
    ),
]
ODD_YAML = [
    *("!!python/object:os.system x", "!!python/object/apply:os.system [id]", "!!binary aGk=", "!!timestamp soon"),
    *("!!bool maybe", "!!int x", "!!float x", "!!null x", "!!set {a, b}", "!!omap [a: b]", "!unknown x", "!!str 1"),
    *("&a [*a]", "&a {a: *a}", "*nowhere", "{<<: {a: b}}", "[" * 300, "[" * 250 + "]" * 250, "{a: " * 150 + "}" * 150),
    *("{[a]: b}", "{{a: b}: c}", "{!!timestamp soon: b}", "{1: 2}", "{null: 2}", "{a: 1, a: 2}", "{true: 1}"),
    *(
        '"\\0"',
        '"\\ud800"',
        '"a\\nb"',
        '{"a\\nb": 1}',
        '{"\\x1b[31m": 1}',
        "'",
        '"',
        "|\n    a\n    b",
        "- a",
        "@",
        "`",
    ),
]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcde", "bcdef", strict=True)
)
KEYS = [
    f"{section}.{key}"
    for section, models in sections().items()
    for model in ([models] if isinstance(models, type) else [models["propos"], models["swav"]])
    for key in model.model_fields
]

EXAMPLES = 500
values = st.one_of(
    st.sampled_from(ODD_TEXT),
    st.sampled_from(ODD_YAML),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=9),
    st.lists(st.none() | st.booleans() | st.floats() | st.text(max_size=3), max_size=4).map(str),
)
places = st.integers(0, 40)


def swapped(word: str, place: int) -> str:
    """Two neighbouring letters change places."""
    place %= max(1, len(word))
    return word[:place] + word[place + 1 : place + 2] + word[place : place + 1] + word[place + 2 :]


def change_line(text: str, number: int, change: Callable[[str], str]) -> str:
    lines = text.rstrip("\n").split("\n")
    number %= len(lines)
    return "\n".join([*lines[:number], change(lines[number]), *lines[number + 1 :], ""])


of_a_line = st.one_of(
    values.map(lambda value: lambda line: f"{line.partition(': ')[0]}: {value}"),
    places.map(lambda place: lambda line: swapped(line, place)),
    st.sampled_from(KEYS).map(lambda key: lambda line: f"{line}\n{key.replace('.', ': {')}: 1}}"),
    st.sampled_from(ODD_TEXT + ODD_YAML).map(lambda text: lambda line: line + text),
    st.sampled_from(["  ", "- ", "\t", "\ufeff", "? "]).map(lambda before: lambda line: before + line),
    st.just(lambda line: f"{line}\n{line}"),
)
of_the_file: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
    st.sampled_from([b"", b"\0", b"null", b"[]", b"- a", b"x", b"\xff\xfe", b"---\n---\n"]).map(
        lambda new: lambda _: new
    ),
    st.just(lambda data: data.replace(b"\n", b"\r\n")),
    st.just(lambda data: b"\xef\xbb\xbf" + data),
    st.just(lambda data: data.decode("utf-8", "replace").encode("utf-16")),
    st.just(lambda data: data + BOMB.encode()),
    st.sampled_from(['"a\\nb.yml"', '"a\\0.yml"', "hostile.yml", ".", "{a: b}", "null", "[12]", "x" * 300]).map(
        lambda base: lambda data: b"base: " + base.encode() + b"\n" + data.split(b"\n", 2)[-1]
    ),
    places.map(lambda place: lambda data: data[: 9 * place]),
    st.binary(min_size=1, max_size=9).map(lambda noise: lambda data: data[:99] + noise + data[99:]),
)
words = st.one_of(
    st.tuples(st.sampled_from(KEYS), values).map("=".join),
    st.tuples(st.sampled_from(KEYS), values).map("=".join),
    st.tuples(st.sampled_from(KEYS), places).map(lambda pair: f"{swapped(*pair)}=1"),
    st.tuples(st.sampled_from(["", ".", "run", "run.", ".name", "run.name.x", "a.b", "base.x", "a..b"]), values).map(
        "=".join
    ),
    st.text(max_size=9),
)


def read_once(path: Path, known: dict[Path, Any] = {}) -> Any:  # noqa: B006
    """What `read_yaml` gives of a shipped file that others build on: parsed once, for the sake of time."""
    if ROOT / "config" not in path.parents:
        return read_yaml(path)
    if path not in known:
        known[path] = read_yaml(path)
    return copy.deepcopy(known[path])


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    st.sampled_from(TEXTS),
    st.one_of(
        st.tuples(st.lists(st.tuples(places, of_a_line), min_size=1, max_size=2), st.just(bytes), st.just([])),
        st.tuples(st.just([]), of_the_file, st.just([])),
        st.tuples(st.just([]), st.just(bytes), st.lists(words, min_size=1, max_size=3)),
    ),
)
def test_500_mutated_configs_give_settings_or_an_error_of_one_line(
    tmp_path: Path, text: str, mutation: tuple[list[Any], Callable[[bytes], bytes], list[str]]
) -> None:
    changes, whole, given_words = mutation
    for number, change in changes:
        text = change_line(text, number, change)
    file = tmp_path / "hostile.yml"
    file.write_bytes(whole(text.encode("utf-8", "surrogatepass")))
    place = str
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.config, "read_yaml", read_once)
        try:
            _, arguments = main.parse(["train", str(file), *given_words], main.COMMANDS)
            composed = main.compose_words("train", arguments)
            place = composed.locate
            main.load(composed)
        except UserError as error:
            line = place(error)
            assert line.isprintable() and line.strip(), repr(line)


def test_a_few_lines_that_stand_for_half_a_million_values_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.yml").write_text(BOMB)
    with pytest.raises(UserError, match=r"bomb\.yml: more than 100,000 values$"):
        read_yaml(tmp_path / "bomb.yml")
