"""An EM epoch by its parts, ours beside the usual design; and an E-step beside a bare forward pass.

    python benchmarks/epoch.py --json results.json
    python benchmarks/epoch.py --images data_files                                # CIFAR-10 there, not 1/f noise
    python benchmarks/epoch.py --config config/cifar10_r18_propos.yml --rows 640 --e-step-rows 640 optim.global_batch=64

An epoch of ProPos: steps over all rows once, features of all clean rows, KMeans. data: waiting for batches (ours: and
making them); M-step: all else of the steps. The usual design (benchmarks/reference_design.py) has the same network,
heads, batch, views and losses, PIL images in DataLoader workers, float32, and KMeans of ten starts one by one; its
workers have started before. Seconds by the wall, in turn.

The E-step: embed every row, cluster; before each some steps that are not counted, so that a start from the centers
before has something to do. The bare pass: the encoder alone over normalised rows in memory, in eval mode, as many rows
at once, same precision and layout.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from benchmarks import augment_contenders
from benchmarks.reference_design import Reference, Seconds
from benchmarks.speed_measure import (
    DEVICE,
    SMALL_NET,
    InMemory,
    facts,
    in_turn,
    last_epoch,
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
from data.sources.base import DataConfig, Source
from data.store import open_source
from models.parts.encoders import build_encoder
from training.build import Run, build_run
from training.embed import CHUNK, embed_shard
from training.settings import Settings
from training.step import autocast, train_step
from utils.clock import Clock

PARTS = ("data", "m_step", "extract", "cluster")
OURS, USUAL, AGAIN = "ours", "usual design", "usual design, features twice"
BETWEEN = 100  # steps from one E-step to the next
FASTER, E_STEP = 3.0, 1.15  # aims: at least so many times as fast; at most so many bare passes


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    prepare(options.threads)
    settings = settings_of(options.config, options.words)
    most = max(options.rows, options.e_step_rows)
    images = pictures(most, options.images)
    run = build_run(settings, DEVICE, source=InMemory(images[: options.rows]))
    epochs = side_by_side(run, images[: options.rows], options)
    totals = {name: [seconds.total for seconds in turns] for name, turns in epochs.items()}
    faster = {name: ratio(totals[name], totals[OURS]) for name in (USUAL, AGAIN)}
    step = e_step(run, InMemory(images[: options.e_step_rows]), options.repeats)
    n_images = len(run.feed.passes) * run.clock.steps_per_epoch * settings.optim.global_batch
    print(
        table(
            [
                ["", "images/s", "seconds", "data", "M-step", "extract", "cluster"],
                *map(line, epochs.items(), [n_images] * 3),
            ]
        )
    )
    print(f"images/s of an epoch, ours over the usual design: {verdict(faster[USUAL], FASTER, at_most=False)}")
    print(f"had it a second pass for features, as for scores of its own: {shown(faster[AGAIN], '.2f')}")
    print(
        f"E-step of {options.e_step_rows:,} rows over a bare forward pass: "
        f"{verdict(step['ratio'], E_STEP, at_most=True)}; bare {shown(spread(step['bare']))} s, "
        f"extract {shown(spread(step['extract']))} s, cluster {shown(spread(step['cluster']))} s"
    )
    report = {
        **facts(),
        "threads": options.threads,
        "workers": options.workers,
        "config": settings.to_values(),
        "images": str(options.images or "1/f noise"),
        "rows": options.rows,
        "epochs": {name: [vars(seconds) for seconds in turns] for name, turns in epochs.items()},
        "faster": faster,
        "e_step": {"rows": options.e_step_rows, **step},
    }
    write(report, options.json)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    made = parser(__doc__, repeats=3, threads=2)
    made.add_argument(
        "--config", type=Path, default=SMALL_NET, metavar="FILE", help="of ProPos; default: the small net"
    )
    made.add_argument("--images", type=Path, metavar="DIR", help="CIFAR-10's root")
    made.add_argument("--rows", type=int, default=12_800, metavar="N", help="of an epoch (default: %(default)s)")
    made.add_argument("--e-step-rows", type=int, default=60_000, metavar="N", help="default: %(default)s")
    made.add_argument("--workers", type=int, default=2, metavar="N", help="of the usual design (default: %(default)s)")
    return made.parse_intermixed_args(arguments)


def pictures(n_rows: int, root: Path | None) -> Tensor:
    """(n_rows, 3, 32, 32) uint8: CIFAR-10's, or 1/f noise, a few thousand pictures in many places."""
    if root is not None:
        return open_source(DataConfig(name="cifar10", root=root, download=False)).read()[:n_rows]
    few = augment_contenders.noise(32, min(n_rows, 2000))
    copies = -(-n_rows // len(few))
    return torch.cat([few.roll((3 * copy, 5 * copy), (2, 3)) for copy in range(copies)])[:n_rows]


def side_by_side(run: Run, images: Tensor, options: argparse.Namespace) -> dict[str, list[Seconds]]:
    """Epochs of both designs in turn, after a few steps of each."""
    settings = run.settings
    net, width = build_encoder(settings.encoder, tuple(images.shape[1:]))
    usual = Reference(images, net, width, settings, run.method.n_clusters, options.workers, DEVICE)
    usual.warm_up()
    run.clock = last_epoch(run.clock)  # past all warm-ups
    steps(run, run.clock, Seconds(), 2)
    found: dict[str, list[Seconds]] = {OURS: [], USUAL: [], AGAIN: []}
    for _ in range(options.repeats):
        found[OURS].append(our_epoch(run))
        found[USUAL].append(usual.epoch())
        seconds = Seconds(**vars(found[USUAL][-1]))
        seconds.extract *= 2
        found[AGAIN].append(seconds)
    return found


def our_epoch(run: Run) -> Seconds:
    """Steps over all rows once, then an E-step, as the training loop makes them."""
    seconds = Seconds()
    steps(run, run.clock, seconds, run.clock.steps_per_epoch)
    cluster(run, seconds)
    return seconds


def steps(run: Run, clock: Clock, seconds: Seconds, n_steps: int) -> None:
    """The first steps of the epoch at `clock`."""
    run.method.train()
    started, waited = time.perf_counter(), run.feed.waited
    batches = run.feed.rest_of_epoch(clock, run.state)
    for _ in range(n_steps):
        _, carry = train_step(
            run.method, run.method, run.optimizer, batches, run.state, clock, run.settings.optim, run.guard
        )
        if carry is not None:
            run.method.after_step(carry, clock)
        clock = clock.tick()
    batches.close()
    synchronize()
    seconds.data += run.feed.waited - waited
    seconds.m_step += time.perf_counter() - started - (run.feed.waited - waited)


def cluster(run: Run, seconds: Seconds) -> None:
    """An E-step."""
    started = time.perf_counter()
    shard = embed_shard(
        run.method, run.feed.store, run.feed.views, run.clock, seed=0, precision=run.settings.optim.precision
    )
    synchronize()
    between = time.perf_counter()
    run.state = run.method.e_step(shard, run.state, run.clock)
    synchronize()
    seconds.extract += between - started
    seconds.cluster += time.perf_counter() - between


def e_step(trained: Run, source: Source, repeats: int) -> dict[str, Any]:
    """Seconds of E-steps over the rows of `source` and of bare passes, in turn; the ratio of both."""
    run = build_run(trained.settings, DEVICE, source=source)
    run.method.load_state_dict(trained.method.state_dict())
    first = run.method.first_e_step_epoch or 0
    run.clock = replace(run.clock, step=first * run.clock.steps_per_epoch)  # where the learning rate is high
    parts: list[Seconds] = []

    def whole() -> None:
        parts.append(Seconds())
        cluster(run, parts[-1])

    def move() -> None:
        steps(run, run.clock, Seconds(), min(BETWEEN, run.clock.steps_per_epoch))

    times = in_turn({"moving": move, "bare": BarePass(trained.settings, source), "whole": whole}, repeats)
    return {
        "bare": times["bare"].wall,
        "extract": [seconds.extract for seconds in parts[1:]],
        "cluster": [seconds.cluster for seconds in parts[1:]],
        "ratio": ratio(times["whole"].wall, times["bare"].wall),
    }


class BarePass:
    """The encoder over every row, which is normalised already."""

    def __init__(self, settings: Settings, source: Source) -> None:
        net = build_encoder(settings.encoder, source.image_shape)[0]
        self.net = net.to(DEVICE, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        pixels = source.read().to(DEVICE, torch.float32, memory_format=torch.channels_last)
        self.chunks, self.precision = pixels.div_(127.5).sub_(1).split(CHUNK), settings.optim.precision

    @torch.no_grad()
    def __call__(self) -> None:
        """A pass."""
        for chunk in self.chunks:
            with autocast(self.precision, DEVICE):
                self.net(chunk)


def line(found: tuple[str, list[Seconds]], n_images: int) -> list[str]:
    """A row of the table."""
    name, turns = found
    total = spread([seconds.total for seconds in turns])
    parts = [spread([getattr(seconds, part) for seconds in turns])["median"] for part in PARTS]
    return [name, f"{n_images / total['median']:,.0f}", shown(total), *(f"{part:.2f}" for part in parts)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
