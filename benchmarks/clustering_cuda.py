"""A Lloyd pass on one CUDA GPU: labels checked against float64, time beside its bar, its floor and plain torch.

    python benchmarks/clustering_cuda.py [results.json]

Times are medians of CUDA events after a warm-up. Floors are those of an H200: 780 TFLOP/s in half precision, 4.3 TB/s.
"""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CASES = [((1_000_000, 512, 1000), 4.0), ((1_280_000, 2048, 1000), 16.0)]  # (N, D, K), milliseconds a pass may take
FLOPS, BYTES = 780e12, 4.3e12
REPEATS, CHECKED, CHUNK = 11, 2048, 1 << 16


def main(arguments: list[str]) -> int:
    """Check, measure, print, write; 1 if a label or a sum is wrong, 2 without a GPU."""
    from torch_clustering.cuda_assign import available

    if not torch.cuda.is_available() or not available(torch.device("cuda")):
        print("clustering_cuda: needs an NVIDIA GPU of compute capability 8.0 or higher, and Triton")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    results = [measure(shape, bar) for shape, bar in CASES]
    if arguments:
        machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        Path(arguments[0]).write_text(json.dumps({**machine, "cases": results}, indent=1) + "\n")
    return 0 if all(result["labels wrong"] == 0 and result["error of sums"] < 1e-10 for result in results) else 1


def measure(shape: tuple[int, int, int], bar: float) -> dict[str, Any]:
    """Numbers of one case, printed as they come."""
    from torch_clustering.assign import nearest as decide
    from torch_clustering.cuda_assign import nearest, screen, shift_rows
    from torch_clustering.cuda_sums import cluster_totals

    N, D, K = shape
    x, centers = mixture(N, D, K)
    weights, every = torch.ones(N, dtype=torch.float64, device="cuda"), torch.arange(N, device="cuda")
    mean = x.mean(0)
    length = (x[:CHUNK] - mean).norm(dim=1).mean()
    shifted = shift_rows(x, mean, length, torch.float16)
    labels = nearest(x, centers, decide, shifted)
    totals = cluster_totals(x, weights, labels, K, every)
    result: dict[str, Any] = {"N, D, K": shape, **check(x, centers, labels, totals)}
    unsure = screen(shifted, centers)[1]
    again = screen(shift_rows(x[unsure], mean, length, torch.float32), centers)[1]
    result |= {"unsure after float16": len(unsure) / N, "unsure after 3xTF32": len(again) / N}
    parts: dict[str, Callable[[], object]] = {
        "shift rows to float16": lambda: shift_rows(x, mean, length, torch.float16),
        "float16 screen": lambda: screen(shifted, centers),
        "labels, rows shifted before": lambda: nearest(x, centers, decide, shifted),
        "labels": lambda: nearest(x, centers, decide),
        "totals": lambda: cluster_totals(x, weights, labels, K, every),
        "plain torch pass": lambda: plain_pass(x, centers.float()),
    }
    times = {name: milliseconds(part) for name, part in parts.items()}
    floor = {"products": 2 * N * D * K / FLOPS * 1e3, "rows read in halves and whole": 6 * N * D / BYTES * 1e3}
    pass_ms = times["labels, rows shifted before"] + times["totals"]
    result |= {"ms": times, "floor ms": floor, "pass ms": pass_ms, "bar ms": bar, "bar reached": pass_ms <= bar}
    result["share of floor"] = (floor["products"] + 4 * N * D / BYTES * 1e3) / pass_ms
    result["share of half precision peak, screen"] = floor["products"] / times["float16 screen"]
    for name, value in result.items():
        print(f"  {name}: {value}")
    return result


def mixture(N: int, D: int, K: int) -> tuple[Tensor, Tensor]:
    """(N, D) float32 rows of K overlapping groups, and (K, D) float64 of them as centers."""
    draws = torch.Generator("cuda").manual_seed(0)
    means = torch.randn(K, D, device="cuda", generator=draws)
    x = torch.randn(N, D, device="cuda", generator=draws)
    for part in x.split(CHUNK):
        part += 0.7 * means[torch.randint(K, (len(part),), device="cuda", generator=draws)] + 1
    return x, x[torch.randperm(N, device="cuda", generator=draws)[:K]].double()


def check(x: Tensor, centers: Tensor, labels: Tensor, totals: Tensor) -> dict[str, float]:
    """How many labels of a sample differ from those of float64 differences, and the relative error of the sums."""
    rows = torch.arange(0, len(x), len(x) // CHECKED, device="cuda")
    own = [(row.double() - centers).square().sum(1).argmin() for row in x[rows]]
    sums = torch.zeros_like(totals[:, :-2])
    for part, label in zip(x.split(CHUNK), labels.split(CHUNK), strict=True):
        sums.index_add_(0, label, part.double())
    error = (totals[:, :-2] - sums).abs().max() / sums.abs().max()
    return {"labels wrong": int((torch.stack(own) != labels[rows]).sum()), "error of sums": float(error)}


def plain_pass(x: Tensor, centers: Tensor) -> Tensor:
    """The pass as one writes it: TF32 scores in memory, argmin, atomic additions. Its labels are not exact."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    sums, bias = torch.zeros_like(centers), centers.square().sum(1)
    for part in x.split(CHUNK):
        sums.index_add_(0, torch.addmm(bias, part, centers.T, alpha=-2).argmin(1), part)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    return sums


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of `work` on the device."""
    times = []
    for _ in range(REPEATS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
