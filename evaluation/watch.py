"""The curves of a run in the terminal while it goes on, from what it has written. Needs no torch: it starts at once."""

import math
import os
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from evaluation.record import Row, read_rows
from evaluation.report_facts import curve, warnings_of
from evaluation.text_plot import Points, clip, draw_curve
from utils.duration import duration
from utils.errors import UserError
from utils.files import read_json
from utils.yaml_text import read_yaml

# title, phase of metrics.jsonl, name in its rows
CURVES = (
    ("loss", "train", "loss"),
    ("learning rate", "train", "learning_rate"),
    ("ACC", "eval", "acc"),
    ("NMI", "eval", "nmi"),
    ("ARI", "eval", "ari"),
    ("images/s", "epoch", "images_per_second"),
    ("churn", "estep", "churn"),
)
NARROWEST, GAP = 36, 2  # columns of a curve, columns between two
HEIGHT, LOWEST, HIGHEST = 6, 2, 12  # lines of a curve: on paper; on a terminal, which has few or many
MOST_WARNINGS = 3
CLEAR, HOME, TO_LINE_END, TO_SCREEN_END = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"


@dataclass(frozen=True)
class View:
    """What is shown of a run.

    epoch, end: epochs done, epochs it is to have. resumed_at: a step, 0 where it was not. took: seconds from there to
    the newest row. left: seconds, None where nobody knows. silent: seconds since the newest row.
    """

    path: Path
    status: str
    error: str
    curves: list[tuple[str, Points]]
    warnings: list[str]
    step: int
    epoch: float
    end: float
    resumed_at: int
    took: float
    left: float | None
    silent: float

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ("completed", "failed")


def watch(path: Path, every: float, once: bool) -> None:
    """What `main.py watch` does: draws the run every `every` seconds until it has ended; once if not on a terminal.

    Raises:
        UserError: no run there, a damaged file of it, or no such time.
    """
    if not (path / "config.yml").is_file():
        raise UserError(str(path), "no run here (config.yml is missing)", "give the folder of a run, as in runs/NAME")
    if not (every > 0 and math.isfinite(every)):
        raise UserError(f"--every {every:g}", "not a number of seconds", "for instance --every 5")
    live = not once and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    begun = False
    while True:
        view, size = look(path, time.time()), shutil.get_terminal_size()
        lines = frame(view, size.columns, size.lines - 1 if live else None, plain=not speaks_unicode(sys.stdout))
        text = "".join(f"{line}{TO_LINE_END if live else ''}\n" for line in lines)
        if live:
            text = f"{HOME if begun else CLEAR + HOME}{text}{TO_SCREEN_END}"
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
        if not live or view.ended:
            return
        begun = True
        time.sleep(every)


def look(path: Path, now: float) -> View:
    """The run as its files stand. now: seconds since 1970. Raises UserError where a file is damaged."""
    state = path / "status.json"
    told: dict[str, Any] = read_json(state) if state.is_file() else {}
    rows, header = read_rows(path / "metrics.jsonl")
    resumed = header.get("time", 0) > told.get("time", math.inf)  # and it has not said so yet: it does at a checkpoint
    status = "running" if resumed else str(told.get("status", "running"))
    found = [(title, curve([row for row in rows if row["phase"] == phase], name)) for title, phase, name in CURVES]
    newest: Row = rows[-1] if rows else {"step": 0, "epoch": 0.0}
    resumed_at = header.get("resumed_at_step", 0)
    end = _end(path / "config.yml", resumed_at, newest)
    started: float = header.get("time", now)
    written: float = max(started, newest.get("time", started))  # of a run just resumed, the newest row is older
    done = newest["epoch"] * (1 - resumed_at / max(1, newest["step"]))  # since the run was started or resumed
    left = (written - started) / done * (end - newest["epoch"]) - (now - written) if done > 0 else None
    return View(
        path=path,
        status=status,
        error=str(told.get("error", "")) if status == "failed" else "",
        curves=[(title, points) for title, points in found if points],
        warnings=warnings_of(rows),
        step=max(newest["step"], told.get("step", 0)),
        epoch=newest["epoch"],
        end=end,
        resumed_at=resumed_at,
        took=written - started,
        left=None if left is None else max(0.0, left),
        silent=max(0.0, now - written),
    )


def frame(view: View, width: int, limit: int | None, *, plain: bool) -> list[str]:
    """The lines to show, `width` columns or shorter, at most `limit` of them (None: as many as there are)."""
    above = [f"{view.status}: {view.path}", *_wrapped(view.error, width, "! "), *_wrapped(_times(view), width)]
    if view.curves:
        above.append(_bar(view, min(width, 80), plain=plain))
    below = [f"and {len(view.warnings) - MOST_WARNINGS} warnings before"] if len(view.warnings) > MOST_WARNINGS else []
    for text in view.warnings[-MOST_WARNINGS:]:
        below += _wrapped(text, width, "! ")
    side_by_side = max(1, min(len(view.curves), (width + GAP) // (NARROWEST + GAP)))
    wide = (width + GAP) // side_by_side - GAP
    bands = -(-len(view.curves) // side_by_side)
    high = HEIGHT
    if limit is not None and bands:
        room = limit - len(above) - len(below)
        bands = max(1, min(bands, room // (LOWEST + 2)))  # what does not fit is left out, from the end
        high = max(LOWEST, min(HIGHEST, room // bands - 2))
    lines = above
    for band in range(bands):
        shown = view.curves[band * side_by_side : (band + 1) * side_by_side]
        drawn = [draw_curve(title, points, wide, high, plain=plain) for title, points in shown]
        lines += [(" " * GAP).join(f"{part:{wide}}" for part in parts).rstrip() for parts in zip(*drawn, strict=True)]
    return [clip(line, width) for line in [*lines, *below]][:limit]


def speaks_unicode(stream: TextIO) -> bool:
    """Whether braille and blocks can be written to the stream."""
    try:
        "⣿│█░".encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _end(path: Path, resumed_at: int, newest: Row) -> float:
    """The epoch at which the run ends: run.max_steps may stop it sooner, unless it was resumed to go beyond."""
    config = read_yaml(path)[0]
    try:
        epochs, most = float(config["optim"]["epochs"]), config["run"]["max_steps"]
    except (KeyError, TypeError, ValueError):
        raise UserError(str(path), "has no optim.epochs or run.max_steps", "a run writes both: restore it") from None
    if most is None or not newest["step"] or max(newest["step"], resumed_at + 1) > most:
        return epochs
    return min(epochs, most / newest["step"] * newest["epoch"])


def _times(view: View) -> str:
    if not view.curves:
        return "nothing to draw: rows of metrics.jsonl come every log.every_steps steps and after an epoch"
    said = f"epoch {view.epoch:.4g} of {view.end:.4g}, step {view.step:,}, took {duration(view.took)}"
    if view.resumed_at:
        said += f" since it was resumed at step {view.resumed_at:,}"
    if view.ended:
        return said
    if view.epoch >= view.end:
        said += ", trained; scores and the page are being made"
    elif view.left is not None:
        said += f", left {duration(view.left)}"
    return f"{said}; last row {duration(view.silent)} ago"


def _bar(view: View, width: int, *, plain: bool) -> str:
    share = min(1.0, view.epoch / view.end)
    full, empty = "#-" if plain else "█░"
    done = round(share * (width - 5))
    return f"{full * done}{empty * (width - 5 - done)} {share:4.0%}"


def _wrapped(text: str, width: int, mark: str = "") -> list[str]:
    text = " ".join(text.split())
    return textwrap.wrap(text, max(width, 8), initial_indent=mark, subsequent_indent=" " * len(mark))
