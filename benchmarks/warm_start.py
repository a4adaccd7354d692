"""KMeans from the centers of the E-step before, beside fresh starts alone, on the same features of a run.

    python benchmarks/warm_start.py --json results.json
    python benchmarks/warm_start.py --config config/cifar10_small_propos.yml data.root=FOLDER method.warmup_epochs=1

The run trains by fresh starts. At each E-step but the first the features are clustered once more for each contender,
which goes on from its own centers before. Inertia is over the best of ten fresh starts.
"""

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed_measure import DEVICE, ROOT, facts, parser, prepare, settings_of, shown, spread, table, write
from models.parts.centers import EStepConfig, cluster
from models.state import ClusterState, FeatureShard
from training.begin import new_run
from training.log import Log
from training.loop import train
from utils.clock import Clock

DIGITS = ROOT / "config" / "digits_propos.yml"
FRESH, WARM, ALONE, BEST = "fresh", "warm and fresh", "warm alone", "best of ten fresh"


def main(arguments: list[str]) -> int:
    """Train, cluster, print, write."""
    options = parse(arguments)
    prepare(options.threads)
    settings = settings_of(options.config, options.words)
    run = new_run(settings, DEVICE)
    rows = compared(run.method, settings.estep)
    with Log(settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    lines = [["", "starts", "inertia / best of ten", "worse by 0.1 %", "seconds"]]
    starts = {FRESH: settings.estep.n_init, WARM: settings.estep.n_init, ALONE: 1, BEST: 10}
    for name, found in rows.items():
        ratios = [mine / best for (mine, _), (best, _) in zip(found, rows[BEST], strict=True)]
        worse = f"{sum(value > 1.001 for value in ratios)} of {len(ratios)}"
        seconds = shown(spread([taken for _, taken in found]))
        lines.append([name, str(starts[name]), shown(spread(ratios), ".5f"), worse, seconds])
    print(table(lines))
    write({**facts(), "threads": options.threads, "config": settings.to_values(), "rows": rows}, options.json)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    made = parser(__doc__, threads=1)
    made.add_argument("--config", type=Path, default=DIGITS, metavar="FILE", help="default: ProPos on digits")
    return made.parse_intermixed_args(arguments)


def compared(method: Any, config: EStepConfig) -> dict[str, list[tuple[float, float]]]:
    """Inertia and seconds of each contender in each E-step to come, filled while `method` trains."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    before: dict[str, ClusterState] = {}
    fresh, warm = config.model_copy(update={"warm_start": False}), config.model_copy(update={"warm_start": True})
    contenders = {FRESH: (fresh, config.n_init), WARM: (warm, config.n_init), ALONE: (warm, 1), BEST: (fresh, 10)}

    def e_step(shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        for name, (own, n_init) in contenders.items():
            started = time.perf_counter()
            seed = shard.seed + 1 if name == BEST else shard.seed  # starts of its own
            reached = cluster(replace(shard, seed=seed), own, method.n_clusters, n_init, before.get(name))
            if state is not None:
                spread_of_it = reached.extra["spread"].item() * shard.n_rows
                found[name].append((spread_of_it, time.perf_counter() - started))
            before[name] = reached
        return before[FRESH]

    method.e_step = e_step
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
