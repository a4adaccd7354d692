"""Breaks runs on purpose and counts what becomes of them: `python benchmarks/faults.py kills saves --out faults.json`.

Runs of a tiny encoder on the digits, two ranks under torchrun, each against the same run undisturbed. Linux only.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.launched import (
    ROOT,
    TWO_RANKS,
    WORDS,
    Row,
    alive,
    children,
    contents,
    differing,
    finish,
    rank_of,
    status_of,
    tell,
    wait_for,
)  # fmt: skip
from training.begin import new_run
from training.checkpoint import load_checkpoint, snapshot, write_checkpoint
from training.settings import load_settings
from utils.config import compose
from utils.doctor import environment
from utils.errors import UserError

PLUGIN = f"run.plugins=[{ROOT}/benchmarks/fault_plugin.py]"
RESTARTS = [*TWO_RANKS, "--max-restarts=3"]


def kills(n: int, seed: int, folder: Path) -> list[Row]:
    """SIGKILL of a random rank at a random time or a chosen place; torchrun restarts, nobody helps."""
    wanted = contents(whole(folder))
    draw, rows = random.Random(seed), []
    for number in range(n):
        rank = draw.randrange(2)
        place = ("time", "step", "estep-start", "estep-inside", "saving")[number % 5]
        rank = 0 if place == "saving" else rank  # who writes
        visit = draw.randrange(1, 11 if place.startswith("estep") else 60)
        when = f"{draw.uniform(0, 2.5):.1f} s" if place == "time" else f"visit {visit}"
        target = folder / f"kill-{number}"
        variable = {} if place == "time" else {"EMBLEM_KILL": f"{rank}:{place}:{visit}"}
        began = time.monotonic()
        with begin(RESTARTS, target, PLUGIN, more=variable) as program:
            if place == "time":  # since the first step
                wait_for(lambda folder=target: any(folder.glob("*/metrics.jsonl")), 120)
                time.sleep(float(when.split()[0]))
                kill(program.pid, rank)
            code = finish(program)
        (run,) = target.glob("digits_*")
        equal = differing(contents(run), wanted) == []
        times = len([line for line in (run / "metrics.jsonl").read_text().splitlines() if '"header"' in line])
        rows.append(
            {"place": place, "rank": rank, "when": when, "code": code, "bit-equal": equal, "attempts": times,
             "seconds": time.monotonic() - began}
        )  # fmt: skip
        tell(rows[-1])
    return rows


def saves(n: int, seed: int, folder: Path) -> list[Row]:
    """SIGKILL of a process that does little but save, at a random time; then what it left is loaded and goes on."""
    draw, rows = random.Random(seed), []
    run = folder / "saves" / "run"
    words = ["run.name=run", "run.resume=auto", "optim.epochs=400", "encoder.name=small"]
    for _ in range(n):
        before = written(run)
        with begin([sys.executable], folder / "saves", *words) as program:
            wait_for(lambda old=before: written(run) != old, 120)  # it has come to save
            time.sleep(draw.uniform(0, 1))
            program.kill()
        left = sorted(path.name for path in (run / "checkpoints").glob("*.tmp.*"))
        rows.append({"half-written": len(left), **loads(run)})
        tell(rows[-1])
    return rows


def signals(n: int, seed: int, folder: Path) -> list[Row]:
    """SIGTERM to torchrun at a random moment; the run is then gone on with to its end."""
    wanted = contents(whole(folder))
    draw, rows = random.Random(seed), []
    for number in range(n):
        target, at_once = folder / f"signal-{number}", number % 4 == 0  # else once training has begun
        after = draw.uniform(2, 10) if at_once else draw.uniform(0, 2.5)
        words = ["run.name=run", "run.resume=auto", "run.checkpoint_minutes=10"]
        with begin(TWO_RANKS, target, *words) as program:
            wait_for(lambda run=target / "run", free=at_once: free or (run / "metrics.jsonl").is_file(), 120)
            time.sleep(after)
            program.send_signal(signal.SIGTERM)
            told = time.monotonic()
            code = finish(program)
            seconds = time.monotonic() - told
        status = status_of(target / "run")
        with begin(TWO_RANKS, target, *words) as program:
            again = finish(program)
        equal = differing(contents(target / "run"), wanted) == []
        since = "launch" if at_once else "first step"
        row = {"after": after, "since": since, "status": status, "code": code, "left within": seconds, "again": again}
        rows.append(row | {"bit-equal": equal})
        tell(rows[-1])
    return rows


def exits(n: int, seed: int, folder: Path) -> list[Row]:
    """Short runs that nothing disturbs: do they end with code 0?"""
    rows = []
    for number in range(n):
        with begin(TWO_RANKS, folder / f"exit-{number}", "optim.epochs=2", "run.checkpoint_minutes=0") as program:
            rows.append({"code": finish(program)})
        tell(rows[-1])
    return rows


def launchers(n: int, seed: int, folder: Path) -> list[Row]:
    """SIGKILL of torchrun itself at a random moment: how many ranks are alive 5 s later?"""
    draw, rows = random.Random(seed), []
    for number in range(n):
        with begin(TWO_RANKS, folder / f"launcher-{number}", "optim.epochs=400") as program:
            wait_for(lambda: len(children(program.pid)) == 2, 60)
            time.sleep(draw.uniform(0, 12))
            ranks = children(program.pid)
            program.kill()
            began = time.monotonic()
            wait_for(lambda pids=ranks: not any(map(alive, pids)), 5)
            row = {"ranks": len(ranks), "alive after 5 s": sum(map(alive, ranks))}
            rows.append(row | {"gone after": time.monotonic() - began})
        tell(rows[-1])
    return rows


def stopped(n: int, seed: int, folder: Path) -> list[Row]:
    """SIGSTOP of a random rank, time-outs as they are by default: who is named, and when?"""
    draw, rows = random.Random(seed), []
    for number in range(n):
        rank = draw.randrange(2)
        target = folder / f"stop-{number}"
        with begin(TWO_RANKS, target, "optim.epochs=4000") as program:
            wait_for(lambda place=target: any(place.glob("*/checkpoints/last.pt")), 120)
            os.kill(rank_of(program.pid, rank), signal.SIGSTOP)
            began = time.monotonic()
            wait_for(lambda running=program: errors(running) or running.poll() is not None, 120)
            told = time.monotonic() - began
            code = finish(program)
        lines = errors(program)
        row = {"rank": rank, "told after": told, "ended after": time.monotonic() - began, "code": code}
        rows.append(row | {"lines": len(lines), "named": bool(lines) and f"rank {rank}" in lines[0]})
        tell(rows[-1])
    return rows


def stall(n: int, seed: int, folder: Path) -> list[Row]:
    """How long training waits for a save: the copy alone, against the copy and the file; BYOL on ResNet-18."""
    words = ["encoder.name=resnet18", "method.hidden_dim=4096", "method.projection_dim=256", "run.seed=0"]
    composed = compose([ROOT / "config" / "digits_byol.yml"], words)
    run = new_run(load_settings(composed, 1), torch.device("cpu"))
    for group in run.optimizer.param_groups:  # as after a first step
        for parameter in group["params"]:
            run.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    rows = []
    for _ in range(n):
        began = time.monotonic()
        taken = snapshot(run.method, run.optimizer, None, run.clock, "")
        copied = time.monotonic()
        path = write_checkpoint(folder / "stall", taken)
        size = path.stat().st_size / 2**20
        rows.append({"MiB": size, "copy s": copied - began, "copy and write s": time.monotonic() - began})
        tell(rows[-1])
    return rows


def begin(launcher: list[str], folder: Path, *words: str, more: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """main.py with the words of all runs here, in `folder`; what it says goes into a file there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("a") as out:
        return subprocess.Popen(
            [*launcher, "main.py", *WORDS, f"run.folder={folder}", *words], cwd=ROOT, stdout=out, text=True,
            stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1", **(more or {})},
        )  # fmt: skip


def errors(program: subprocess.Popen[str]) -> list[str]:
    """The errors that it has told of."""
    words: list[str] = list(program.args)  # type: ignore[arg-type]
    folder = next(word for word in words if word.startswith("run.folder=")).partition("=")[2]
    return [line for line in (Path(folder) / "said.txt").read_text().splitlines() if line.startswith("error: ")]


def whole(folder: Path) -> Path:
    """The run that nothing disturbs, made once."""
    if not (folder / "whole" / "run" / "evaluation.json").is_file():
        with begin(TWO_RANKS, folder / "whole", "run.name=run") as program:
            assert finish(program) == 0
    return folder / "whole" / "run"


def loads(run: Path) -> Row:
    """Whether the newest checkpoint of a run can be read, and the step it stands at."""
    told: list[str] = []
    try:
        step = load_checkpoint(run / "checkpoints", torch.device("cpu"), told.append)["step"]
    except UserError as error:
        return {"resumable": False, "step": str(error), "fallbacks": len(told)}
    return {"resumable": True, "step": step, "fallbacks": len(told)}


def written(run: Path) -> int:
    """When the newest checkpoint was written, in nanoseconds."""
    manifest = run / "checkpoints" / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.is_file() else 0


def kill(launcher: int, rank: int) -> None:
    """SIGKILL of a rank, if it is still there."""
    try:
        os.kill(rank_of(launcher, rank), signal.SIGKILL)
    except (AssertionError, ProcessLookupError):
        return


WHAT: dict[str, tuple[Callable[[int, int, Path], list[Row]], int]] = {
    "kills": (kills, 20), "saves": (saves, 30), "signals": (signals, 10), "exits": (exits, 20),
    "launchers": (launchers, 5), "stopped": (stopped, 2), "stall": (stall, 5),
}  # fmt: skip


def main(words: list[str]) -> int:
    """Break what is asked for, print a line each and write them as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks/faults.py", description=__doc__)
    parser.add_argument("what", nargs="+", choices=WHAT, help="which faults")
    parser.add_argument("--n", type=int, help="how many of each (default: 20 kills, 30 saves, 10 signals, ...)")
    parser.add_argument("--seed", type=int, default=0, help="of the random ranks and times (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("faults.json"), help="(default: %(default)s)")
    chosen = parser.parse_args(words)
    results: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what in chosen.what:
            function, usual = WHAT[what]
            print(f"{what}: {function.__doc__}")
            results[what] = function(chosen.n or usual, chosen.seed, Path(folder))
            chosen.out.write_text(json.dumps({"environment": environment(), "results": results}, indent=2, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
