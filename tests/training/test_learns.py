"""The pipeline learns: digits, real images, no labels in training, well above KMeans on pixels (ACC 0.79)."""

from pathlib import Path

import torch

from evaluation.scores import external_scores
from training.build import build_run
from training.log import Log
from training.loop import train
from training.settings import load_settings
from utils.config import compose

ROOT = Path(__file__).parent.parent.parent


def test_short_digits_run_finds_the_ten_digits() -> None:
    words = ["optim.epochs=40", "method.warmup_epochs=25", "optim.precision=fp32", "run.seed=3"]
    settings = load_settings(compose([ROOT / "config" / "digits_propos.yml"], words), 1)
    run = build_run(settings, torch.device("cpu"))
    with Log(settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None and run.state.labels is not None
    assert external_scores(run.state.labels, run.source.read_truth(None))["acc"] > 0.9
