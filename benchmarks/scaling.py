"""Images per second of several processes of one machine beside one: the whole training step of a config, by DDP.

    python benchmarks/scaling.py --json results.json
    python benchmarks/scaling.py --layouts 1x2 2x1 method.bn_groups=1      # BatchNorm over all ranks: messages

A layout is ranks x threads of each. Strong: the config's global batch whatever the ranks; weak: that many rows for each
rank. Each layout is processes of its own, launched as a job is, in turn; rank 0 tells the seconds of its steps by the
wall, of which a launch counts by the median. Images are noise in memory.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed_measure import (
    SMALL_NET,
    Steps,
    facts,
    noise,
    parser,
    prepare,
    ratio,
    settings_of,
    shown,
    spread,
    synchronize,
    table,
    verdict,
    write,
)  # fmt: skip
from training.build import start
from utils import distributed, process_group

ALONE, TWO = "1x2", "2x1"  # what the aim is about
AIM = 0.9  # of the images a second of one process with two threads, at least
N_ROWS = 4096
WARM_UP = 3
TIMEOUT = 300  # seconds


def main(arguments: list[str]) -> int:
    """Measure, print, write; or be one rank of it."""
    options = parse(arguments)
    if options.one_rank:
        prepare()
        start(settings_of(options.config, options.words, distributed.launched_world()).run)
        speeds_here = measured(options.config, options.words, options.steps)
        if distributed.is_main():
            print(json.dumps(speeds_here), flush=True)
        process_group.part(0)
    command = [sys.executable, __file__, "--one-rank", "--steps", str(options.steps), "--config", str(options.config)]
    command += options.words
    speeds: dict[str, dict[str, list[float]]] = {layout: {"strong": [], "weak": []} for layout in options.layouts}
    for _ in range(options.repeats):
        for layout in options.layouts:
            for kind, speed in launched(layout, command).items():
                speeds[layout][kind].append(speed)
    first, against = speeds[options.layouts[0]], f"/ {options.layouts[0]}"
    head = ["ranks x threads", "strong, images/s", against, "weak, images/s", against]
    print(table([head, *([layout, *line(speeds[layout], first)] for layout in options.layouts)]))
    report: dict[str, Any] = {**facts(), "launched": command, "images_per_second": speeds}
    if ALONE in speeds and TWO in speeds:
        report["ratio"] = ratio(speeds[TWO]["strong"], speeds[ALONE]["strong"])
        told = verdict(report["ratio"], AIM, at_most=False)
        print(f"2 ranks over 1 process with 2 threads, the same batch: {told}")
    write(report, options.json)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    made = parser(__doc__, repeats=5)
    made.add_argument("--config", type=Path, default=SMALL_NET, metavar="FILE", help="default: ProPos, small net")
    layouts = ["1x1", ALONE, TWO, "4x1"]
    made.add_argument("--layouts", nargs="+", default=layouts, metavar="WxT", help="default: %(default)s")
    made.add_argument("--steps", type=int, default=20, metavar="N", help="of a launch (default: %(default)s)")
    made.add_argument("--one-rank", action="store_true", help=argparse.SUPPRESS)
    return made.parse_intermixed_args(arguments)


def launched(layout: str, command: list[str]) -> dict[str, float]:
    """What rank 0 of the layout tells, each rank being `command` as a process, found by its environment."""
    world, threads = map(int, layout.split("x"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common = {**os.environ, "OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR", **job}
    ranks = []
    for rank in range(world):
        own = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        ranks.append(subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True))
    try:
        said = [rank.communicate(timeout=TIMEOUT)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(f"{layout}: exit codes {[rank.returncode for rank in ranks]}")
    return dict(json.loads(said[0].splitlines()[-1]))


def measured(config: Path, words: list[str], n_steps: int) -> dict[str, float]:
    """Images a second of all ranks, strong and weak: by the median of this rank's steps. Collective."""
    world = distributed.world()
    batch = settings_of(config, words, world).optim.global_batch
    speeds = {}
    for kind, rows in (("strong", batch), ("weak", batch * world)):
        steps = Steps(settings_of(config, [*words, f"optim.global_batch={rows}"], world), noise(max(N_ROWS, rows)))
        steps(WARM_UP)
        seconds = []
        for _ in range(n_steps):
            started = time.perf_counter()
            steps()
            synchronize()
            seconds.append(time.perf_counter() - started)
        speeds[kind] = rows / spread(seconds)["median"]
    return speeds


def line(speeds: dict[str, list[float]], first: dict[str, list[float]]) -> list[str]:
    """A row of the table."""
    return [
        cell
        for kind in ("strong", "weak")
        for cell in (shown(spread(speeds[kind]), ",.0f"), shown(ratio(speeds[kind], first[kind]), ".2f"))
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
