"""What this machine can do, in a table; and the versions that every run writes down."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from utils import distributed
from utils.compat import prepare_torchvision

ROOT = Path(__file__).parent.parent
REQUIRED = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pydantic", "PyYAML", "pillow", "tqdm")
OPTIONAL = {
    "wandb": "log.wandb",
    "tensorboard": "log.tensorboard",
    "faiss-cpu": "neighbours of many rows on a CPU; an oracle in tests",
}
GIB = 2**30


def environment() -> dict[str, Any]:
    """Versions, device and git commit, as plain values: what a run writes beside its results."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in REQUIRED},
        "platform": platform.platform(),
        "device": device_name(),
        "cpus": cpus(),
        "threads": torch.get_num_threads(),
        "git": git_commit(),
    }


def doctor_lines() -> list[str]:
    """The table that `main.py doctor` prints: one fact a line, with what to do about it where something is amiss."""
    rows = [("python", platform.python_version())]
    rows += [(name, version(name) or "MISSING: make .venv/.installed") for name in REQUIRED]
    rows += [(name, version(name) or f"not installed (optional: {use})") for name, use in OPTIONAL.items()]
    rows += [
        ("torchvision ops", torchvision_state()),
        ("device", device_name()),
        ("bf16", bf16_state()),
        ("backends", ", ".join(distributed.available_backends()) or "none: only one process can train"),
        ("cpus", f"{cpus()}, {torch.get_num_threads()} threads a process{thread_advice()}"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB"),
        ("free disk", f"{shutil.disk_usage('.').free / GIB:.1f} GiB here"),
        ("git", git_commit() or "no repository"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {state}" for name, state in rows]


def version(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_name() -> str:
    """What a run would train on: the GPUs, or the CPU."""
    if not torch.cuda.is_available():
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"cuda:{i} {each.name} {each.total_memory / GIB:.0f} GiB" for i, each in enumerate(names))


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_advice() -> str:
    """A hint where several ranks would fight for the CPUs."""
    return "" if torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ else " (several ranks: OMP_NUM_THREADS=1)"


def torchvision_state() -> str:
    """Whether torchvision's own operators load."""
    states = {
        "compiled": "compiled",
        "schemas": "declared only (CPU torch): transforms and models work, nms does not",
        "missing": "MISSING: make .venv/.installed",
    }
    return states[prepare_torchvision()]


def bf16_state() -> str:
    """Whether `optim.precision: bf16` pays here."""
    return "yes" if computes_bf16() else "slow here: use fp32"


def computes_bf16() -> bool:
    """Whether the device has instructions for bfloat16 products."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Instruction sets of the CPU as Linux names them; empty elsewhere."""
    if not path.is_file():
        return set()
    lines = [line for line in path.read_text().splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def git_commit(root: Path = ROOT) -> str | None:
    """The commit of this checkout, '-dirty' behind it if files are changed; None outside a repository."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
