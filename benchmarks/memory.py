"""Peak memory of a step and of an E-step beside what `main.py CONFIG --dry-run` tells.

    python benchmarks/memory.py --json results.json
    python benchmarks/memory.py --only digits

Each config in a process of its own, one rank, images of noise, for the dry run as for the steps. Resident memory by the
kernel's high-water mark, which is set back before each part: some steps past all warm-ups, an E-step. Taken off is what
the dry run does not count, libraries and what they keep: all that is resident after a step of a tiny net. Linux alone.
On a GPU what torch has allocated there.
"""

import argparse
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.speed_measure import DEVICE, ROOT, Steps, facts, noise, prepare, settings_of, table, write
from data.sources.base import Source
from training.build import build_run
from training.dry_run import META, rehearse
from training.dry_run_sizes import Sizes
from training.dry_run_step import Stage, line_through
from training.embed import embed_shard
from training.settings import Settings

CONFIGS = {  # words of a config: rows and shape of its images; of ResNet-18 fewer rows than CIFAR-10 has, for its time
    ("digits_propos.yml",): (1797, (1, 8, 8)),
    ("cifar10_small_propos.yml",): (60_000, (3, 32, 32)),
    ("cifar10_r18_propos.yml", "optim.global_batch=64"): (2_048, (3, 32, 32)),
}
TINY = ["encoder.name=tiny", "method.bn_groups=1"]
STEPS = 3
MIB = 2**20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(arguments: list[str]) -> int:
    """Measure, print, write; or be the process of one config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="configs whose name has one of these words")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        prepare(options.threads)
        print(json.dumps(one(**options.one)))
        return 0
    rows: list[dict[str, Any]] = []
    for words, (n_rows, shape) in CONFIGS.items():
        if options.only is None or any(word in words[0] for word in options.only):
            asked = {"words": words, "n_rows": n_rows, "shape": shape}
            rows.append(asked | launched([f"--threads={options.threads}", f"--one={json.dumps(asked)}"]))
    head = ["config", "libraries", "a step", "an E-step", "dry run", "step / dry run", "E-step / dry run"]
    print(table([head, *map(line, rows)]))
    write({**facts(), "threads": options.threads, "rows": rows}, options.json)
    return 0


def launched(words: list[str]) -> dict[str, Any]:
    """What a process of its own tells."""
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def one(words: list[str], n_rows: int, shape: list[int]) -> dict[str, Any]:
    """Bytes of one config: told by the dry run, of libraries, of a step, of an E-step."""
    Steps(settings_of(ROOT / "config" / "digits_propos.yml", TINY), noise(64, (1, 8, 8)))()
    libraries = set_back()
    settings = settings_of(ROOT / "config" / words[0], words[1:])
    source = noise(n_rows, (shape[0], shape[1], shape[2]))
    steps = Steps(settings, source)
    steps(STEPS)
    step = peak()
    set_back()
    run = steps.run
    shard = embed_shard(
        run.method, run.feed.store, run.feed.views, run.clock, seed=0, precision=settings.optim.precision
    )
    run.method.e_step(shard, None, run.clock)
    del run, steps
    return {
        "libraries": libraries,
        "step": step,
        "e_step": peak(),
        "told": told(settings, source),
    }


def told(settings: Settings, source: Source) -> dict[str, float]:
    """Bytes that the dry run counts for a rank, by what they are."""
    with META:
        unread = settings.data.model_copy(update={"memory_gib": 0.0})
        run = build_run(replace(settings, data=unread), META, fresh=False, source=source)
    run.settings = settings
    stage = Stage(settings, source, run.method.n_clusters, DEVICE)
    sizes = Sizes(run, 1, stage.state, stage.width)
    _, steps = rehearse(stage, 1, sizes.rows)
    return sizes.memory(line_through([(step.rows, step.saved_bytes) for step in steps], sizes.rows))


def peak() -> int:
    """Most bytes that were resident since the last `set_back`."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated(DEVICE)
    return _status("VmHWM")


def set_back() -> int:
    """Let the high-water mark begin at what is resident now, which is returned."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats(DEVICE)
        return torch.cuda.memory_allocated(DEVICE)
    with suppress(OSError):  # where a container forbids it, peaks are those since the process began
        RESET.write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = dict(text.split(":", 1) for text in STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    total, own = sum(row["told"].values()), {part: row[part] - row["libraries"] for part in ("step", "e_step")}
    sizes = [row["libraries"], own["step"], own["e_step"], total]
    return [
        " ".join(row["words"]),
        *(f"{size / MIB:,.0f} MiB" for size in sizes),
        *(f"{size / total:.2f}" for size in own.values()),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
