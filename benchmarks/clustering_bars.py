"""What the clustering benchmark holds the library to, and how it prints what it measured."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.clustering_contenders import ELKAN, FAISS, OURS, OURS_DENSE, SKLEARN
from benchmarks.clustering_measure import Measurement


@dataclass(frozen=True)
class Bar:
    """Highest allowed ratio of our median to the best of `peers`, against peers as installed and with tuned BLAS.

    Without peers the bar is on the value itself. None: no bar, the ratio is printed. `task_of_peers`: where their
    median stands, if in another task.
    """

    task: str
    peers: tuple[str, ...]
    default: float | None
    tuned: float | None
    ours: tuple[str, ...] = (OURS,)
    task_of_peers: str | None = None


BOTH = (OURS_DENSE, OURS)
BARS = (
    Bar("pass 60000,256,10", (SKLEARN,), 0.75, 0.85, BOTH),
    Bar("pass 60000,256,10", (FAISS,), 0.55, 0.60, BOTH),
    Bar("pass 200000,128,100", (SKLEARN,), 0.58, 0.88, BOTH),
    Bar("pass 60000,256,1000", (SKLEARN,), 0.48, 1.0, BOTH),
    Bar("pass 300000,128,1000", (SKLEARN,), 0.50, 0.90, BOTH),
    Bar("fit overlap K=1000", (SKLEARN,), 0.50, 0.80),
    Bar("fit digits K=1000", (SKLEARN,), 0.50, 0.80),
    Bar("fit overlap K=100", (SKLEARN,), 0.40, 0.60),
    Bar("fit digits K=100", (SKLEARN,), 0.40, 0.60),
    Bar("fit blobs K=10 n_init=10", (SKLEARN, ELKAN), 0.18, 0.18),
    Bar("fit digits K=10 n_init=10", (SKLEARN,), None, 0.35),
    Bar("fit digits K=10 n_init=10", (ELKAN,), None, 0.55),
    Bar("k-means++ K=1000", (SKLEARN,), 0.40, 0.40),
    Bar("k-means++ K=1000, per restart of 4", (SKLEARN,), 0.17, 0.17, task_of_peers="k-means++ K=1000"),
    Bar("k-means++ K=10, 10 restarts", (SKLEARN,), 0.10, 0.10),
    Bar("GMM diag, one iteration", (SKLEARN,), 0.38, 0.38),
    Bar("GMM full, one iteration", (SKLEARN,), 0.35, 0.35),
    Bar("memory above X 1000000,128,1000", (), 32, None, BOTH),
    *(
        Bar(f"quality {name} {settings}", (SKLEARN,), 1.0005, None)
        for name in ("digits", "overlap")
        for settings in ("K=10 n_init=10", "K=50 n_init=3")
    ),
)


def judged(sections: dict[str, list[Measurement]], full_size: bool) -> list[dict[str, Any]]:
    """One row per bar and contender: the ratio, the bar and whether it is met, per section ("default", "tuned").

    `met` is None where there is no bar, no number, or the sizes are not those of the bar.
    """
    rows = []
    for bar in BARS:
        for ours in bar.ours:
            row: dict[str, Any] = {"task": bar.task, "ours": ours, "peer": " or ".join(bar.peers) or "MiB"}
            for section, limit in (("default", bar.default), ("tuned", bar.tuned)):
                ratio = ratio_of(sections.get(section, []), bar, ours)
                met = ratio <= limit if ratio is not None and limit is not None and full_size else None
                row[section] = {"ratio": ratio, "bar": limit, "met": met}
            if any(row[section]["ratio"] is not None for section in ("default", "tuned")):
                rows.append(row)
    return rows


def ratio_of(measurements: list[Measurement], bar: Bar, ours: str) -> float | None:
    """Median of ours over the least median of the peers; None where one of them is missing."""
    medians = {(m.task, m.contender): m.median for m in measurements if not math.isnan(m.median)}
    names = [(bar.task, ours), *((bar.task_of_peers or bar.task, peer) for peer in bar.peers)]
    if not all(name in medians for name in names):
        return None
    mine, *theirs = (medians[name] for name in names)
    return mine / min(theirs) if theirs else mine


def measurement_table(measurements: list[Measurement]) -> str:
    """A line per contender: median, least and greatest, number of repeats, notes; or its error."""
    lines = []
    for m in measurements:
        head = f"{m.task:<36} {m.contender:<26}"
        if m.error is not None:
            lines.append(f"{head} {m.error}")
            continue
        spread = f"{shown(min(m.values))}..{shown(max(m.values))}"
        notes = "  ".join(f"{name} {shown(value)}" for name, value in m.notes.items())
        lines.append(f"{head} {shown(m.median):>10} {m.unit:<8} {spread:<20} n={len(m.values)}  [{m.size}]  {notes}")
    return "\n".join(lines)


def bar_table(rows: list[dict[str, Any]]) -> str:
    """The ratios beside their bars, peers as installed and with tuned OpenBLAS."""
    lines = [f"{'ratio to':<36} {'':<24} {'':<26} {'as installed':>20}   {'tuned OpenBLAS':>20}"]
    for row in rows:
        cells = []
        for section in ("default", "tuned"):
            ratio, bar, met = (row[section][key] for key in ("ratio", "bar", "met"))
            verdict = {True: "met", False: "not met", None: ""}[met]
            cells.append(f"{shown(ratio, 5):>7} / {shown(bar, 5):<6} {verdict:<8}")
        lines.append(f"{row['task']:<36} {row['ours']:<24} {row['peer']:<26} {cells[0]}   {cells[1]}")
    return "\n".join(lines)


def shown(value: Any, figures: int = 4) -> str:
    """A number at so many figures, a dash for none."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.{figures}g}"


def as_record(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON holds it."""
    median = measurement.median
    return asdict(measurement) | {"median": None if math.isnan(median) else median}


def from_record(record: dict[str, Any]) -> Measurement:
    """The measurement that `as_record` wrote."""
    return Measurement(**{name: value for name, value in record.items() if name != "median"})
