"""What the speed benchmarks share: options, runs on images in memory, contenders in turn, spreads, what is written.

On the first CUDA device where there is one, else on the CPU.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.clustering_measure import machine, now
from data.batch import Batch
from data.sources.base import Source
from models.state import ClusterState
from training.build import Run, build_run, compile_networks
from training.settings import Settings, load_settings
from training.step import train_step
from utils import distributed
from utils.clock import Clock
from utils.config import compose
from utils.doctor import environment
from utils.process import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
SMALL_NET = ROOT / "config" / "cifar10_small_propos.yml"
DEVICE = distributed.pick_device()
CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # mean and deviation of a channel


def parser(about: str | None, *, repeats: int | None = None, threads: int | None = None) -> argparse.ArgumentParser:
    """The options that all have. repeats, threads: their defaults, where there are such options."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if repeats is not None:
        made.add_argument(
            "--repeats", type=int, default=repeats, metavar="N", help="turns of each (default: %(default)s)"
        )
    if threads is not None:
        made.add_argument("--threads", type=int, default=threads, metavar="N", help="of torch (default: %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    made.add_argument("words", nargs="*", metavar="key=value", help="for the config")
    return made


def prepare(threads: int | None = None) -> None:
    """Memory, threads and random numbers as they are to be, for all contenders."""
    keep_freed_memory()
    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)


class InMemory(Source):
    """Images (N, C, H, W) uint8 that are there already, of ten classes that nobody looks at."""

    def __init__(self, images: Tensor) -> None:
        channels, height, width = images.shape[1:]
        self.name, self.protocol, self.n_rows, self.n_classes = "in memory", f"{len(images):,} rows", len(images), 10
        self.image_shape, self.skipped, self._images = (channels, height, width), [], images
        self.mean, self.std = (CIFAR[0][:channels], CIFAR[1][:channels])

    def read(self, rows: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8, of all rows uncopied."""
        return self._images if rows is None else self._images[rows]

    def path(self, row: int) -> str:
        """Its number."""
        return str(row)

    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        """None."""
        return None

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        """None."""
        return None


def noise(n_rows: int, shape: tuple[int, int, int] = (3, 32, 32)) -> InMemory:
    """White noise."""
    return InMemory(torch.randint(256, (n_rows, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def settings_of(config: Path, words: list[str], world: int = 1) -> Settings:
    """Of a config file and `section.key=value` words."""
    return load_settings(compose([config], words), world)


class Steps:
    """Whole optimiser steps of a run, one after the other, as the training loop makes them: past all warm-ups.

    Each takes its batch from the run's feed (so makes its views), and moves weights, optimiser and target network.
    Without what the loop does between steps: a row of metrics every 50, a look at the clock and at signals.
    """

    def __init__(self, settings: Settings, source: Source) -> None:
        """Clusters, for a method that has some, are random. Collective."""
        self.run: Run = build_run(settings, DEVICE, source=source)
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(self.run.method.n_clusters, (source.n_rows,), generator=generator).to(DEVICE)
        self.state = None if self.run.method.first_e_step_epoch is None else ClusterState(labels=labels)
        self.start = self.clock = last_epoch(self.run.clock)
        compile_networks(self.run)
        self.parallel = distributed.parallel(self.run.method)
        self.batches = self.run.feed.rest_of_epoch(self.clock, self.state)
        self.run.method.train()

    def __call__(self, n_steps: int = 1) -> None:
        """So many steps; the last epoch begins anew where it ends."""
        run = self.run
        for _ in range(n_steps):
            if self.clock.finished:
                self.clock = self.start
                self.batches = run.feed.rest_of_epoch(self.clock, self.state)
            _, carry = train_step(
                self.parallel,
                run.method,
                run.optimizer,
                self.batches,
                self.state,
                self.clock,
                run.settings.optim,
                run.guard,
            )
            assert carry is not None
            run.method.after_step(carry, self.clock)
            self.clock = self.clock.tick()

    def batch(self) -> Batch:
        """The first micro-batch of the epoch."""
        return next(self.run.feed.rest_of_epoch(self.start, self.state))


def last_epoch(clock: Clock) -> Clock:
    """The beginning of the last one."""
    return Clock((clock.epochs - 1) * clock.steps_per_epoch, clock.steps_per_epoch, clock.epochs)


class Times(NamedTuple):
    """Seconds of each turn, by the wall and of all threads of this process."""

    wall: list[float]
    cpu: list[float]

    @property
    def fair(self) -> list[float]:
        """Of one thread the CPU's, which other processes hardly touch; of several, and of a GPU, the wall's."""
        return self.cpu if torch.get_num_threads() == 1 and DEVICE.type == "cpu" else self.wall


def in_turn(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """The contenders one after the other, so many times over; a first round is not counted."""
    times = {name: Times([], []) for name in contenders}
    for turn in range(-1, repeats):
        for name, work in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            synchronize()
            if turn >= 0:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large product: what this device reaches, the best of five."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    left, right = torch.randn(2, size, size, device=DEVICE).to(dtype)
    times = in_turn({"product": lambda: left @ right}, 5)["product"]
    return 2 * size**3 / min(times.fair)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Spread of the ratios of values that were taken in the same round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def shown(values: dict[str, float], form: str = ".3g") -> str:
    """'1.05 (1.04 to 1.07)'."""
    return f"{values['median']:{form}} ({values['low']:{form}} to {values['high']:{form}})"


def verdict(values: dict[str, float], bar: float, *, at_most: bool) -> str:
    """A ratio beside its bar."""
    met = values["median"] <= bar if at_most else values["median"] >= bar
    return f"{shown(values, '.2f')}, aim {'at most' if at_most else 'at least'} {bar}: {'met' if met else 'MISSED'}"


def table(rows: list[list[str]]) -> str:
    """Markdown; the first row is the head."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def facts() -> dict[str, Any]:
    """When, by which command, on what machine, with which versions."""
    return {
        "date": now(),
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "machine": machine(),
    }


def write(report: dict[str, Any], path: Path | None) -> None:
    """Say where it was measured; write all of it if there is a place."""
    where, what = report["machine"], report["environment"]
    torch_version = what["packages"]["torch"]
    print(
        f"\n{where['cpu']}, {what['cpus']} cores; torch {torch_version}, {what['device']}; "
        f"{what['git']}; {report['date']}"
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}")
