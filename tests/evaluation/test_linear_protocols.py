"""The protocols of config/linear against what their sources publish."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.linear_settings import PROTOCOLS, LinearSettings, load_linear, open_protocol, reference

# optimiser, highest learning rate at the published batch, that batch, epochs, schedule, milestones, weight decay, mode
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "moco": ("sgd", 30, 256, 100, "step", (60, 80), 0, "online"),
    "propos_r50": ("sgd", 30, 32 * 8, 100, "step", (60, 80), 0, "online"),
    "propos_r50_lars": ("lars", 1.6, 512 * 8, 90, "warmup_cosine", (), 0, "online"),
    "simsiam": ("lars", 1.6, 4096, 90, "epoch_cosine", (), 0, "online"),
    "swav": ("sgd", 0.3, 32 * 8, 100, "epoch_cosine", (), 1e-6, "online"),
    "dino": ("sgd", 0.001 * 1024 / 256, 128 * 8, 100, "epoch_cosine", (), 0, "online"),
    "dinov2": ("sgd", None, 128 * 8, 10, "warmup_cosine", (), 0, "online"),
    "solo": ("sgd", 0.3, 256, 100, "step", (60, 80), 0, "online"),
    "lightly": ("sgd", 0.1, 256, 90, "warmup_cosine", (), 0, "online"),
    "temi": ("adam", 5e-3, 256, 100, "warmup_cosine", (), 1e-2, "cached"),
    "small": ("sgd", 30, 256, 100, "step", (60, 80), 0, "online"),
    "sweep": ("sgd", None, 256, 100, "warmup_cosine", (), 0, "cached"),
    "finetune": ("sgd", 0.03, 256, 30, "warmup_cosine", (), 1e-4, "online"),
}


def settings_of(name: str) -> LinearSettings:
    return load_linear(open_protocol(name, None, ["data.name=cifar10"]), Path("weights.pth"), 8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_protocol_has_its_published_values(name: str) -> None:
    settings = settings_of(name)
    optim, (optimiser, peak, batch, epochs, schedule, milestones, decay, mode) = settings.optim, PUBLISHED[name]
    assert (optim.name, optim.global_batch, optim.epochs) == (optimiser, batch, epochs)
    assert (optim.schedule, optim.milestones, optim.weight_decay) == (schedule, milestones, decay)
    assert optim.sgd_momentum == 0.9 and optim.warmup_epochs == (name == "finetune") and optim.min_lr_ratio == 0
    assert peak is None or optim.peak_learning_rate == pytest.approx(peak)
    assert settings.method.mode == mode and settings.views.n_views == 1
    if mode == "online":
        small = name == "small"
        assert settings.views.crop_scale == (None if small else (0.08, 1.0)) and settings.views.pad == 0.125 * small
        assert settings.views.flip == 0.5 and settings.views.jitter is None and settings.views.grayscale == 0


def test_every_protocol_that_ships_is_checked() -> None:
    assert {path.stem for path in PROTOCOLS.glob("*.yml")} == set(PUBLISHED)


def test_lars_is_that_of_its_source_and_adapts_biases_too() -> None:
    for name, variant in [("propos_r50_lars", "you2017"), ("simsiam", "larc")]:
        optim = settings_of(name).optim
        assert (optim.lars_variant, optim.lars_trust, optim.lars_clip) == (variant, 1e-3, False)
        assert optim.decay_norm_and_bias


def test_dinov2_has_52_classifiers_and_dino_four_class_tokens() -> None:
    found = settings_of("dinov2")
    assert len(found.learning_rates) * len(found.method.tokens) == 52
    published = [digit * 10**-place for place in (5, 4, 3, 2) for digit in (1, 2, 5)] + [0.1]
    assert sorted(found.learning_rates) == pytest.approx(published)
    assert settings_of("dino").method.tokens == ("last4",)


def test_the_reference_page_of_all_keys_is_current() -> None:
    assert Path("docs/config.md").read_text() == reference(), "docs/config.md is stale: make docs"
