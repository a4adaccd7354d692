"""Flat configs of the earlier ProPos repository: every key has a fate, every value its place."""

from pathlib import Path
from typing import Any

import pytest

from tests.flat_configs import BYOL, CIFAR10_R18, CIFAR20_R34, IMAGENET_R50, fates_of
from training.settings import sections
from utils.config import compose, validate
from utils.errors import UserError
from utils.legacy import EARLIER_DEFAULTS, KNOWN, is_flat
from utils.legacy_methods import EARLIER


def write(folder: Path, text: str) -> Path:
    (folder / "flat.yml").write_text(text)
    return folder / "flat.yml"


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
    checked = validate(composed, sections())
    assert {name: checked[name].model_fields_set for name in composed.values} == {
        name: set(keys) for name, keys in composed.values.items()
    }


def test_a_translated_value_keeps_the_line_of_its_flat_key(tmp_path: Path) -> None:
    composed = compose([write(tmp_path, "model_name: propos\nweight_decay: small\n")], ["optim.epochs=3"])
    with pytest.raises(UserError, match=r"flat\.yml:2: optim\.weight_decay: 'small' is not a number"):
        validate(composed, sections())
    assert composed.values["optim"]["epochs"] == 3


@pytest.mark.parametrize("method", EARLIER)
def test_each_known_key_has_a_fate_with_every_method(method: str) -> None:
    values = EARLIER_DEFAULTS | EARLIER[method].defaults | {"num_clusters": "3,5"}
    for key in KNOWN - {"model_name"}:
        flat = {"model_name": method, "num_clusters": "7", key: values.get(key, False if key == "wandb" else None)}
        assert key in fates_of(flat)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_name: propos\nbatch_sise: 3\n", "flat.yml:2: batch_sise: no such key in a flat config of the earlier "),
        (
            "batch_size: 3\nepochs: 4\nseed: 5\n",
            "model_name: missing in a flat config (known: lincls, moco, pcl, propos, "
            "propos_cifar20_r34, simclr, simsiam)",
        ),
        ("model_name: cc\n", "flat.yml:1: model_name: a flat config of 'cc' cannot be translated ("),
        ("model_name: [moco]\n", "flat.yml:1: model_name: a flat config of ['moco'] cannot be translated ("),
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
