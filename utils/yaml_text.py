"""YAML as this project reads and writes it: `1e-3` is a number, `yes` is a word, and every key knows its line."""

import re
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, did_you_mean

Values = dict[str, Any]

MOST_VALUES = 100_000  # aliases of aliases make a few lines stand for more values than any memory holds
MOST_DIGITS = 300
KINDS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "str"))

RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader whose words follow YAML 1.2: `5e-4` is a float; `no`, `on`, `1:30` and dates are strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    built = 0  # values so far


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes exactly the strings which `_Loader` would take for something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out: no anchors."""
        return True


for _word, _pattern, _first in RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_word}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _float(node.value))
_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def read_yaml(path: Path) -> tuple[Values, dict[str, int]]:
    """The mapping in the file, and the line of each dotted key (`optim.epochs`), counted from 1.

    Raises:
        UserError: no such file, not text, not YAML, no mapping, or a key that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = [str(file) for file in path.parent.glob("*.y*ml")]
        raise UserError(str(path), "no such file" + (did_you_mean(str(path), near) if near else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    lines: dict[str, int] = {}
    values = _parse(text, str(path), lines)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}:1", f"expected sections with keys, found {values!r}")
    return values, lines


def parse_value(text: str, place: str) -> Any:
    """The value that `text` has in YAML: a number, true or false, null, a string, a list or a mapping."""
    return _parse(text, place, None)


def to_yaml(values: Values) -> str:
    """YAML text that `read_yaml` reads back to equal values; lists stand in one line."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _parse(text: str, place: str, lines: dict[str, int] | None) -> Any:
    """The value of the text; the line of each key goes into `lines` (None: the text is no file, lines say nothing)."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _build(loader, node, place, "", {} if lines is None else lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place if lines is None or mark is None else f"{place}:{mark.line + 1}"
        raise UserError(where, f"not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise UserError(place, f"not valid YAML: {str(error).splitlines()[0]}") from None


def _build(loader: _Loader, node: yaml.Node, place: str, key: str, lines: dict[str, int]) -> Any:
    """The node as plain dicts, lists, strings, numbers, booleans and None."""
    loader.built += 1
    if loader.built > MOST_VALUES:
        raise UserError(place, f"more than {MOST_VALUES:,} values")
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, place, key, {}) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(loader, node, place, key, lines)
    if node.tag not in KINDS:
        raise UserError(f"{place}:{node.start_mark.line + 1}", f"{node.tag} is not a kind of value that a config has")
    return loader.construct_object(node)


def _build_mapping(loader: _Loader, node: yaml.MappingNode, place: str, key: str, lines: dict[str, int]) -> Values:
    values: Values = {}
    for key_node, value_node in node.value:
        name, line = _build(loader, key_node, place, key, {}), key_node.start_mark.line + 1
        full = f"{key}.{name}" if key else str(name)
        if not isinstance(name, str):
            raise UserError(f"{place}:{line}", f"the key {name!r} is not a word")
        if name in values:
            raise UserError(f"{place}:{line}: {full}", f"stands twice (first in line {lines.get(full, line)})")
        lines[full] = line
        values[name] = _build(loader, value_node, place, full, lines)
    return values


def _int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits")
    return int(text.replace("_", ""), 16 if "x" in text else 10)


def _float(text: str) -> float:
    plain = text.replace("_", "").lower()
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
