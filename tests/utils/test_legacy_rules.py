"""What each flat key of the earlier ProPos repository meant is what it sets."""

from typing import Any

import pytest

from tests.flat_configs import BYOL, CIFAR20_R34, IMAGENET_R50, fates_of, set_of


def test_batch_counts_rows_devices_and_accumulation() -> None:
    ours = set_of(IMAGENET_R50)
    assert (ours["optim.global_batch"], ours["optim.accumulation"], ours["method.bn_groups"]) == (4096, 16, 1)


def test_an_unknown_number_of_devices_is_taken_as_one_and_said() -> None:
    flat = {"model_name": "propos", "batch_size": 96}
    assert (set_of(flat)["optim.global_batch"], set_of(flat)["method.bn_groups"]) == (96, 1)
    assert "does not say how many devices" in fates_of(flat)["num_devices"]


@pytest.mark.parametrize(
    ("flat", "ours"),
    [
        (CIFAR20_R34, {"optim.schedule": "propos_cifar20_r34", "method.name": "propos", "method.resample": True}),
        (CIFAR20_R34, {"method.views_in_one_forward": True, "method.ema_momentum_final": 1.0}),
        (BYOL, {"method.name": "byol", "estep.every_epochs": 10, "optim.schedule": "propos_cosine"}),
        (IMAGENET_R50, {"optim.name": "lars", "optim.lars_variant": "you2017", "optim.decay_norm_and_bias": False}),
        (IMAGENET_R50, {"views.second": {"blur": 0.1, "solarize": 0.2}, "views.blur": 1.0}),
        (IMAGENET_R50, {"views.jitter": [0.4, 0.4, 0.2, 0.1], "eval.every_epochs": 1000, "method.queue_size": 10240}),
        (IMAGENET_R50, {"data.image_size": 224, "data.split": "train", "encoder.stem": "imagenet"}),
        (
            {"model_name": "propos"},
            {"method.scattering_weight": 1.0, "optim.weight_decay": 1e-4, "optim.min_lr_ratio": 0.01},
        ),
        ({"model_name": "propos", "use_gaussian_blur": True}, {"views.blur": 0.5}),
        ({"model_name": "propos", "resized_crop_scale": 0.2}, {"views.crop_scale": [0.2, 1.0]}),
        (
            {"model_name": "propos", "fix_predictor_lr": True, "lambda_predictor_lr": 7.0},
            {"optim.predictor_lr_scale": 1.0},
        ),
        ({"model_name": "propos", "fix_predictor_lr": True}, {"optim.fixed_predictor_lr": True}),
        ({"model_name": "propos", "amp": True}, {"optim.precision": "bf16"}),
        ({"model_name": "propos", "num_cluster": 30, "seed": 5}, {"estep.n_clusters": 30, "run.seed": 5}),
        ({"model_name": "propos", "data_folder": "/data"}, {"data.root": "/data"}),
        (
            {"model_name": "propos", "data_root": "/data", "run_name": "mine"},
            {"data.root": "/data", "run.name": "mine"},
        ),
        ({"model_name": "propos", "momentum_max": 0.99}, {"method.ema_momentum_final": None}),
        ({"model_name": "propos", "momentum": 0.8}, {"optim.sgd_momentum": 0.8}),
        ({"model_name": "propos", "whole_dataset": "yes"}, {"data.split": "train+test"}),
    ],
)
def test_a_key_sets_what_it_meant(flat: dict[str, Any], ours: dict[str, Any]) -> None:
    assert {key: set_of(flat)[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("flat", "key", "fate"),
    [
        (IMAGENET_R50, "resume_epoch", "not supported resume_epoch: 170 (this starts afresh"),
        (IMAGENET_R50, "print_freq", "not needed    print_freq: 100 (nothing read it; log.every_steps is ours)"),
        (IMAGENET_R50, "use_gaussian_blur", "not needed    use_gaussian_blur: true (byol_transform sets the blur)"),
        (
            IMAGENET_R50,
            "learning_eta_min",
            "default       learning_eta_min: 0.01 (not in the file) -> optim.min_lr_ratio: 0.01",
        ),
        (CIFAR20_R34, "use_copy", "not needed    use_copy: true (all ranks embed with equal weights"),
        (
            CIFAR20_R34,
            "cluster_loss_weight",
            "translated    cluster_loss_weight: 0.1 -> method.scattering_weight: 0.1 (its",
        ),
        (BYOL, "cluster_loss_weight", "not needed    cluster_loss_weight: 0.0 (byol has no prototypes)"),
        (
            BYOL,
            "model_name",
            "translated    model_name: propos -> method.name: byol, optim.schedule: propos_cosine (without",
        ),
        (BYOL | {"symmetric": False}, "symmetric", "not supported symmetric: false (both directions"),
        (BYOL | {"momentum_max": 1.0}, "momentum_max", "not needed    momentum_max: 1.0 (read only with"),
        (BYOL | {"img_size": 64}, "img_size", "not supported img_size: 64 (views keep the 32 px"),
        (BYOL | {"label_file": "y.npy"}, "label_file", "not supported label_file: y.npy (labels never train)"),
        (BYOL | {"resume_epoch": 0}, "resume_epoch", "not needed    resume_epoch: 0 (a fresh start)"),
        (
            BYOL | {"local_rank": 0, "learning_rate": 0.1},
            "learning_rate",
            "translated    learning_rate: 0.1 -> optim.lear",
        ),
    ],
)
def test_the_reason_is_printed(flat: dict[str, Any], key: str, fate: str) -> None:
    assert fates_of(flat)[key].startswith(fate)


def test_a_config_exported_by_wandb_is_warned_of_its_scaled_learning_rate() -> None:
    flat = BYOL | {"learning_rate": 0.1}
    assert "divide it by global_batch / 256" in fates_of(flat | {"local_rank": 0})["learning_rate"]
    assert "divide" not in fates_of(flat)["learning_rate"]
