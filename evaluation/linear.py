"""Linear evaluation: classifiers on a frozen encoder's features, or fine-tuning, as published protocols have it."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.sampler import Sampler
from evaluation.finetune import finetune
from evaluation.linear_features import reader
from evaluation.linear_feed import Cached, Online, encode_rows
from evaluation.linear_heads import Heads
from evaluation.linear_progress import ProgressFile
from evaluation.linear_report import describe, one_line, table
from evaluation.linear_settings import LinearSettings, load_linear, open_protocol
from evaluation.linear_subject import Subject, open_subject
from evaluation.progress import Progress
from training.build import start
from utils import distributed
from utils.clock import Clock
from utils.config import Composed
from utils.files import write_json

Curve = list[list[list[float]]]  # of each epoch so far: held-out, top-1 and top-5 shares of each classifier


def linear(words: list[str], protocol: str, data: str | None) -> list[dict[str, Any]]:
    """What `main.py linear` does: each of several checkpoints under one protocol. Collective.

    words: folders of runs or files of weights, and `section.key=value`.

    Raises:
        UserError: nothing to judge, no such protocol, or settings that do not fit: before any is judged.
    """
    paths = [Path(word) for word in words if "=" not in word or Path(word).exists()]
    composed = open_protocol(protocol, data, [word for word in words if Path(word) not in paths])
    return judge_all(composed, [*paths] or [None])


def judge_all(composed: Composed, checkpoints: list[Path] | list[None]) -> list[dict[str, Any]]:
    """Judge each checkpoint, None being the config's own; prints, and writes a JSON beside each. Collective."""
    world = distributed.launched_world()
    settings = [load_linear(composed, checkpoint, world) for checkpoint in checkpoints]
    device = start(settings[0].run)
    results = [judge(each, device) for each in settings]
    if len(results) > 1 and distributed.is_main():
        print("\n" + "\n".join(one_line(result) for result in results), flush=True)
    return results


def judge(settings: LinearSettings, device: torch.device) -> dict[str, Any]:
    """Fit classifiers as `settings` say and score them on the test rows. Collective: equal on all ranks."""
    started = time.monotonic()
    subject = open_subject(settings, device)
    path = subject.folder / f"{name_of(settings, subject)}.json"
    if distributed.is_main():
        told = f"{settings.method.checkpoint}: {subject.trained}\n{subject.rows.words}\n{describe(settings)}"
        print(f"\n{told}", flush=True)
    progress = ProgressFile(path.with_suffix(".progress.pt"), settings, subject.trained)
    curve = (finetune if settings.method.finetune else fit)(settings, subject, progress)
    result = {
        "checkpoint": settings.method.checkpoint,
        "trained": subject.trained,
        "rows": subject.rows.words,
        "protocol": settings.protocol,
        "settings": describe(settings),
        "labels": settings.method.labels,
        **summarise(settings, curve),
        "seed": settings.run.seed,
        "world": distributed.world(),
        "seconds": time.monotonic() - started,
        "command": " ".join(sys.argv),
    }
    if distributed.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
        print(f"{table(result)}\nwrote {path}", flush=True)
    progress.remove()
    return result


def fit(settings: LinearSettings, subject: Subject, progress: ProgressFile) -> Curve:
    """Train the classifiers on the frozen encoder, all at once. Collective."""
    method, optim, rows, seed = settings.method, settings.optim, subject.rows, settings.run.seed
    read, slices = reader(subject.encoder, subject.width, method.tokens)

    def encode(which: Tensor, what: str) -> tuple[Tensor, Tensor]:
        return encode_rows(subject, read, which, optim.precision, what)

    test, held = encode(rows.test, "test"), encode(rows.held, "held-out")
    sampler = Sampler(len(rows.fitted), optim.global_batch, seed, name="linear order")
    feed: Cached | Online
    if method.mode == "cached":
        feed = Cached(*encode(rows.fitted, "train"), sampler)
    else:
        feed = Online(subject, read, sampler, optim.precision, seed)
    width = max(columns.stop for columns in slices)
    heads = Heads(slices, settings.learning_rates, width, rows.n_classes, optim, seed=seed, like=test[0])
    curve: Curve = []
    saved = progress.load()
    if saved is not None:
        heads.load_state_dict(saved["heads"])
        curve = saved["curve"]
    told = Progress("linear: epochs", optim.epochs)
    for epoch in range(len(curve), optim.epochs):
        clock = Clock(epoch * feed.steps_per_epoch, feed.steps_per_epoch, optim.epochs)
        for features, classes in feed.epoch(epoch):
            heads.step(features, classes, optim.global_batch, clock)
            clock = clock.tick()
        chosen_by = heads.hits(*held, 1) if len(rows.held) else torch.zeros(len(heads))
        curve.append([shares.tolist() for shares in (chosen_by, heads.hits(*test, 1), heads.hits(*test, 5))])
        progress.save({"heads": heads.state_dict(), "curve": curve})
        told.add()
    return curve


def summarise(settings: LinearSettings, curve: Curve) -> dict[str, Any]:
    """The classifiers with their shares after the last epoch, and the one that the held-out rows choose.

    Of equal ones the first; the classifier of the best epoch is told beside, chosen on the test rows as it is.
    """
    rates = settings.learning_rates
    scale = settings.optim.global_batch / 256
    heads = []
    for number, (held, top1, top5) in enumerate(zip(*curve[-1], strict=True)):
        over_epochs = [shares[1][number] for shares in curve]
        heads.append(
            {
                "features": settings.method.tokens[number // len(rates)],
                "learning_rate": rates[number % len(rates)] * scale,
                "held_out": held if len(curve[-1][0]) > 1 else None,
                "top1": top1,
                "top5": top5,
                "best_top1": max(over_epochs),
                "best_epoch": over_epochs.index(max(over_epochs)) + 1 if len(curve) > 1 else settings.optim.epochs,
            }
        )
    chosen = max(range(len(heads)), key=lambda number: (curve[-1][0][number], -number))
    return {"epochs": settings.optim.epochs, "heads": heads, "chosen": chosen, **heads[chosen]}


def name_of(settings: LinearSettings, subject: Subject) -> str:
    """linear-PROTOCOL, with images and share of labels where these are not the usual ones."""
    images = "" if settings.data.name in ("folder", "list", "shards") else f"-{subject.source.name}"
    share = "" if settings.method.labels == 1 else f"-{settings.method.labels:g}-of-labels"
    seed = f"-seed{settings.run.seed}" if settings.run.seed else ""
    return f"linear-{settings.protocol}{images}{share}{seed}"
