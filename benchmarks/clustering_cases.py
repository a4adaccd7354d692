"""The cases of the clustering benchmark. N rows, D features, K clusters.

A case yields measurements; functions that end in `turn` measure one contender once and return its value and notes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import clustering_contenders as contend
from benchmarks.clustering_contenders import ELKAN, FAISS, OURS, OURS_DENSE, SKLEARN, Fit, Task
from benchmarks.clustering_data import rows
from benchmarks.clustering_measure import Measurement, Notes, Run, cpu_seconds, in_turn, inertia

EXACT = [SKLEARN, ELKAN, OURS]
LARGE = [SKLEARN, OURS]  # elkan's N x K bounds do not pay at K = 1000


def passes(run: Run) -> Iterator[Measurement]:
    """One Lloyd pass: (T(1 + p passes) - T(1 pass)) / p from the same first centres, tol = 0."""
    shapes = ((60_000, 256, 10, 8, 7), (200_000, 128, 100, 4, 5), (60_000, 256, 1000, 4, 3), (300_000, 128, 1000, 2, 3))
    for n_rows, width, n_clusters, more, repeats in shapes:
        x, k = rows("overlap", run.rows(n_rows), width), run.clusters(n_clusters)
        names = [FAISS, OURS_DENSE, *(LARGE if n_clusters == 1000 else EXACT)]
        task, start = f"pass {n_rows},{width},{n_clusters}", first_rows(x, k)
        yield from in_turn(
            measured("pass", task, f"{len(x)},{width},{k}", names, "ms"),
            {name: partial(one_pass, name, x, start, more, run.best_gflops) for name in names},
            run.count(repeats),
        )


def one_pass(name: str, x: np.ndarray, start: np.ndarray, more: int, best: float, turn: int) -> tuple[float, Notes]:
    """Milliseconds per pass; GFLOP/s of its products, as if all were made, and their share of the best GEMM."""
    # memory that the contender before left cold would be counted against the first of the two fits alone
    contend.kmeans(name)(x, Task(len(start), start, max_iter=1, tol=0.0))
    one, _ = cpu_seconds(lambda: contend.kmeans(name)(x, Task(len(start), start, max_iter=1, tol=0.0)))
    all_, _ = cpu_seconds(lambda: contend.kmeans(name)(x, Task(len(start), start, max_iter=1 + more, tol=0.0)))
    seconds = (all_ - one) / more
    gflops = 2 * x.size * len(start) / seconds / 1e9
    return 1e3 * seconds, {"GFLOP/s": gflops, "of best GEMM": gflops / best}


def fits(run: Run) -> Iterator[Measurement]:
    """A whole fit from the same K rows, to convergence (tol 1e-4, at most 300 passes)."""
    for n_clusters, names, repeats in ((1000, LARGE, 1), (100, EXACT, 3)):
        for name in ("overlap", "digits"):
            x, k = rows(name, run.rows(60_000), 256), run.clusters(n_clusters)
            make = partial(Task, k, first_rows(x, k))
            yield from whole_fits(run, f"fit {name} K={n_clusters}", x, k, names, make, repeats)


def restarts(run: Run) -> Iterator[Measurement]:
    """A whole fit with K = 10 and ten restarts of k-means++, with another seed in each turn."""
    for name in ("blobs", "digits"):
        x = rows(name, run.rows(60_000), 256)
        yield from whole_fits(run, f"fit {name} K=10 n_init=10", x, 10, EXACT, partial(Task, 10, n_init=10), 3)


def whole_fits(
    run: Run, task: str, x: np.ndarray, n_clusters: int, names: list[str], make: Callable[..., Task], repeats: int
) -> list[Measurement]:
    """CPU seconds of whole fits, after two passes over a few rows by each contender."""
    few = x[:2000]
    small = Task(10, first_rows(few, 10), max_iter=2)
    return in_turn(
        measured("fit", task, f"{len(x)},{x.shape[1]},{n_clusters}", names, "s"),
        {name: partial(one_fit, name, x, make) for name in names},
        run.count(repeats),
        {name: partial(contend.kmeans(name), few, small) for name in names},
    )


def one_fit(name: str, x: np.ndarray, make: Callable[..., Task], turn: int) -> tuple[float, Notes]:
    """Seconds of a fit; its passes (of the best restart) and inertia."""
    seconds, found = cpu_seconds(lambda: contend.kmeans(name)(x, make(seed=turn)))
    return seconds, {"n_iter": found.n_iter, "inertia": found.inertia}


def seeding(run: Run) -> Iterator[Measurement]:
    """Greedy k-means++: K = 1000 alone, per restart of four, and ten times K = 10."""
    x, large = rows("digits", run.rows(60_000), 256), run.clusters(1000)
    tasks = (
        ("k-means++ K=1000", large, {SKLEARN: 1, OURS: 1}, 1, 2),
        ("k-means++ K=1000, per restart of 4", large, {OURS: 4}, 4, 1),
        ("k-means++ K=10, 10 restarts", 10, {SKLEARN: 10, OURS: 10}, 1, 5),
    )
    for task, k, how_many, shared_by, repeats in tasks:
        yield from in_turn(
            measured("seeding", task, f"{len(x)},256,{k}", list(how_many), "s"),
            {name: partial(one_seeding, name, x, k, n, shared_by) for name, n in how_many.items()},
            run.count(repeats),
            {name: partial(contend.seeds(name), x[:2000], 10, n, 0) for name, n in how_many.items()},
        )


def one_seeding(name: str, x: np.ndarray, k: int, n_restarts: int, shared_by: int, turn: int) -> tuple[float, Notes]:
    """Seconds over `shared_by`; the potential that the first restart leaves on 5000 rows."""
    seconds, centers = cpu_seconds(lambda: contend.seeds(name)(x, k, n_restarts, turn))
    return seconds / shared_by, {"potential": inertia(x[:5000], np.asarray(centers[0]))}


def mixtures(run: Run) -> Iterator[Measurement]:
    """One EM iteration of a Gaussian mixture: (T(1 + 5) - T(1)) / 5 from the same parameters."""
    x = rows("overlap", run.rows(60_000), 64)
    for kind in ("diag", "full"):
        yield from in_turn(
            measured("gmm", f"GMM {kind}, one iteration", f"{len(x)},64,10", [SKLEARN, OURS], "ms"),
            {name: partial(one_iteration, name, x, kind) for name in (SKLEARN, OURS)},
            run.count(5),
        )


def one_iteration(name: str, x: np.ndarray, kind: str, turn: int) -> tuple[float, Notes]:
    """Milliseconds per EM iteration; the lower bound after six."""
    fit = partial(contend.mixture(name), x, first_rows(x, 10), kind)
    one, _ = cpu_seconds(lambda: fit(1))
    six, bound = cpu_seconds(lambda: fit(6))
    return 1e3 * (six - one) / 5, {"lower bound": bound}


def quality(run: Run) -> Iterator[Measurement]:
    """Inertia, recomputed in float64, at equal n_init for seeds 0 to 4."""
    for name in ("digits", "overlap"):
        x = rows(name, run.rows(10_000), 256)
        for n_clusters, n_init in ((10, 10), (50, 3)):
            k = run.clusters(n_clusters)
            task = f"quality {name} K={n_clusters} n_init={n_init}"
            yield from in_turn(
                measured("quality", task, f"{len(x)},256,{k}", [SKLEARN, OURS], "inertia"),
                {which: partial(one_inertia, which, x, k, n_init) for which in (SKLEARN, OURS)},
                run.count(5),
                dict.fromkeys((SKLEARN, OURS), nothing),
            )


def one_inertia(name: str, x: np.ndarray, k: int, n_init: int, turn: int) -> tuple[float, Notes]:
    """Inertia of the fit with seed `turn`, its passes."""
    found: Fit = contend.kmeans(name)(x, Task(k, n_init=n_init, seed=turn))
    return inertia(x, found.centers), {"n_iter": found.n_iter}


def first_rows(x: np.ndarray, n_clusters: int) -> np.ndarray:
    """(K, D) different rows drawn from a seed: the same start for everyone."""
    return x[np.random.default_rng(0).choice(len(x), n_clusters, replace=False)].copy()


def measured(case: str, task: str, size: str, names: list[str], unit: str) -> dict[str, Measurement]:
    """Empty measurements of one task, by contender."""
    return {name: Measurement(case, task, size, name, unit) for name in names}


def nothing() -> Any:
    """No warm-up: what is measured is no time."""
