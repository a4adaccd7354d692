"""Fine-tuning: the whole encoder and a linear classifier learn the labels together."""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.sampler import Sampler
from evaluation.knn import knn_accuracy
from evaluation.linear_feed import encode_rows, view_batches
from evaluation.linear_progress import ProgressFile
from evaluation.linear_settings import LinearSettings
from evaluation.linear_subject import Subject
from evaluation.progress import Progress
from training.optim import OptimConfig, build_optimizer, clip, set_schedules
from training.step import autocast
from utils import distributed
from utils.clock import Clock
from utils.draws import seeded
from utils.group_batchnorm import convert_batchnorm, start_commit

Shares = list[float]


class Classifier(nn.Module):
    """An encoder, (B, C, H, W) to (B, width), and a linear classifier of its output, N(0, 0.01^2) at the start."""

    def __init__(self, encoder: nn.Module, width: int, n_classes: int, seed: int) -> None:
        super().__init__()
        like = next(encoder.parameters())
        self.encoder, self.head = encoder, nn.Linear(width, n_classes, dtype=like.dtype, device=like.device)
        start = torch.randn(n_classes, width, generator=seeded(seed, "linear", "weights"), dtype=torch.float64) * 0.01
        with torch.no_grad():
            self.head.weight.copy_(start)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) logits."""
        return self.head(self.encoder(images))


def finetune(settings: LinearSettings, subject: Subject, progress: ProgressFile) -> list[list[Shares]]:
    """Fine-tune once for each learning rate. Collective.

    Returns what `linear.fit` does, of the last epoch alone: held-out, top-1 and top-5 share of each.
    """
    rates, rows = settings.learning_rates, subject.rows
    saved = progress.load() or {"shares": [], "now": None}
    shares: list[Shares] = saved["shares"]  # of the learning rates that are done: held-out, top-1, top-5
    for number in range(len(shares), len(rates)):
        config = settings.optim.model_copy(update={"learning_rate": rates[number]})
        encoder = convert_batchnorm(copy.deepcopy(subject.encoder), settings.method.bn_groups)
        network = Classifier(encoder.requires_grad_(), subject.width, rows.n_classes, settings.run.seed)
        _train(network, settings, config, subject, progress, shares, saved["now"])
        saved["now"] = None
        test = _logits(network, subject, rows.test, config.precision)
        held = [knn_accuracy(*_logits(network, subject, rows.held, config.precision))] if len(rows.held) else [0.0]
        shares.append([*held, knn_accuracy(*test), knn_accuracy(*test, top=5)])
    return [[list(each) for each in zip(*shares, strict=True)]]


def _train(
    network: Classifier,
    settings: LinearSettings,
    config: OptimConfig,
    subject: Subject,
    progress: ProgressFile,
    shares: list[Shares],
    saved: dict[str, Any] | None,
) -> None:
    """All epochs of one learning rate, from where `saved` stands. Collective."""
    seed = settings.run.seed
    sampler = Sampler(len(subject.rows.fitted), config.global_batch, seed, name="linear order")
    parts = {"encoder": list(network.encoder.parameters()), "head": list(network.head.parameters())}
    optimizer = build_optimizer(config, parts)
    if saved is not None:
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
    parallel = distributed.parallel(network)
    told = Progress(f"fine-tuning at {config.peak_learning_rate:g}: epochs", config.epochs)
    for epoch in range(saved["epochs"] if saved else 0, config.epochs):
        network.train()
        clock = Clock(epoch * sampler.steps_per_epoch, sampler.steps_per_epoch, config.epochs)
        for images, classes in view_batches(subject, sampler, epoch, seed):
            optimizer.zero_grad(set_to_none=True)
            with autocast(config.precision, images.device):
                logits = parallel(images)
            commit_statistics = start_commit(network)
            F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), classes).backward()
            clip(list(network.parameters()), config)
            set_schedules(optimizer, config, clock)
            for group in optimizer.param_groups:
                group["lr"] *= settings.method.encoder_lr_scale if group["part"] == "encoder" else 1
            optimizer.step()
            commit_statistics()
            clock = clock.tick()
        now = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        progress.save({"shares": shares, "now": now})
        told.add()


def _logits(network: Classifier, subject: Subject, rows: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Logits (n, C) and classes (n,) of this rank's part of `rows`."""
    return encode_rows(replace(subject, encoder=network), network, rows, precision, "test")
