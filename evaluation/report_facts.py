"""What a run's files tell the page: curves, the monitors' warnings, skipped files, settings. Needs no torch."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.record import Row, read_record
from training.alarms import Watch
from utils.duration import duration
from utils.files import read_json

if TYPE_CHECKING:
    from training.run_dir import RunDirectory

MOST_POINTS = 300  # of a curve; longer ones are averaged
MOST_SKIPPED = 500  # files that are named

# title, phase of metrics.jsonl, names of its lines; "*" are the parts of the loss
PANELS = (
    ("Loss", "train", ("loss",)),
    ("Parts of the loss", "train", ("*",)),
    ("Scores between epochs", "eval", ("acc", "nmi", "ari")),
    ("Learning rate", "train", ("learning_rate",)),
    ("Spread of the features (about 1; collapsed 0)", "train", ("feature_std",)),
    ("Effective rank of the features", "train", ("rankme", "participation")),
    ("Distance of two views of an image", "train", ("view_distance",)),
    ("Uniformity on the sphere (lower is more even)", "train", ("uniformity",)),
    ("Images per second", "epoch", ("images_per_second",)),
    ("Share of the time spent waiting for data", "epoch", ("waited_for_data",)),
)
CLUSTER_PANELS = (
    ("Share of images that changed cluster", "estep", ("churn",)),
    ("Images in the largest and the smallest cluster", "estep", ("largest", "smallest")),
    ("Empty clusters", "estep", ("empty",)),
    ("Evenness of the sizes (entropy; 1: all alike)", "estep", ("entropy",)),
)
NO_PARTS = {"time", "step", "epoch", "phase", "loss", *(name for _, _, names in PANELS for name in names)}


def read_facts(directory: "RunDirectory") -> dict[str, Any]:
    """The parts of the page that need no network. Raises UserError where a file of the run is damaged."""
    record = read_record(directory)
    environment = directory.path / "environment.json"
    times = [row["time"] for row in record.rows if "time" in row]
    return {
        "evaluation": record.evaluation,
        "curves": panels(record.rows, PANELS),
        "cluster_curves": panels(record.rows, CLUSTER_PANELS),
        "warnings": warnings_of(record.rows),
        "skipped": read_skipped(directory.path / "skipped.csv"),
        "config": directory.config.read_text(encoding="utf-8"),
        "environment": read_json(environment) if environment.is_file() else {},
        "took": duration(times[-1] - record.header["time"]) if times and "time" in record.header else None,
    }


def panels(rows: list[Row], wanted: tuple[tuple[str, str, tuple[str, ...]], ...]) -> list[dict[str, Any]]:
    """Titles with their lines, over epochs; without what is not written, or empty clusters where none was."""
    found = []
    for title, phase, names in wanted:
        mine = [row for row in rows if row["phase"] == phase]
        if names == ("*",):
            names = tuple(dict.fromkeys(name for row in mine for name in row if name not in NO_PARTS))
        lines = [{"name": name, "points": curve(mine, name)} for name in names]
        lines = [
            line for line in lines if line["points"] and (line["name"] != "empty" or any(y for _, y in line["points"]))
        ]
        if lines:
            found.append({"title": title, "lines": lines})
    return found


def curve(rows: list[Row], name: str) -> list[tuple[float, float]]:
    """(epoch, value), at most 300, each the mean of as many neighbours; what is not finite, a word there, is left out.

    The first and the last value stay as they are.
    """
    points = [(row["epoch"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    width = -(-len(points) // MOST_POINTS)
    if width <= 1:
        return points
    blocks = [points[start : start + width] for start in range(1, len(points) - 1, width)]
    means = [(sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block)) for block in blocks]
    return [points[0], *means, points[-1]]


def warnings_of(rows: list[Row]) -> list[str]:
    """What the monitors said during training: they are asked again, of what metrics.jsonl holds."""
    watch, told, were_empty = Watch(), [], False
    for row in rows:
        said: list[str] = []
        if row["phase"] == "train" and _numbers(row, "feature_std", "rankme"):
            said += watch.features(row)
        if row["phase"] == "train" and _numbers(row, "selected"):
            said += watch.selection(row["selected"])
        if row["phase"] == "epoch" and _numbers(row, "waited_for_data"):
            said += watch.loader(row["waited_for_data"])
        if row["phase"] == "estep" and _numbers(row, "empty"):
            if row["empty"] and not were_empty:
                said.append(f"{row['empty']:.0f} clusters are empty, the largest holds {row['largest']:,.0f} images")
            were_empty = bool(row["empty"])
        told += [f"epoch {row['epoch']:.1f}: {text}" for text in said]
    return told


def read_skipped(path: Path) -> dict[str, Any]:
    """How many files were no images, and the first of them with the reason."""
    if not path.is_file():
        return {"total": 0, "files": []}
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    return {"total": len(lines), "files": lines[:MOST_SKIPPED]}


def _numbers(row: Row, *names: str) -> bool:
    return all(isinstance(row.get(name), int | float) for name in names)
