"""Copy what makes a run's numbers checkable, small and without the paths of a machine.

    python benchmarks/keep_results.py runs/digits_propos_* --to docs/results/digits

Of each run its resolved config, its scores, and of metrics.jsonl at most so many rows of a phase, evenly spread, the
last one among them, with four significant digits and times in seconds since the first.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROWS = 25  # of a phase
WHOLE = ("config.yml", "evaluation.json")
FOLDERS = re.compile(r"(?<![\w./:])/(?:[\w.+-]+/)+")  # of an absolute path


def main(words: list[str]) -> int:
    """Copy each run that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder for each run goes there")
    chosen = parser.parse_args(words)
    for run in chosen.runs:
        if not (run / "metrics.jsonl").is_file():
            print(f"error: {run}: no run: it has no metrics.jsonl", file=sys.stderr)
            return 2
        keep(run, chosen.to / run.name)
    return 0


def keep(run: Path, target: Path) -> None:
    """The small copy of one run."""
    target.mkdir(parents=True, exist_ok=True)
    for name in WHOLE:
        if (run / name).is_file():
            (target / name).write_text(portable((run / name).read_text(encoding="utf-8")), encoding="utf-8")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = "".join(json.dumps(short(row, rows[0]["time"])) + "\n" for row in thinned(rows))
    (target / "metrics.jsonl").write_text(portable(kept), encoding="utf-8")


def portable(text: str) -> str:
    """Absolute paths without their folders."""
    return FOLDERS.sub("", text)


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `ROWS` rows of each phase, in their order; headers all."""
    places = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.get("phase", f"header {place}")].append(place)
    chosen = {own[round(i * (len(own) - 1) / (ROWS - 1))] for own in places.values() for i in range(ROWS)}
    return [rows[place] for place in sorted(chosen)]


def short(row: dict[str, Any], begun: float) -> dict[str, Any]:
    """Four significant digits; time in seconds since the first row."""
    values = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
    return values | {"time": round(row["time"] - begun, 1)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
