"""Config sections in words: what a field takes, for error messages and for the reference page."""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from utils.errors import did_you_mean

WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path", type(None): "null"}
BOUNDS = (
    (annotated_types.Ge, "ge", "at least"),
    (annotated_types.Gt, "gt", "above"),
    (annotated_types.Le, "le", "at most"),
    (annotated_types.Lt, "lt", "below"),
)


def describe(annotation: Any) -> str:
    """What a field of this type takes, in words: `float | None` is 'a number or null'."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if hasattr(annotation, "__metadata__"):  # Annotated[...]
        return describe(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(value) for value in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} ({', '.join(describe(part) for part in arguments)})"
    if origin in (tuple, list):
        return f"a list ({describe(arguments[0])})"
    return "keys of its own"


def choices(annotation: Any) -> list[str]:
    """The words of a Literal, also where it may be null instead; empty for any other type."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in choices(part)]


def explain(error: Any, model: type[BaseModel], name: str, value: Any) -> str:
    """What is wrong with `value` for the field `name` of `model`: one of pydantic's errors in this project's words."""
    kind, known = error["type"], model.model_fields.get(name)
    if kind == "extra_forbidden":
        return f"no such key{did_you_mean(name, model.model_fields)}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if known is None:
        return str(error["msg"])
    if kind == "missing" and error["loc"][-1] == name:
        return f"missing; it takes {describe(known.annotation)}"
    shown = repr(value) if isinstance(value, str) else in_yaml(value)
    default = "" if known.is_required() else f" (default {default_of(known)})"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{shown} is not {bounds(known)}{default}"
    if kind == "literal_error" and isinstance(value, str):
        return f"{shown} is unknown{did_you_mean(value, choices(known.annotation))}"
    if kind.endswith(("_type", "_parsing", "_error")) or kind in ("missing", "too_long", "too_short", "int_from_float"):
        return f"{shown} is not {describe(known.annotation)}{default}"
    return f"{shown}: {error['msg'][0].lower()}{error['msg'][1:]}{default}"


def bounds(field: FieldInfo) -> str:
    """The limits of a field, in words: 'at least 0, below 1'; empty where it has none."""
    return ", ".join(
        f"{word} {getattr(limit, name)}"
        for kind, name, word in BOUNDS
        for limit in field.metadata
        if isinstance(limit, kind)
    )


def default_of(field: FieldInfo) -> str:
    """The default as YAML would say it; 'required' where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see its keys"
    return in_yaml(value)


def in_yaml(value: Any) -> str:
    """A plain value as one would write it in a config."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(in_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {in_yaml(item)}' for key, item in value.items())}}}"
    return str(value)


def nested_model(field: FieldInfo) -> type[BaseModel] | None:
    """The section inside this field (also where it may be null instead), None for a plain value."""
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def document(sections: Mapping[str, Any]) -> str:
    """The reference of all keys in Markdown. `sections`: as `utils.config.validate` takes them."""
    parts = [
        "# Every config key",
        "Generated from the sections in the code; a test fails when it is stale.",
        "A later source wins: the default, the files in the order given, `section.key=value` on the command line.",
    ]
    for section, models in sections.items():
        variants = models if isinstance(models, Mapping) else {"": models}
        for name, model in variants.items():
            parts.append(f"## {section}" + (f" (`{section}.name: {name}`)" if name else ""))
            parts.append(" ".join((model.__doc__ or "").split()))
            header = ["| key | takes | default | meaning |", "|---|---|---|---|"]
            parts.append("\n".join(header + _rows(section, model)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(prefix: str, model: type[BaseModel]) -> list[str]:
    """One table row a key, those of nested sections below their own."""
    rows = []
    for name, field in model.model_fields.items():
        limits = bounds(field)
        takes = describe(field.annotation) + (f", {limits}" if limits else "")
        cells = [f"`{prefix}.{name}`", takes, f"`{default_of(field)}`", field.description or ""]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        inner = nested_model(field)
        if inner is not None:
            rows += _rows(f"{prefix}.{name}", inner)
    return rows
