"""Fine-tuning and the views of online evaluation, against torch's own loop."""

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from data.sampler import Sampler
from evaluation.finetune import finetune
from evaluation.linear_feed import view_batches
from evaluation.linear_progress import ProgressFile
from evaluation.linear_subject import open_subject
from tests.evaluation.linear_runs import CPU, settings_of, untrained_run
from utils.clock import Clock
from utils.draws import seeded
from utils.schedules import warmup_cosine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs"))


def test_fine_tuning_is_torchs_own_loop(run: Path) -> None:
    words = ["method.encoder_lr_scale=0.3", "method.labels=0.3", "run.checkpoint_minutes=0", "optim.epochs=2"]
    settings = settings_of(run, *words, protocol="finetune")
    subject = open_subject(settings, CPU)
    kept: list[dict[str, Any]] = []
    with patch.object(ProgressFile, "save", lambda self, state: kept.append(copy.deepcopy(state["now"]["network"]))):
        finetune(settings, subject, ProgressFile(run / "unused.pt", settings, ""))
    encoder, head = copy.deepcopy(subject.encoder).train(), torch.nn.Linear(subject.width, 10).double()
    with torch.no_grad():
        weights = torch.randn(10, subject.width, generator=seeded(0, "linear", "weights"), dtype=torch.float64)
        head.weight.copy_(0.01 * weights)
        head.bias.zero_()
    parts = ((encoder, 0.3), (head, 1.0))
    groups = [
        {"params": [p for p in part.parameters() if (p.ndim > 1) == decayed], "scale": scale, "weight_decay": decay}
        for part, scale in parts
        for decayed, decay in ((True, 1e-4), (False, 0.0))
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    sampler = Sampler(len(subject.rows.fitted), 96, 0, name="linear order")
    clock = Clock(0, sampler.steps_per_epoch, 2)
    for epoch in range(2):
        for images, classes in view_batches(subject, sampler, epoch, 0):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(encoder(images)), classes).backward()
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * warmup_cosine(0.03 * 96 / 256, clock, warmup_epochs=1)
            optimizer.step()
            clock = clock.tick()
    expected = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    expected |= {f"head.{name}": value for name, value in head.state_dict().items()}
    for name, value in kept[-1].items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_views_are_drawn_anew_in_every_epoch(run: Path) -> None:
    subject = open_subject(settings_of(run, protocol="small"), CPU)
    sampler = Sampler(96, 96, 0)
    sampler.epoch = lambda epoch: iter([torch.arange(96)])  # the same rows in the same places
    first, second = (next(view_batches(subject, sampler, epoch, 0))[0] for epoch in (0, 1))
    assert (first != second).flatten(1).any(1).sum() > 48


def test_statistics_of_batchnorm_groups_reach_the_running_buffers(run: Path) -> None:
    settings = settings_of(
        run, "method.bn_groups=2", "method.labels=0.1", "run.checkpoint_minutes=0", protocol="finetune"
    )
    subject = open_subject(settings, CPU)
    kept: list[dict[str, Any]] = []
    with patch.object(ProgressFile, "save", lambda self, state: kept.append(copy.deepcopy(state["now"]["network"]))):
        finetune(settings, subject, ProgressFile(run / "unused.pt", settings, ""))
    before = subject.encoder.state_dict()["1.running_mean"]
    assert (kept[-1]["encoder.1.running_mean"] - before).abs().max() > 0.01
