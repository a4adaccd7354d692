"""How many clusters the embedding of a run holds, by scores that need no classes: a table, a plot, a word of advice."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from evaluation.places import check_folder
from evaluation.plot import Line, Panel, draw
from evaluation.progress import Progress
from models.parts.centers import EStepConfig
from torch_clustering import ChoiceOfK, choose_n_clusters
from training.begin import open_run
from training.build import Run, start
from training.embed import map_rows
from training.init_from import stored_settings
from training.run_dir import find_run
from utils import distributed
from utils.errors import UserError
from utils.files import write_json

TITLES = {
    "silhouette": "silhouette, high is good",
    "calinski_harabasz": "Calinski-Harabasz, high is good",
    "davies_bouldin": "Davies-Bouldin, low is good",
    "bic": "BIC of K-means, low is good",
    "stability": "stability under subsampling, high is good",
    "stable_clusters": "clusters found again, of K",
}


def sweep_k(path: Path, words: str, out: Path | None) -> ChoiceOfK:
    """What `main.py sweep-k` does: sweep_k.json and sweep_k.png in `out`, by default the run's folder. Collective.

    words: the candidates, as 2:50, 2:100:7 (every seventh) or 5,10,20.

    Raises:
        UserError: no run there, or a K that its images cannot be cut into.
    """
    candidates, directory = read_candidates(words), find_run(path)
    folder = out or path
    check_folder("--out", folder)
    settings = stored_settings(path)
    run = open_run(settings, directory, start(settings.run))
    check_candidates(candidates, run.source.n_rows)
    rows = run.store.shard(distributed.rank(), distributed.world())
    features = map_rows(
        run.method.embed, run.method, run.feed.store, run.feed.views, rows, settings.optim.precision
    )  # (n, D)
    try:
        choice = choose_k(features, candidates, settings.estep, settings.run.seed)
    except ValueError as error:  # rows that are not finite, or too few different ones
        raise UserError(str(path), f"its features cannot be clustered: {error}") from None
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "sweep_k.json", as_json(run, choice))
        draw(folder / "sweep_k.png", panels(choice))
        print(f"{run.source.name}: {run.source.protocol}; {run.method.embed_name}, epoch {run.clock.epoch:g}")
        print(f"{choice}\nwrote {folder / 'sweep_k.json'} and {folder / 'sweep_k.png'}", flush=True)
    return choice


def choose_k(features: Tensor, candidates: Sequence[int], config: EStepConfig, seed: int) -> ChoiceOfK:
    """The scores of each K, and the K they recommend, of all ranks' rows at length 1, as the E-step sees them.

    features: (n, D) this rank's rows. KMeans by the E-step's metric (of a mixture too), with its `n_init` restarts;
    stability by ten subsamples. Beside the rows: their copy at length 1, a subsample of 80 %, and blocks of bounded
    size; never N x N. Collective.
    """
    metric: Literal["cosine", "euclidean"] = "cosine" if config.metric == "spherical" else "euclidean"
    teller = _Teller(Progress("sweep-k, values of K", len(candidates)))
    log = logging.getLogger("torch_clustering.choose_k")
    level = log.level
    log.addHandler(teller)
    log.setLevel(logging.INFO)  # it says one line a K
    try:
        return choose_n_clusters(
            F.normalize(features, dim=1), candidates, metric=metric, n_init=config.n_init, random_state=seed,
            group=distributed.everyone(),
        )  # fmt: skip
    finally:
        log.setLevel(level)
        log.removeHandler(teller)


def read_candidates(words: str) -> Sequence[int]:
    """The numbers that 2:50, 2:100:7 or 5,10,20 name, ascending. Raises UserError for anything else."""
    found: Sequence[int] = []
    try:
        if ":" not in words:
            found = sorted({int(word) for word in words.split(",")})
        else:
            first, last, *step = (int(word) for word in words.split(":"))
            found = range(first, last + 1, *step)
    except (ValueError, TypeError):
        pass
    if not found or found[0] < 2 or found[-1] < found[0]:
        raise UserError("--k", f"'{words}' names no numbers from 2 on", "for instance --k 2:50, 2:100:7 or 5,10,20")
    return found


def check_candidates(candidates: Sequence[int], n_rows: int) -> None:
    """Raise UserError where a subsample of the rows could not be cut into the largest K."""
    most = n_rows * 7 // 10  # subsamples hold about 80 % of the rows, by draw
    if candidates[-1] > most:
        raise UserError("--k", f"K = {candidates[-1]} of {n_rows} images", f"at most {most}")


def as_json(run: Run, choice: ChoiceOfK) -> dict[str, Any]:
    """What sweep_k.json holds: the scores with their protocol, the recommendation, its reason and its doubt."""
    return {
        "data": run.source.name,
        "protocol": run.source.protocol,
        "method": run.settings.method.name,
        "features": run.method.embed_name,
        "epoch": run.clock.epoch,
        "seed": run.settings.run.seed,
        "metric": run.method.estep.metric,
        "n_init": run.method.estep.n_init,
        "n_clusters": choice.n_clusters,
        "reason": choice.reason,
        "doubt": choice.doubt,
        "scores": [asdict(row) for row in choice.scores],
    }


def panels(choice: ChoiceOfK) -> list[Panel]:
    """A panel a score over K, with the recommended K marked."""
    found = []
    for name, title in TITLES.items():
        points = [(row.n_clusters, getattr(row, name)) for row in choice.scores]
        known = [(float(count), value) for count, value in points if not math.isnan(value)]
        if known:
            found.append(Panel(title, "K", [Line("", known)], mark=float(choice.n_clusters)))
    return found


class _Teller(logging.Handler):
    """Counts the lines that the library logs, one a K."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.add()
