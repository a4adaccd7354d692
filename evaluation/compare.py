"""Runs side by side: what differs in their configs, their scores with protocol, their curves and their speed.

Only what the runs have written is read: nothing is computed anew, and their images need not be there.
"""

import os
from pathlib import Path
from statistics import median
from typing import Any

from evaluation.places import check_file
from evaluation.plot import Line, Panel, draw
from evaluation.record import Record, read_record
from evaluation.several_runs import numbers_of
from training.run_dir import find_run
from utils.config import diff_keys
from utils.errors import UserError
from utils.files import write_json
from utils.yaml_text import Values

CURVES = {("train", "loss"): "loss", ("eval", "acc"): "ACC", ("eval", "nmi"): "NMI", ("eval", "ari"): "ARI"}
PLACE = ("run.name", "run.folder")  # differ by nature


def compare(paths: list[Path], out: Path) -> dict[str, Any]:
    """What `main.py compare` does: prints a table, draws the curves to `out`, writes the table beside it as JSON.

    Raises:
        UserError: fewer than two runs, no run there, or a damaged file of one.
    """
    if len(paths) < 2:
        raise UserError("compare", f"{len(paths)} run given", "give two or more")
    check_file("--out", out)
    if out.suffix == ".json":
        raise UserError(f"--out {out}", "it is the plot; the table is written beside it as .json", "name a .png")
    records = [read_record(find_run(path)) for path in paths]
    found = side_by_side(records)
    if os.environ.get("RANK", "0") == "0":  # needs no process group
        print(table(found))
        write_json(out.with_suffix(".json"), found)
        drawn = panels(records)
        if drawn:
            draw(out, drawn)
        print(f"wrote {out.with_suffix('.json')}" + (f" and {out}" if drawn else ""), flush=True)
    return found


def side_by_side(records: list[Record]) -> dict[str, Any]:
    """Names of facts, each with one value a run (None where a run has none), in the parts of the table."""
    first = records[0].config
    keys = {key for record in records[1:] for key in diff_keys(first, record.config)} - set(PLACE)
    judged = [record.evaluation or {} for record in records]
    numbers = [numbers_of(each) if each else {} for each in judged]
    names = list(dict.fromkeys(name for each in numbers for name in each))
    speeds = [[row["images_per_second"] for row in record.rows if "images_per_second" in row] for record in records]
    return {
        "runs": [str(record.path) for record in records],
        "config": {key: [_lookup(record.config, key) for record in records] for key in sorted(keys)},
        "protocol": {
            "data": [each.get("data") for each in judged],
            "rows": [each.get("protocol") for each in judged],
            "clustered": [each.get("features") for each in judged],
            "clusters": [each.get("n_clusters") for each in judged],
            "epoch": [each.get("epoch") for each in judged],
            "knn": [(each.get("knn") or {}).get("protocol") for each in judged],
            "linear": [(each.get("linear") or {}).get("protocol") for each in judged],
            "retrieval": [(each.get("retrieval") or {}).get("protocol") for each in judged],
        },
        "scores": {name: [each.get(name) for each in numbers] for name in names},
        "speed": {
            "images per second (median of epochs)": [median(each) if each else None for each in speeds],
            "ranks": [record.header.get("world") for record in records],
            "device": [record.header.get("device") for record in records],
        },
    }


def table(found: dict[str, Any]) -> str:
    """`side_by_side` as lines for a terminal: a column a run."""
    heads = _short(found["runs"])
    parts = {part: facts for part, facts in found.items() if part != "runs"}
    cells = {part: {name: [_cell(value) for value in row] for name, row in facts.items()}
             for part, facts in parts.items()}  # fmt: skip
    rows = [row for facts in cells.values() for row in facts.values()]
    wide = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    width = max(len(name) for facts in cells.values() for name in facts) + 2
    lines = [f"{'':{width}}" + "".join(f"  {head:>{size}}" for head, size in zip(heads, wide, strict=True))]
    for part, facts in cells.items():
        lines.append(part if facts else f"{part}: no difference" if part == "config" else f"{part}: none")
        for name, row in facts.items():
            values = "".join(f"  {cell:>{size}}" for cell, size in zip(row, wide, strict=True))
            lines.append(f"  {name:{width - 2}}{values}")
    return "\n".join(lines)


def panels(records: list[Record]) -> list[Panel]:
    """A panel a curve that at least one run has, over epochs, with a line a run."""
    found = []
    heads = _short([str(record.path) for record in records])
    for (phase, name), title in CURVES.items():
        lines = []
        for head, record in zip(heads, records, strict=True):
            points = [(row["epoch"], row[name]) for row in record.rows if row["phase"] == phase and name in row]
            numbers = [(float(x), float(y)) for x, y in points if isinstance(y, int | float)]  # NaN is a word there
            if numbers:
                lines.append(Line(head, numbers))
        if lines:
            found.append(Panel(title, "epoch", lines))
    return found


def _short(runs: list[str]) -> list[str]:
    """The names of the runs' folders, or their paths where two folders have one name."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else runs


def _lookup(values: Values, key: str) -> Any:
    """The value of a dotted key, "null" where it is that, None where the config has no such key."""
    *sections, last = key.split(".")
    for name in sections:
        values = values.get(name) or {}
    return None if last not in values else "null" if values[last] is None else values[last]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
