"""What a run has written, read in one way for all who show it. Needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import read_json
from utils.yaml_text import Values, read_yaml

if TYPE_CHECKING:
    from training.run_dir import RunDirectory

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a run has written. rows: of metrics.jsonl, without those that a resumed run went through again."""

    path: Path
    config: Values
    evaluation: dict[str, Any] | None
    rows: list[Row]
    header: Row


def read_record(directory: "RunDirectory") -> Record:
    """The files of a run. Raises UserError where one is damaged."""
    rows, header = read_rows(directory.metrics)
    evaluation = directory.path / "evaluation.json"
    judged = read_json(evaluation) if evaluation.is_file() else None
    return Record(directory.path, read_yaml(directory.config)[0], judged, rows, header)


def read_rows(metrics: Path) -> tuple[list[Row], Row]:
    """Rows of metrics.jsonl and the newest header above them; neither where the file is not there yet.

    A row counts once: where a run was resumed, those after the step it was resumed at are the new ones. The last line
    may be half written.

    Raises:
        UserError: another line that is no JSON, or no row.
    """
    rows: list[Row] = []
    header: Row = {}
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines() if metrics.is_file() else []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) - 1:  # it was being written when the run was stopped
                break
            raise UserError(f"{metrics}:{number + 1}", "is no JSON") from None
        if not isinstance(row, dict) or not (row.get("header") or row.keys() >= {"phase", "step", "epoch"}):
            raise UserError(f"{metrics}:{number + 1}", "is no row of a run")
        if row.get("header"):
            header, rows = row, [old for old in rows if old["step"] <= row.get("resumed_at_step", 0)]
        else:
            rows.append(row)
    return rows, header
