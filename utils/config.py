"""From YAML files and `section.key=value` words to frozen sections; this file knows no section and no key by name.

`compose` deals in plain words and needs nothing but YAML; `validate` checks them against the sections' pydantic models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from utils import legacy
from utils.config_docs import document, explain, in_yaml, nested_model
from utils.errors import UserError, did_you_mean, visible
from utils.yaml_text import Values, parse_value, read_yaml, to_yaml

__all__ = ["Composed", "Section", "compose", "diff_keys", "document", "dump", "to_values", "validate"]

COMMAND_LINE = "command line"


class Section(BaseModel):
    """Base of all config sections: frozen, no unknown keys, no silent conversion ('12' is not 12, true is not 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


SectionModels = Mapping[str, type[Section] | Mapping[str, type[Section]]]


@dataclass(frozen=True)
class Composed:
    """The words of all files and of the command line, not yet checked.

    values: nested plain dicts. origin: dotted key -> 'FILE:LINE' or 'command line'. name: stem of the first file.
    fates: what became of each key of a flat config of the earlier ProPos repository, one line each, to be printed.
    """

    values: Values
    origin: dict[str, str]
    name: str
    fates: list[str] = field(default_factory=list)

    def locate(self, error: UserError) -> str:
        """The error in one line, with FILE:LINE in front where its place is a key that somebody set."""
        where = self.origin.get(error.place)
        return visible(f"{where}: {error}") if where else str(error)

    def where(self, key: str) -> str:
        """'FILE:LINE' or 'command line' of a dotted key, else of the nearest key around it; empty if there is none."""
        while key and key not in self.origin:
            key = key.rpartition(".")[0]
        return self.origin.get(key, "")


def compose(files: Sequence[Path], overrides: Sequence[str] = ()) -> Composed:
    """Files in order, each after its `base:` (one file or a list, relative to it), then `section.key=value` words.

    Raises:
        UserError: an unreadable file, a `base:` circle, a word without '=', an unknown key of a flat config.
    """
    composed = Composed({}, {}, Path(files[0]).stem if files else "")
    for path in files:
        _merge_file(composed, Path(path), ())
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or "." not in key.strip(". "):
            raise UserError(f"{COMMAND_LINE}: {word}", "neither a .yml or .json file nor section.key=value")
        value = parse_value(text, f"{COMMAND_LINE}: {key}")
        _merge_override(composed, key.split("."), value)
    return composed


def validate(composed: Composed, sections: SectionModels) -> dict[str, Section]:
    """Each section's frozen model. A section given as a table is chosen by its own key `name`.

    Raises:
        UserError: the first wrong key, type or value, as 'FILE:LINE: section.key' and what is wrong.
    """
    for section, values in composed.values.items():
        if section not in sections:
            _fail(composed, section, f"no such section{did_you_mean(section, sections)}")
        if not isinstance(values, dict):
            _fail(composed, section, f"{in_yaml(values)} stands where keys are expected")
    return {
        section: _validate_section(composed, section, _choose(composed, section, models))
        for section, models in sections.items()
    }


def to_values(sections: Mapping[str, Section]) -> Values:
    """The sections as nested plain dicts, every default written out."""
    return {name: section.model_dump(mode="json") for name, section in sections.items()}


def dump(sections: Mapping[str, Section]) -> str:
    """YAML that composes and validates back to equal sections."""
    return to_yaml(to_values(sections))


def diff_keys(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested dicts (a missing key differs from every value), sorted."""
    different = []
    for key in sorted(first.keys() | second.keys()):
        one, other = first.get(key, _MISSING), second.get(key, _MISSING)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            different += diff_keys(one, other, f"{prefix}{key}.")
        elif one != other:
            different.append(f"{prefix}{key}")
    return different


_MISSING = object()


def _merge_file(composed: Composed, path: Path, above: tuple[Path, ...]) -> None:
    """Lay the bases of the file, then the file itself, over what is composed so far."""
    values, lines = read_yaml(path)
    chain = (*above, path.resolve())
    origin = {key: f"{path}:{line}" for key, line in lines.items()}
    bases = values.pop("base", [])
    for base in bases if isinstance(bases, list) else [bases]:
        try:
            is_above = (path.parent / base).resolve() in chain
        except (TypeError, ValueError, RuntimeError):  # not a word, characters that no name has, links in a circle
            raise UserError(f"{origin['base']}: base", f"{in_yaml(base)} is not a file name") from None
        if is_above:
            raise UserError(f"{origin['base']}: base", f"{base} leads back to itself")
        _merge_file(composed, path.parent / base, chain)
    if legacy.is_flat(values):
        values, origin = _translate(composed, values, origin)
    # a section without keys (all commented out) takes nothing away
    _lay_over(composed.values, {section: {} if keys is None else keys for section, keys in values.items()})
    composed.origin.update(origin)


def _translate(composed: Composed, flat: Values, origin: dict[str, str]) -> tuple[Values, dict[str, str]]:
    """A flat config of the earlier ProPos repository as sections; each key has the line of its flat key."""
    try:
        nested, fates = legacy.translate(flat)
    except UserError as error:
        where = origin.get(error.place, "")
        raise UserError(f"{where}: {error.place}" if where else error.place, error.problem, error.remedy) from None
    composed.fates.extend(str(fate) for fate in fates)
    return nested, {key: origin[fate.key] for fate in fates for key in fate.became if fate.key in origin}


def _merge_override(composed: Composed, path: list[str], value: Any) -> None:
    """One `section.key=value` word over what is composed so far."""
    nested: Any = value
    for name in reversed(path):
        nested = {name: nested}
    _lay_over(composed.values, nested)
    composed.origin.setdefault(path[0], COMMAND_LINE)
    for key in _dotted(nested):
        composed.origin[key] = COMMAND_LINE


def _dotted(values: Values, prefix: str = "") -> list[str]:
    """All dotted keys of nested dicts below the sections themselves."""
    keys = []
    for name, value in values.items():
        keys += [prefix + name] if prefix else []
        keys += _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else []
    return keys


def _lay_over(below: Values, above: Values) -> None:
    """Merge `above` into `below` in place: mappings key by key, everything else replaces."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _choose(composed: Composed, section: str, models: type[Section] | Mapping[str, type[Section]]) -> type[Section]:
    """The model of a section: itself, or the entry that the section's `name` picks."""
    if not isinstance(models, Mapping):
        return models
    name = composed.values.get(section, {}).get("name")
    if name is None:
        _fail(composed, f"{section}.name", f"missing{did_you_mean('', models)}")
    if not isinstance(name, str) or name not in models:
        _fail(composed, f"{section}.name", f"{in_yaml(name)} is unknown{did_you_mean(str(name), models)}")
    return models[name]


def _validate_section(composed: Composed, section: str, model: type[Section]) -> Section:
    values = composed.values.get(section, {})
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
    # a misspelt key first: it explains a missing one
    error = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    path, holder = _resolve(model, error["loc"])
    value = error["input"] if error["type"] == "missing" and len(path) == len(error["loc"]) else _lookup(values, path)
    _fail(composed, ".".join([section, *path]), explain(error, holder, path[-1] if path else "", value))


def _resolve(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """(names down to the key, model that should hold it) of pydantic's error location; list positions are cut off."""
    path: list[str] = []
    for part in loc:
        if path:
            known = model.model_fields.get(path[-1])
            inner = nested_model(known) if known else None
            if inner is None:
                break
            model = inner
        path.append(str(part))
    return path, model


def _lookup(values: Values, path: list[str]) -> Any:
    """The value that was written under these names."""
    found: Any = values
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _fail(composed: Composed, key: str, problem: str) -> NoReturn:
    """Raise the one-line error of a key, with the file and line that set it."""
    where = composed.where(key)
    raise UserError(f"{where}: {key}" if where else key, problem)
