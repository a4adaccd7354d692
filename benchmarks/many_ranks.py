"""How far runs on many ranks drift from one rank's: the tiny digits run in float64 over gloo, on one machine.

    python benchmarks/many_ranks.py --ranks 8 16

ProPos with a queue: E-step, three optimiser steps on 64 rows, E-step, once for each number of BatchNorm groups that the
ranks allow. The table has the largest relative difference of a loss, the largest of a weight or buffer (over the
largest number in its tensor), the rows whose label differs, and the wall-clock seconds of all ranks together.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.ranks import run_ranks
from tests.training.test_many_ranks import outcome

ROWS = 64  # of a step
BAR = 1e-9


def main(arguments: list[str]) -> int:
    """Compare and print; the exit code is 1 where a number of ranks drifts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16], metavar="W", help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = ["| ranks | BatchNorm groups | loss | weights | labels | seconds |", "|---|---|---|---|---|---|"]
    drifts = False
    for world in options.ranks:
        for n_groups in (
            groups for groups in (1, 2, 4, 8, 16) if world % groups == 0 and 2 * max(groups, world) <= ROWS
        ):
            losses, weights, labels = outcome(0, 1, n_groups)
            started = time.monotonic()
            everyones = run_ranks(world, outcome, n_groups)
            seconds = time.monotonic() - started
            loss = max(abs(b / a - 1) for others, _, _ in everyones for a, b in zip(losses, others, strict=True))
            weight = max(
                float((other[name] - value).abs().max() / value.abs().max().clamp_min(1))
                for _, other, _ in everyones
                for name, value in weights.items()
            )
            moved = max(int((other != labels).sum()) for _, _, other in everyones)
            drifts |= loss > BAR or weight > BAR or moved > 0
            lines.append(f"| {world} | {n_groups} | {loss:.1e} | {weight:.1e} | {moved} | {seconds:.1f} |")
    print("\n".join(lines))
    return int(drifts)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
