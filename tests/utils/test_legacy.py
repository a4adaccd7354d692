"""Flat configs of the earlier ProPos repository: every key has a fate, every value its place."""

from pathlib import Path
from typing import Any

import pytest

from training.settings import SECTIONS
from utils.config import compose, validate
from utils.errors import UserError
from utils.legacy import EARLIER_DEFAULTS, KNOWN, is_flat, translate

CIFAR10_R18 = """
batch_size: 128
num_devices: 4
momentum_base: 0.996
momentum_increase: false
dataset: cifar10
eval_metric:
  - nmi
  - acc
  - ari
whole_dataset: true
encoder_name: bigresnet18
epochs: 1000
feat_dim: 256
hidden_size: 4096
img_size: 32
lambda_predictor_lr: 10
learning_rate: 0.05
learning_eta_min: 0.
reassign: 1
save_freq: 1
save_checkpoints: true
shuffling_bn: true
symmetric: true
temperature: 0.5
use_gaussian_blur: false
warmup_epochs: 50
weight_decay: 0.0005
dist: true
model_name: propos
cluster_loss_weight: 0.1
latent_std: 0.001
wandb: true
project_name: 'Clustering'
entity: 'Hzzone'
"""
CIFAR20_R34: dict[str, Any] = {
    "model_name": "propos_cifar20_r34",
    "encoder_name": "bigresnet34",
    "batch_size": 64,
    "num_devices": 4,
    "momentum_increase": True,
    "momentum_max": 1.0,
    "data_resample": True,
    "v2": True,
    "use_copy": True,
    "cluster_loss_weight": 0.1,
    "latent_std": 0.001,
}
IMAGENET_R50: dict[str, Any] = {
    "model_name": "propos",
    "batch_size": 32,
    "num_devices": 8,
    "acc_grd_step": 16,
    "resume_epoch": 170,
    "resume_name": "2022-propos",
    "num_workers": 16,
    "encoder_name": "resnet50",
    "syncbn": True,
    "dataset": "imagenet",
    "byol_transform": True,
    "test_resized_crop": True,
    "use_gaussian_blur": True,
    "img_size": 224,
    "test_freq": 1000,
    "lars": True,
    "weight_decay": 1e-6,
    "exclude_bias_and_bn": True,
    "queue_size": 10240,
    "print_freq": 100,
}
BYOL: dict[str, Any] = {"model_name": "propos", "cluster_loss_weight": 0.0, "latent_std": 0.0, "reassign": 10}


def write(folder: Path, text: str) -> Path:
    (folder / "flat.yml").write_text(text)
    return folder / "flat.yml"


def fates_of(flat: dict[str, Any]) -> dict[str, str]:
    """The printed fate of each key."""
    return {fate.key: str(fate) for fate in translate(flat)[1]}


def set_of(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of ours and their values."""
    nested = translate(flat)[0]
    return {f"{section}.{key}": value for section, keys in nested.items() for key, value in keys.items()}


def test_the_published_cifar10_file_becomes_these_sections(tmp_path: Path) -> None:
    composed = compose([write(tmp_path, CIFAR10_R18)])
    assert composed.values == {
        "run": {"seed": 0},
        "data": {"name": "cifar10", "split": "train+test"},
        "views": {
            "crop_scale": [0.08, 1.0],
            "flip": 0.5,
            "jitter": [0.4, 0.4, 0.4, 0.1],
            "jitter_probability": 0.8,
            "grayscale": 0.2,
            "blur": 0.0,
            "hue": "hsv",
        },
        "encoder": {"name": "resnet18", "stem": "cifar"},
        "method": {
            "name": "propos",
            "bn_groups": 4,
            "views_in_one_forward": False,
            "warmup_epochs": 50,
            "hidden_dim": 4096,
            "projection_dim": 256,
            "ema_momentum": 0.996,
            "ema_momentum_final": None,
            "latent_std": 0.001,
            "scattering_weight": 0.1,
            "temperature": 0.5,
            "queue_size": 0,
            "resample": False,
        },
        "optim": {
            "name": "sgd",
            "epochs": 1000,
            "global_batch": 512,
            "accumulation": 1,
            "learning_rate": 0.05,
            "schedule": "propos_cosine",
            "warmup_epochs": 50,
            "min_lr_ratio": 0.0,
            "predictor_lr_scale": 10,
            "fixed_predictor_lr": False,
            "sgd_momentum": 0.9,
            "weight_decay": 0.0005,
            "decay_norm_and_bias": True,
            "precision": "fp32",
        },
        "estep": {"every_epochs": 1},
        "log": {"wandb": True, "wandb_project": "Clustering", "wandb_entity": "Hzzone"},
    }


def test_every_key_of_the_published_file_has_one_fate_in_order(tmp_path: Path) -> None:
    fates = compose([write(tmp_path, CIFAR10_R18)]).fates
    given = [line.split(":")[0] for line in CIFAR10_R18.splitlines() if line and not line.startswith(" ")]
    assert [fate[14:].split(":")[0] for fate in fates[: len(given)]] == given
    assert all(fate.startswith("default") and "(not in the file)" in fate for fate in fates[len(given) :])


def test_a_fate_is_one_readable_line() -> None:
    fates = fates_of({"model_name": "propos", "batch_size": 128, "num_devices": 4, "dist": True, "shuffling_bn": True})
    assert fates["batch_size"] == "translated    batch_size: 128 -> optim.global_batch: 512 (128 rows x 4 devices)"
    assert fates["dist"] == "not needed    dist: true (torchrun says how many ranks there are)"
    assert fates["shuffling_bn"].startswith("not supported shuffling_bn: true (the target's rows stay in order")
    assert fates["feat_dim"] == "default       feat_dim: 2048 (not in the file) -> method.projection_dim: 2048"


@pytest.mark.parametrize("flat", [{"model_name": "propos"}, CIFAR20_R34, IMAGENET_R50, BYOL])
def test_what_a_flat_config_sets_are_keys_of_our_sections(tmp_path: Path, flat: dict[str, Any]) -> None:
    composed = compose([write(tmp_path, "\n".join(f"{key}: {value}" for key, value in flat.items()))])
    checked = validate(composed, SECTIONS)
    assert {name: checked[name].model_fields_set for name in composed.values} == {
        name: set(keys) for name, keys in composed.values.items()
    }


def test_a_translated_value_keeps_the_line_of_its_flat_key(tmp_path: Path) -> None:
    composed = compose([write(tmp_path, "model_name: propos\nweight_decay: small\n")], ["optim.epochs=3"])
    with pytest.raises(UserError, match=r"flat\.yml:2: optim\.weight_decay: 'small' is not a number"):
        validate(composed, SECTIONS)
    assert composed.values["optim"]["epochs"] == 3


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


@pytest.mark.parametrize("key", sorted(KNOWN - {"model_name"}))
def test_each_known_key_has_a_fate(key: str) -> None:
    value = EARLIER_DEFAULTS.get(key, False if key == "wandb" else None)
    assert key in fates_of({"model_name": "propos", key: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_name: propos\nbatch_sise: 3\n", "flat.yml:2: batch_sise: no such key in a flat config of the earlier "),
        (
            "batch_size: 3\nepochs: 4\nseed: 5\n",
            "model_name: missing in a flat config (known: propos, propos_cifar20_r34)",
        ),
        ("model_name: moco\n", "flat.yml:1: model_name: a flat config of 'moco' cannot be translated ("),
        ("model_name: propos\nbatch_size: x\n", "flat.yml:2: batch_size: 'x' is not an integer of at least 1"),
        ("model_name: propos\nnum_devices: 0\n", "flat.yml:2: num_devices: 0 is not an integer of at least 1"),
        ("model_name: propos\nv2: maybe\n", "flat.yml:2: v2: maybe is not true or false"),
        (
            "encoder_name: resnet19\nmodel_name: propos\n",
            "flat.yml:1: encoder_name: 'resnet19' cannot be translated (did",
        ),
    ],
)
def test_a_wrong_flat_key_costs_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([write(tmp_path, text)])
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        ({"model_name": "propos"}, True),
        ({"batch_size": 3, "epochs": 4, "seed": 5}, True),
        ({"epochs": 4, "seed": 5}, False),
        ({"optim": {"epochs": 4}}, False),
        ({"model_name": "propos", "optim": {}}, False),
        ({}, False),
    ],
)
def test_flat_files_are_told_from_sections(values: dict[str, Any], flat: bool) -> None:
    assert is_flat(values) is flat
