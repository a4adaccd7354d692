"""`report.html` of a run: one page to look at, which needs no network. Reads the run, trains nothing."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.report_clusters import confuse, describe_clusters, relate
from evaluation.report_facts import read_facts
from evaluation.report_html import build_page, packed, packed_json
from evaluation.report_map import lay_out, place_all
from evaluation.report_rows import Rows, look_at_rows
from evaluation.report_thumbnails import make_sheets
from training.begin import open_run
from training.build import Run, start
from training.init_from import stored_settings
from training.run_dir import RunDirectory, find_run
from training.settings import caveats
from utils import distributed
from utils.errors import UserError
from utils.files import write_text

NAME = "report.html"
NONE = 65535  # no cluster, no class, in 16 bits


def report(path: Path, out: Path | None) -> None:
    """What `main.py report` does: writes `out`, by default report.html in the run's folder. Collective.

    Raises:
        UserError: no run there, no checkpoint of it, a damaged file, or a place that cannot be written to.
    """
    directory = find_run(path)
    out = out or directory.path / NAME
    if out.is_dir() or not out.parent.is_dir():
        problem = "a folder" if out.is_dir() else f"'{out.parent}' is no folder"
        raise UserError(f"--out {out}", problem, "name a file in a folder that is there")
    settings = stored_settings(path)
    run = open_run(settings, directory, start(settings.run))
    size = write_report(run, directory, out)
    if distributed.is_main():
        print(f"wrote {out} ({size / 1e6:.1f} MB)", flush=True)


def report_at_end(run: Run, warn: Callable[[str], None]) -> bool:
    """Write report.html of a run that has ended. Whatever goes wrong is told by `warn`, on one line. Collective.

    Returns whether there is a page now; of a run without a directory (`run.debug`) there is none.
    """
    if run.directory is None:
        return False
    try:
        write_report(run, run.directory, run.directory.path / NAME)
        return True
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        warn(f"report.html is not written: {problem}; main.py report {run.directory.path} tries again")
        return False


def write_report(run: Run, directory: RunDirectory, out: Path) -> int:
    """Write the page of the run as it stands; its size in bytes, 0 on ranks other than 0. Collective."""
    rows = look_at_rows(run)
    if not distributed.is_main():
        return 0
    page = build_page(gather_page(run, directory, rows), f"{directory.path.name} · Emblem")
    write_text(out, page)
    return len(page.encode())


def gather_page(run: Run, directory: RunDirectory, rows: Rows) -> dict[str, Any]:
    """All that the page shows, as JSON. Rank 0 alone calls."""
    truth, facts = run.source.read_truth(None), read_facts(directory)
    places, layout = lay_out(rows.features, run.settings.run.seed)
    xy = place_all(places, rows.shown, rows.sample, rows.neighbors, run.settings.run.seed)
    facts["warnings"] = caveats(run.settings) + facts["warnings"]
    return {
        "run": describe_run(run, directory),
        **facts,
        "clusters": describe_clusters(rows, truth),
        "tree": relate(rows.means),
        "class_names": None if truth is None else run.source.class_names(),
        "confusion": confuse(rows.cluster, truth, run.method.n_clusters),
        "layout": {"name": layout, "sample": len(rows.sample), "shown": len(rows.shown)},
        "thumbnails": make_sheets(run.source, rows.sample),
        "columns": {
            "row": packed(np.diff(rows.shown.numpy(), prepend=0).astype(np.uint32)),  # steps pack better
            "x": packed(xy[:, 0]),
            "y": packed(xy[:, 1]),
            "cluster": packed(_sixteen(rows.cluster[rows.shown])),
            "truth": None if truth is None else packed(_sixteen(truth[rows.shown])),
            "runner_up": packed(_sixteen(rows.runner_up[rows.shown])),
            "confidence": packed((rows.confidence[rows.shown].clamp(0, 1) * 65535).round().numpy().astype(np.uint16)),
            "sample": packed(np.diff(torch.searchsorted(rows.shown, rows.sample).numpy(), prepend=0).astype(np.uint32)),
            "neighbors": packed(_sixteen(rows.neighbors)),
            "names": packed_json([run.source.path(row) for row in rows.shown.tolist()]),
        },
    }


def describe_run(run: Run, directory: RunDirectory) -> dict[str, Any]:
    """What the head of the page says."""
    return {
        "name": directory.path.name,
        "method": run.settings.method.name,
        "data": run.source.name,
        "protocol": run.source.protocol,
        "rows": run.source.n_rows,
        "features": run.method.embed_name,
        "n_clusters": run.method.n_clusters,
        "epoch": run.clock.epoch,
        "epochs": run.clock.epochs,
        "finished": run.clock.finished,
        "seed": run.settings.run.seed,
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }


def _sixteen(numbers: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return numbers.masked_fill(numbers < 0, NONE).numpy().astype(np.uint16)
