"""What the runs of benchmarks/methods.py gave, and the table of it."""

import json
import statistics
from pathlib import Path
from typing import Any

from utils.config import compose
from utils.duration import duration
from utils.files import read_json

SCORES = ("acc", "nmi", "ari")
HEADER = ("", "read-out", "ACC", "NMI", "ARI", "kNN", "linear probe", "images/s", "time", "images seen", "runs")


def record_of(path: Path) -> dict[str, Any]:
    """Scores with their protocol, and speed, of the complete run in `path`.

    seconds: from the first step to the end of the last epoch, E-steps included, evaluation left out. images: rows
    shown in all optimiser steps, each as two views or more. images_per_second: median over epochs.
    """
    found = read_json(path / "evaluation.json")
    header, *rows = (json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
    epochs = [row for row in rows if row.get("phase") == "epoch"]
    environment = read_json(path / "environment.json")
    global_batch = compose([path / "config.yml"]).values["optim"]["global_batch"]
    return {
        **{key: found[key] for key in ("data", "protocol", "features", "n_clusters", "epoch", "finished")},
        **{key: found[key] for key in ("scores", "embedding", "baselines", "knn", "linear")},
        "images_per_second": statistics.median(row["images_per_second"] for row in epochs),
        "seconds": epochs[-1]["time"] - header["time"],
        "images": epochs[-1]["step"] * global_batch,
        "command": environment["command"],
        "commit": environment["git"],
    }


def table(report: dict[str, Any]) -> str:
    """Markdown: a row a method, its mean over seeds with least and most; KMeans of pixels below; then what failed."""
    done = [record for record in report["runs"] if record["status"] == "completed"]
    rows = [list(HEADER), ["---"] * len(HEADER)]
    for method in dict.fromkeys([record["method"] for record in report["runs"]] + report["missing"]):
        rows += _method_rows(method, [record for record in report["runs"] if record["method"] == method])
    baselines: dict[str, dict[int, dict[str, float]]] = {}
    for record in done:  # every method has the same pixels: one run a seed tells
        for baseline in record["baselines"]:
            baselines.setdefault(baseline["features"], {}).setdefault(record["seed"], baseline["scores"])
    for features, by_seed in baselines.items():
        scores = [_spread([found[key] for found in by_seed.values()]) for key in SCORES]
        rows.append(["KMeans", features, *scores, "-", "-", "-", "-", "-", str(len(by_seed))])
    lines = [_protocol(report, done), "", *(f"| {' | '.join(row)} |" for row in rows)]
    failed = [record for record in report["runs"] if record["status"] == "failed"]
    lines += [f"{record['method']} seed {record['seed']} failed: {record['reason']}" for record in failed]
    return "\n".join(lines)


def _method_rows(method: str, records: list[dict[str, Any]]) -> list[list[str]]:
    """The method's own read-out; below it, where that is a cluster head, a clustering of the embedding."""
    done = [record for record in records if record["status"] == "completed"]
    if not done:
        why = f"failed: {records[0]['reason']}" if records else "missing: this suite has no config for it"
        return [[method, why, *["-"] * (len(HEADER) - 3), f"0 of {len(records)}"]]
    numbers = [_spread([record["scores"][key] for record in done]) for key in SCORES]
    numbers += [_spread([record[judge]["accuracy"] for record in done]) for judge in ("knn", "linear")]
    numbers.append(f"{statistics.mean(record['images_per_second'] for record in done):,.0f}")
    numbers.append(duration(statistics.mean(record["seconds"] for record in done)))
    numbers.append(f"{statistics.mean(record['images'] for record in done):,.0f}")
    n_runs = str(len(done)) if len(done) == len(records) else f"{len(done)} of {len(records)}, others failed"
    rows = [[method, done[0]["features"], *numbers, n_runs]]
    if done[0]["embedding"] is not None:
        name, features = done[0]["embedding"]["name"], done[0]["embedding"]["features"]
        numbers = [_spread([record["embedding"]["scores"][key] for record in done]) for key in SCORES]
        rows.append([method, f"{features}, {name}", *numbers, *["-"] * 5, n_runs])
    return rows


def _protocol(report: dict[str, Any], done: list[dict[str, Any]]) -> str:
    """What the numbers are of: mean over seeds, (least to most)."""
    if not done:
        return f"suite {report['suite']}: no run is complete"
    one = done[0]
    seeds = sorted({record["seed"] for record in report["runs"]})
    unfinished = "" if all(record["finished"] for record in done) else " (some runs not finished)"
    return (
        f"{one['data']}: {one['protocol']}; K = {one['n_clusters']}; seeds {', '.join(map(str, seeds))}; "
        f"{report['world']} processes; {report['machine']}{unfinished}. kNN-{one['knn']['neighbors']}: "
        f"{one['knn']['protocol']}. Linear probe: {one['linear']['protocol']}. Mean (least to most)."
    )


def _spread(values: list[float]) -> str:
    """'0.9646 (0.9616 to 0.9672)', one value alone as it is."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
