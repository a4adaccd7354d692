"""How the clustering benchmark measures: CPU time of one thread, contenders in turn, machine facts."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

Notes = dict[str, Any]


@dataclass
class Measurement:
    """What one contender took for one task, one value per repeat; `notes` are of its last run."""

    case: str
    task: str
    size: str
    contender: str
    unit: str
    values: list[float] = field(default_factory=list)
    notes: Notes = field(default_factory=dict)
    error: str | None = None

    @property
    def median(self) -> float:
        """Median of the repeats, NaN when the contender failed."""
        return statistics.median(self.values) if self.values and self.error is None else float("nan")


@dataclass
class Run:
    """What is asked of the cases: reduced sizes, repeats (None: each case's own), and the best GEMM seen here."""

    quick: bool
    repeats: int | None
    best_gflops: float

    def count(self, usual: int) -> int:
        """Repeats of a case whose own number is `usual`."""
        return self.repeats or (1 if self.quick else usual)

    def rows(self, n_rows: int) -> int:
        """Number of rows: a tenth with `quick`."""
        return n_rows // 10 if self.quick else n_rows

    def clusters(self, n_clusters: int) -> int:
        """Number of clusters: with `quick` a tenth of those above 10."""
        return n_clusters // 10 if self.quick and n_clusters > 10 else n_clusters


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, all its threads, while `work` runs; and what it returned."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def in_turn(
    measured: dict[str, Measurement],
    contenders: dict[str, Callable[[int], tuple[float, Notes]]],
    repeats: int,
    warm_up: dict[str, Callable[[], Any]] | None = None,
) -> list[Measurement]:
    """Run the contenders one after the other, `repeats` times; the first round, or `warm_up`, is not counted.

    Each contender takes the number of the repeat and returns its value and notes. One that fails is asked no more, and
    its error stands in place of its number.
    """
    for turn in range(-1, repeats):
        for name, contender in contenders.items():
            row = measured[name]
            if row.error is not None:
                continue
            try:
                if turn < 0 and warm_up is not None:
                    warm_up[name]()
                    continue
                value, notes = contender(max(turn, 0))
            except Exception as error:
                row.error = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                continue
            if turn >= 0:
                row.values.append(value)
                row.notes = notes
    return list(measured.values())


def gemm_speeds(repeats: int) -> dict[str, float]:
    """GFLOP/s of the float32 GEMMs at hand, by name: the larger of a 1536 cube and a chunk of Lloyd's pass."""
    speeds: dict[str, float] = {}
    for n_rows, width, columns, calls in ((1536, 1536, 1536, 1), (1024, 256, 1000, 10)):
        flop = 2 * n_rows * width * columns * calls
        for name, product in gemms(n_rows, width, columns).items():
            with contextlib.suppress(AttributeError, RuntimeError):  # an operator this build of torch does not have
                product()
                times = [cpu_seconds(partial(repeated, product, calls))[0] for _ in range(repeats)]
                speeds[name] = round(max(speeds.get(name, 0.0), flop / min(times) / 1e9), 1)
    return speeds


def repeated(work: Callable[[], Any], calls: int) -> None:
    """`work`, so many times."""
    for _ in range(calls):
        work()


def gemms(n_rows: int, width: int, columns: int) -> dict[str, Callable[[], Any]]:
    """The products (n_rows, width) x (width, columns) at hand, by name."""
    x, weight, bias = torch.randn(n_rows, width), torch.randn(columns, width), torch.randn(columns)
    x_array, weight_array = x.numpy(), weight.numpy()
    return {
        "torch mm": lambda: torch.mm(x, weight.T),
        "torch mkldnn linear": lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""),
        "numpy": lambda: x_array @ weight_array.T,
    }


def machine() -> dict[str, Any]:
    """Model and vector units of the CPU, cores, memory, and the kernels that each OpenBLAS chose."""
    facts: dict[str, Any] = {"system": platform.platform(), "cores": os.cpu_count(), "cpu": platform.processor()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line]
        values = {name.strip(): value.strip() for name, value in lines}
        facts["cpu"] = values.get("model name", facts["cpu"])
        facts |= {name: values.get(name) for name in ("cpu family", "model", "cache size")}
        facts["avx512"] = sorted(flag for flag in values.get("flags", "").split() if flag.startswith(("avx512", "amx")))
    facts["torch_capability"] = torch.backends.cpu.get_cpu_capability()
    facts["threads"] = torch.get_num_threads()
    return facts


def blas() -> list[str]:
    """Which BLAS libraries are loaded and which kernels they chose, as "library (kernels, threads)"."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return [
        f"{Path(pool['filepath']).name} ({pool.get('architecture', '?')}, {pool['num_threads']} thread)"
        for pool in pools
    ]


def versions() -> dict[str, str]:
    """Installed versions of what is compared."""
    names = ("torch", "numpy", "scipy", "scikit-learn", "faiss-cpu", "faiss-gpu")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit(folder: Path) -> str:
    """Commit of the checkout at `folder`, with "+" when files differ from it; "unknown" without git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    """Date and time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def inertia(x: np.ndarray, centers: np.ndarray) -> float:
    """Sum of squared distances of rows to their nearest centre, in float64 by differences."""
    total, centers = 0.0, np.asarray(centers, np.float64)
    for start in range(0, len(x), 1000):
        part = torch.from_numpy(np.asarray(x[start : start + 1000], np.float64))
        distances = torch.cdist(part, torch.from_numpy(centers), compute_mode="donot_use_mm_for_euclid_dist")
        total += float(distances.min(1).values.square().sum())
    return total
