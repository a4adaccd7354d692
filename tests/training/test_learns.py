"""Every method learns: it finds 4 kinds of texture in 64 images, which colour and brightness hide from KMeans."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.sources import SOURCES
from evaluation.scores import external_scores
from models import METHODS
from tests.runs import tiny_run
from tests.textures import textures
from torch_clustering import KMeans
from training.build import Run
from training.embed import map_rows
from training.log import Log
from training.loop import train

SETTINGS: dict[str, Any] = {
    "data__name": "textures", "data__split": "train", "encoder__name": "digits",
    # a window at a random place, in other colours: what is left is the kind
    "views__affine": None, "views__intensity": None, "views__crop_window": 0.5, "views__test_crop": 0.5,
    "views__size": 8, "views__flip": 0.5, "views__jitter": [0.8, 0.8, 0.8, 0.5], "views__jitter_probability": 1.0,
    "views__grayscale": 0.3,
    "optim__name": "adamw", "optim__learning_rate": 0.02, "optim__predictor_lr_scale": 1.0, "optim__epochs": 100,
    "optim__global_batch": 64, "optim__warmup_epochs": 2, "optim__weight_decay": 1e-4,
    "estep__n_init": 3, "estep__final_n_init": 10, "log__every_steps": 1000,
}  # fmt: skip
HEADS: dict[str, Any] = {"method__hidden_dim": 64, "method__projection_dim": 32}
QUEUE: dict[str, Any] = {**HEADS, "method__ema_momentum": 0.95, "method__queue_size": 256, "optim__epochs": 60}
TARGET: dict[str, Any] = {**HEADS, "method__ema_momentum": 0.98, "optim__epochs": 150}
OWN: dict[str, dict[str, Any]] = {
    "byol": {**TARGET, "method__ema_momentum_final": None},
    "propos": {**TARGET, "method__warmup_epochs": 75, "estep__every_epochs": 5},
    "simclr": {**HEADS, "optim__epochs": 60},
    "moco": QUEUE,
    "simsiam": {
        "method__hidden_dim": 128, "method__predictor_dim": 32, "optim__learning_rate": 0.003, "optim__epochs": 150,
    },
    "pcl": {**QUEUE, "method__n_prototypes": [4, 8], "method__warmup_epochs": 30, "estep__every_epochs": 5},
    "cc": {**HEADS, "optim__learning_rate": 0.01},
    "pica": {"method__over_clusters": [12], "optim__epochs": 60},
    "gcc": {**HEADS, "method__warmup_epochs": 20, "method__temperature": 0.5, "optim__epochs": 60},
    "and": {
        "method__projection_dim": 32, "method__temperature": 0.2, "method__n_neighbors": 5, "views__n_views": 1,
        "estep__every_epochs": 10, "optim__epochs": 60,
    },
    "scan": {
        "method__n_heads": 1, "method__n_neighbors": 3, "method__include_self": True, "views__n_views": 1,
        "optim__learning_rate": 0.01, "estep__n_init": 1, "estep__final_n_init": 1, "estep__every_epochs": 10,
    },
    "swav": {**HEADS, "method__n_prototypes": 32, "method__queue_size": 0, "optim__learning_rate": 0.01},
    "dino": {
        "method__hidden_dim": 64, "method__bottleneck_dim": 32, "method__out_dim": 64, "method__head_norm": True,
        "method__ema_momentum_final": None, "method__teacher_temperature": 0.05, "optim__learning_rate": 0.01,
    },
}  # fmt: skip
HIDDEN, FOUND = 0.7, 0.95
# not those that learn from another method's clusters, nor heads on the frozen features of an untrained encoder
ALONE = [name for name, method in METHODS.items() if method.starts_from != "clusters" and method.input == "images"]


@pytest.fixture(autouse=True)
def made_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "textures", textures)


def untrained(name: str, seed: int) -> Run:
    return tiny_run(name, **{**SETTINGS, **OWN.get(name, {})}, run__seed=seed)


def kmeans_accuracy(features: Tensor, truth: Tensor) -> float:
    kmeans = KMeans(4, metric="cosine", n_init=10, random_state=0).fit(F.normalize(features.flatten(1), dim=1))
    return external_scores(kmeans.labels_, truth)["acc"]


def accuracies(name: str, seed: int) -> tuple[float, float]:
    """ACC of KMeans on the encoder's features before training, and of the clusters after it."""
    run = untrained(name, seed)
    truth = run.source.read_truth(None)
    assert truth is not None
    features = map_rows(run.method.encode, run.method, run.store, run.views, torch.arange(len(truth)), "fp32")
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None and run.state.labels is not None
    return kmeans_accuracy(features, truth), external_scores(run.state.labels, truth)["acc"]


@pytest.mark.parametrize("name", ALONE)
def test_kinds_that_an_untrained_encoder_does_not_show_are_found(name: str) -> None:
    before, after = accuracies(name, 1)
    assert before <= HIDDEN
    assert after >= FOUND


def test_pixels_do_not_show_the_kinds() -> None:
    run = untrained("byol", 0)
    truth = run.source.read_truth(None)
    assert truth is not None
    assert torch.bincount(truth).tolist() == [16, 16, 16, 16]
    assert kmeans_accuracy(run.views.clean(run.store.images(torch.arange(64))), truth) <= HIDDEN
