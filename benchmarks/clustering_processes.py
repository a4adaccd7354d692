"""Cases of the clustering benchmark that need processes of their own: peak memory, and the E-step on two ranks.

`python -m benchmarks.clustering_processes CONTENDER ROWS` prints the peak memory of one contender in MiB.
"""

import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import clustering_contenders as contend
from benchmarks.clustering_cases import first_rows, measured, nothing
from benchmarks.clustering_contenders import FAISS, OURS, OURS_DENSE, SKLEARN, SKLEARN_IN_PLACE, Task
from benchmarks.clustering_data import file_of
from benchmarks.clustering_measure import Measurement, Notes, Run, in_turn

ONE_RANK, TWO_RANKS = "torch_clustering, 1 rank", "torch_clustering, 2 ranks"


def memory(run: Run) -> Iterator[Measurement]:
    """Peak resident memory above the rows, results included, of two passes at (1000000, 128, 1000)."""
    n_rows = run.rows(1_000_000)
    names = [SKLEARN, OURS] if run.quick else [SKLEARN, SKLEARN_IN_PLACE, FAISS, OURS_DENSE, OURS]
    yield from in_turn(
        measured("memory", "memory above X 1000000,128,1000", f"{n_rows},128,1000", names, "MiB"),
        {name: partial(peak_of, name, n_rows) for name in names},
        1,
        dict.fromkeys(names, nothing),
    )


def peak_of(name: str, n_rows: int, turn: int) -> tuple[float, Notes]:
    """MiB that a fresh process printed."""
    command = [sys.executable, "-m", "benchmarks.clustering_processes", name, str(n_rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return float(done.stdout.split()[-1]), {}


def peak_memory(name: str, n_rows: int) -> float:
    """MiB of resident memory above the rows at the highest, after a small fit that loads the libraries."""
    torch.set_num_threads(1)
    draws = np.random.default_rng(0)
    x = np.empty((n_rows, 128), np.float32)
    draws.standard_normal(out=x, dtype=np.float32)
    fit = contend.kmeans(name)
    small = x[:2000].copy()
    fit(small, Task(10, first_rows(small, 10), max_iter=2, tol=0.0))
    start = first_rows(x, 1000)
    before = highest_mib(reset=True)
    kept = fit(x, Task(1000, start, max_iter=2, tol=0.0))  # kept: results count
    after = highest_mib(reset=False)
    assert len(kept.centers) == 1000
    return after - before


def highest_mib(reset: bool) -> float:
    """Highest resident memory of this process so far, in MiB; with `reset` what is resident now becomes the highest."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


def e_step(run: Run) -> Iterator[Measurement]:
    """The pipeline's E-step: spherical KMeans of 60000 x 256 `digits` features, K = 10, n_init = 3."""
    n_rows, repeats = run.rows(60_000), run.count(3)
    path = file_of("digits", n_rows, 256)
    rows = measured("estep", "E-step, CPU per rank", f"{n_rows},256,10", [ONE_RANK, TWO_RANKS], "s")
    clocks = measured("estep", "E-step, wall clock", f"{n_rows},256,10", [ONE_RANK, TWO_RANKS], "s")
    for name, world in ((ONE_RANK, 1), (TWO_RANKS, 2)):
        try:
            ranks = on_ranks(world, path, repeats)
        except Exception as error:
            rows[name].error = clocks[name].error = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        for turn in zip(*ranks, strict=True):
            rows[name].values.append(max(cpu for cpu, _, _ in turn))
            clocks[name].values.append(max(wall for _, wall, _ in turn))
            rows[name].notes = clocks[name].notes = turn[0][2]
    yield from [*rows.values(), *clocks.values()]


def on_ranks(world: int, path: Path, repeats: int) -> list[list[tuple[float, float, Notes]]]:
    """Per rank and repeat: CPU seconds, wall seconds and notes; each rank is a fresh process."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "rendezvous").as_uri()
        arguments = [(rank, world, meeting, str(path), repeats) for rank in range(world)]
        with context.Pool(world) as pool:
            return pool.starmap_async(one_rank, arguments, chunksize=1).get(timeout=600)


def one_rank(rank: int, world: int, meeting: str, path: str, repeats: int) -> list[tuple[float, float, Notes]]:
    """What one rank measures of its block of the rows; a first fit warms up."""
    import torch.distributed as dist

    from torch_clustering import KMeans

    torch.set_num_threads(1)
    x = np.load(path)
    group: Any = None
    if world > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
        group = dist.group.WORLD
    mine = F.normalize(torch.from_numpy(np.array_split(x, world)[rank]))
    found = []
    for turn in range(-1, repeats):
        if world > 1:
            dist.barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        model = KMeans(10, metric="cosine", n_init=3, random_state=max(turn, 0), group=group).fit(mine)
        spent = time.process_time() - cpu, time.perf_counter() - wall
        found.append((*spent, {"n_iter": model.n_iter_, "inertia": model.inertia_}))
    if world > 1:
        dist.destroy_process_group()
    return found[1:]


if __name__ == "__main__":
    print(peak_memory(sys.argv[1], int(sys.argv[2])))
