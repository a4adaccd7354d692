"""What a run would be and cost, told without training: steps, memory, messages, time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from data.sources.base import GIB, DataConfig, Source, describe_rows
from data.sources.encoded import DEFAULT_SIZE, EncodedImages
from data.sources.folder import list_folder
from data.sources.image_list import list_file
from data.sources.remembered import Remembered, facts_of
from data.sources.shards import list_shards
from data.store import open_source
from training.build import build_run
from training.checkpoint import KEPT
from training.dry_run_sizes import Sizes
from training.dry_run_step import Stage, Step, affordable, line_through
from training.settings import Settings
from utils.duration import duration

LISTS = {"folder": list_folder, "list": list_file, "shards": list_shards}
META = torch.device("meta")  # of tensors without numbers
CPU = torch.device("cpu")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def describe(settings: Settings, world: int, source: Source | None = None) -> str:
    """Lines on a run: rows and steps, parameters, memory and messages of one of `world` ranks, time on this machine.

    Sizes are counted on the real networks without their numbers; what backward needs, the messages of a step and its
    time on steps of a few rows of noise. No own image is decoded, nothing downloaded, no process group made.

    source: what is known of the images, instead of a look at `settings.data`.

    Raises:
        UserError: images that are not there, or that the settings do not fit.
    """
    source = source or look(settings.data)
    facts = Remembered(facts_of(source), settings.data)
    facts.streams = source.streams
    with META:
        unread = settings.data.model_copy(update={"memory_gib": 0.0})
        run = build_run(replace(settings, data=unread), META, fresh=False, source=facts)
    run.settings = settings
    stage = Stage(settings, facts, run.method.n_clusters, CPU)
    sizes = Sizes(run, world, stage.state, stage.width)
    alone, steps = rehearse(stage, world, sizes.rows)
    return "\n".join(
        [
            f"{settings.method.name} on {source.name} ({source.protocol}), {_ranks(world)}; nothing is trained",
            *_work(sizes),
            *_memory(sizes, steps),
            *_messages(sizes, steps),
            *_time(sizes, alone, stage.embed_seconds(alone.rows)),
        ]
    )


def look(config: DataConfig) -> Source:
    """What is known of the images that `config` names; of own ones, which are listed, not decoded, nothing more.

    Published sets are opened where they are, never fetched.
    """
    if config.name not in LISTS:
        return open_source(config.model_copy(update={"download": False}))
    listing = LISTS[config.name](config)
    size = config.image_size or DEFAULT_SIZE
    facts: dict[str, Any] = {
        "name": config.name,
        "protocol": describe_rows(f"all files listed, none decoded, at {size} px", len(listing)),
        "n_rows": len(listing),
        "n_extra": 0,
        "image_shape": (3, size, size),
        "n_classes": None if listing.labels is None else len({label for label in listing.labels if label}),
        "mean": EncodedImages.mean,
        "std": EncodedImages.std,
    }
    source = Remembered(facts, config)
    too_many = len(listing) * 3 * size * size > config.cache_gib * GIB
    source.streams = config.store == "stream" or (config.store == "auto" and too_many)
    return source


def rehearse(stage: Stage, world: int, rows: int) -> tuple[Step, list[Step]]:
    """A step of one rank alone, timed, and one or two of `world` ranks of up to `rows` rows each."""
    tried = stage.step(1, stage.smallest(1), repeats=1)
    most = affordable(tried, rows * world if stage.device.type == "cpu" else rows)
    alone = stage.step(1, most, repeats=3) if most > tried.rows else tried
    unit = stage.smallest(world)
    more = min(rows, max(alone.rows, 2 * unit))
    return alone, [stage.step(world, number) for number in sorted({unit, max(unit, more // unit * unit)})]


def _work(sizes: Sizes) -> Iterator[str]:
    run, optim, clock = sizes.run, sizes.run.settings.optim, sizes.run.clock
    cut = "" if optim.accumulation == 1 else f" in each of {optim.accumulation} micro-batches"
    short = "" if clock.last_step == clock.total_steps else f"; run.max_steps ends it after {clock.last_step:,}"
    yield _line("steps", f"{clock.steps_per_epoch:,} x {clock.epochs:,} epochs = {clock.total_steps:,}{short}")
    yield _line("a step", f"{optim.global_batch:,} rows, {sizes.rows:,} a rank{cut}")
    n_rows = run.source.n_rows
    yield _line("E-steps", f"{sizes.e_steps:,} of {n_rows:,} rows, {math.ceil(n_rows / sizes.world):,} a rank")
    learnt = {name: p.numel() for name, p in run.method.named_parameters() if p.requires_grad}
    encoder = sum(number for name, number in learnt.items() if "encoder" in name.split("."))
    copies = sum(p.numel() for p in run.method.parameters()) - sum(learnt.values())
    heads = sum(learnt.values()) - encoder
    yield _line("parameters", f"{encoder + heads:,} learnt (encoder {encoder:,}, heads {heads:,}), {copies:,} not")


def _memory(sizes: Sizes, steps: Sequence[Step]) -> Iterator[str]:
    saved = line_through([(step.rows, step.saved_bytes) for step in steps], sizes.rows)
    parts = sizes.memory(saved)
    yield _line(
        "memory",
        f"{_size(sum(parts.values()))} a rank; in passing a step takes 1.2 to 1.3 times that, libraries their own:",
    )
    for name, size in parts.items():
        yield _line("", f"{_size(size):>10}  {name}")
    shown = " and ".join(f"{step.rows:,}" for step in steps)
    yield _line("", f"{'':>10}  ~ estimated from steps of {shown} rows a rank on the CPU, all else counted")
    if not sizes.resident:
        streams = sizes.run.source.streams
        where = "decoded each time they are asked for" if streams else f"read from {_size(sizes.images)} on the disk"
        yield _line("images", where)
    every = sizes.run.settings.run.keep_every_epochs
    kept = f"the {KEPT} newest are kept" + ("" if every is None else f", and one every {every} epochs")
    yield _line("checkpoint", f"{_size(sizes.checkpoint)}; {kept}")


def _messages(sizes: Sizes, steps: Sequence[Step]) -> Iterator[str]:
    world, run = sizes.world, sizes.run
    if world == 1:
        return
    share = (world - 1) / world
    gradients = 2 * share * sizes.learnt
    purposes = sorted(steps[0].sent)
    others = {name: line_through([(step.rows, step.sent[name]) for step in steps], sizes.rows) for name in purposes}
    yield _line("sent a step", f"{_size(gradients + sum(others.values()))} by a rank, and as much received:")
    yield _line("", f"{_size(gradients):>10}  gradients, 2 (W - 1) / W of their bytes")
    for name, size in others.items():
        yield _line("", f"{_size(size):>10}  {name}, {steps[0].messages[name]} messages")
    yield _line("an E-step", f"{_size(share * sizes.clusters[1])} by a rank: what the clusters know of each row;")
    a_pass = 2 * share * run.method.n_clusters * (sizes.width + 2) * 8
    if not run.method.heads and run.settings.estep.algorithm == "kmeans":
        yield _line("", f"{_size(a_pass)} in each pass of KMeans and restart of {run.method.n_clusters} clusters;")
    yield _line("", "not counted: starting points, neighbours")


def _time(sizes: Sizes, alone: Step, embedding: float) -> Iterator[str]:
    run, clock = sizes.run, sizes.run.clock
    step = alone.seconds * sizes.run.settings.optim.global_batch / (alone.rows * run.settings.optim.accumulation)
    pass_over_rows = embedding * run.source.n_rows
    total = step * clock.last_step + pass_over_rows * sizes.e_steps
    yield _line("time", f"one process on this machine's CPU, {torch.get_num_threads()} threads, estimated:")
    yield _line("", f"{_seconds(step):>10}  a step, from micro-batches of {alone.rows:,} rows of noise")
    yield _line("", f"{_seconds(step * clock.steps_per_epoch):>10}  an epoch")
    yield _line("", f"{_seconds(pass_over_rows):>10}  to embed all rows, in each E-step")
    yield _line("", f"{_seconds(total):>10}  the run, without decoding, clustering and scores")
    if sizes.world > 1:
        yield _line("", f"{_seconds(total / sizes.world):>10}  at best with {sizes.world} such machines, a rank each")


def _line(name: str, text: str) -> str:
    return f"{name:12}{text}"


def _ranks(world: int) -> str:
    return "1 rank" if world == 1 else f"{world} ranks"


def _size(n_bytes: float) -> str:
    power = min(len(UNITS) - 1, int(math.log2(max(1.0, n_bytes)) // 10))
    number = n_bytes / 1024**power
    return f"{number:.3g} {UNITS[power]}" if number < 1000 else f"{number:,.0f} {UNITS[power]}"


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    days = seconds / 86400
    return duration(seconds) if days < 3 else f"{days:,.0f} days"
