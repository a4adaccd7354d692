"""main.py as a program: under torchrun, with its ranks found, and waited for by what it says."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parent.parent
DIGITS = "config/digits_propos.yml"
TINY = [
    DIGITS, "encoder.name=tiny", "method.hidden_dim=11", "method.projection_dim=7",
    "method.warmup_epochs=1", "optim.epochs=3", "estep.n_init=1", "estep.final_n_init=1", "run.checkpoint_minutes=0",
    "eval.report=false",
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
TWO_RANKS = [*TORCHRUN, "--nproc_per_node=2"]
WORDS = [*TINY, "method.bn_groups=2", "data.split=test", "optim.epochs=12", "run.checkpoint_minutes=1e-9"]  # 60 steps
Row = dict[str, Any]  # of a table of faults


class Done(NamedTuple):
    """What a command gave and said."""

    code: int | str | None
    out: str
    err: str


def start(launcher: list[str], *words: str) -> subprocess.Popen[str]:
    """main.py with `words` as a program."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*launcher, "main.py", *words], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def launch(launcher: list[str], *words: str) -> Done:
    """The same, to its end."""
    with start(launcher, *words) as program:
        return end(program)


def end(program: subprocess.Popen[str]) -> Done:
    """What a program gave and said when it has ended; killed if it does not."""
    try:
        out, err = program.communicate(timeout=480)
    except subprocess.TimeoutExpired:
        program.kill()
        raise
    return Done(program.returncode, out, err)


def read_until(program: subprocess.Popen[str], beginning: str) -> None:
    """Read what it says until a line begins so."""
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"it ended without a line that begins with {beginning!r}: {program.communicate()[1]}")


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank."""
    for pid in children(launcher):
        with contextlib.suppress(OSError):
            if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{pid}/environ").read_text():
                return pid
    raise AssertionError(f"{launcher} has no rank {rank}")


def children(parent: int) -> list[int]:
    """Pids of the processes that `parent` started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it has come to hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def finish(program: subprocess.Popen[str]) -> int | str:
    """Its exit code, or that it hung."""
    try:
        return program.wait(timeout=180)
    except subprocess.TimeoutExpired:
        program.kill()
        return "hung"


def contents(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's newest checkpoint, by its place in it."""
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}")
        elif isinstance(value, list | tuple):
            for place, inner in enumerate(value):
                walk(inner, f"{name}.{place}")

    walk(torch.load(run / "checkpoints" / "last.pt", weights_only=True), "")
    return found


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not bit for bit the same in both."""
    names = first.keys() | second.keys()
    return sorted(n for n in names if n not in first or n not in second or not torch.equal(first[n], second[n]))


def status_of(run: Path) -> str:
    """What status.json says, if it is there."""
    path = run / "status.json"
    return str(json.loads(path.read_text())["status"]) if path.is_file() else "not begun"


def tell(row: Row) -> None:
    """One line."""
    print(
        "  ".join(
            f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
        )
    )
    sys.stdout.flush()
