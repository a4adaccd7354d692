"""Flat configs of the earlier ProPos repository for SimCLR, MoCo, PCL and SimSiam, as YAML and as W&B's JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.flat_configs import fates_of, set_of
from training.settings import sections
from utils.config import compose, validate
from utils.errors import UserError
from utils.legacy import is_flat

SHARED = {
    "amp": False, "faiss": False, "epochs": 1000, "img_size": 32, "momentum": 0.9, "use_copy": False,
    "batch_size": 128, "local_rank": 0, "print_freq": 10, "num_cluster": None, "num_workers": 32, "resume_epoch": 0,
    "data_resample": False, "warmup_epochs": 50, "whole_dataset": True, "use_gaussian_blur": False,
}  # fmt: skip
PCL_CIFAR20_R18: dict[str, Any] = SHARED | {
    "model_name": "pcl", "mlp": True, "seed": 1, "dataset": "cifar20", "feat_dim": 128, "reassign": 1, "moco_temp": 1,
    "save_freq": 1, "symmetric": True, "queue_size": 4096, "encoder_name": "bigresnet18", "cls_loss_weight": 0.01,
    "num_clusters": "250,500,1000", "weight_decay": 0.0001, "learning_rate": 0.1, "moco_momentum": 0.99,
}  # fmt: skip
SIMSIAM_CIFAR10_R34: dict[str, Any] = SHARED | {
    "model_name": "simsiam", "seed": 0, "dataset": "cifar10", "feat_dim": 2048, "reassign": 50, "save_freq": 50,
    "encoder_name": "bigresnet34", "weight_decay": 0.0005, "learning_rate": 0.06, "fix_predictor_lr": True,
    "projection_num_layers": 2,
}  # fmt: skip


def exported(flat: dict[str, Any]) -> dict[str, Any]:
    """As W&B writes a config."""
    return {"_wandb": {"desc": None, "value": {"framework": "torch"}}} | {
        key: {"desc": None, "value": value} for key, value in flat.items()
    }


@pytest.mark.parametrize(
    ("flat", "method", "optim"),
    [
        (
            PCL_CIFAR20_R18,
            {
                "name": "pcl", "bn_groups": 1, "warmup_epochs": 50, "projection_dim": 128, "head_layers": 2,
                "ema_momentum": 0.99, "queue_size": 4096, "temperature": 1, "symmetric": "sum",
                "n_prototypes": [250, 500, 1000], "prototype_weight": 0.01,
            },
            {"weight_decay": 0.0001, "learning_rate": 0.1},
        ),
        (
            SIMSIAM_CIFAR10_R34,
            {
                "name": "simsiam", "bn_groups": 1, "views_in_one_forward": True, "hidden_dim": 2048,
                "predictor_dim": 512, "projector_layers": 2,
            },
            {
                "weight_decay": 0.0005, "learning_rate": 0.06, "fixed_predictor_lr": True,
                "predictor_lr_scale": 1.0,
            },
        ),
    ],
    ids=["pcl", "simsiam"],
)  # fmt: skip
def test_the_published_json_files_become_these_sections(
    tmp_path: Path, flat: dict[str, Any], method: dict[str, Any], optim: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(exported(flat), indent=4))
    composed = compose([tmp_path / "config.json"])
    assert composed.values["method"] == method
    common = {
        "name": "sgd", "epochs": 1000, "global_batch": 128, "accumulation": 1, "schedule": "propos_cosine",
        "warmup_epochs": 50, "min_lr_ratio": 0.01, "sgd_momentum": 0.9, "decay_norm_and_bias": True,
        "precision": "fp32",
    }  # fmt: skip
    assert composed.values["optim"] == common | optim
    assert composed.values["data"] == {"name": flat["dataset"], "split": "train+test"}
    assert composed.values["estep"] == {"every_epochs": flat["reassign"], "n_clusters": None}
    checked = validate(composed, sections())
    assert {name: set(keys) for name, keys in composed.values.items()} == {
        name: checked[name].model_fields_set for name in composed.values
    }
    rate = next(fate for fate in composed.fates if " learning_rate: " in fate)
    assert rate.endswith("(a config exported by W&B holds the scaled value: divide it by global_batch / 256)")
    assert not any("_wandb:" in fate for fate in composed.fates)


def test_an_error_in_an_exported_file_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(exported(PCL_CIFAR20_R18 | {"num_clusters": "many"}), indent=4))
    with pytest.raises(UserError, match=r"config\.json:\d+: num_clusters: 'many' is not like 250,500,1000"):
        compose([tmp_path / "config.json"])


def test_exported_files_are_told_from_sections() -> None:
    assert is_flat(exported({"model_name": "pcl"}))
    assert not is_flat({"optim": {"value": 3}, "method": {"name": "pcl"}})


@pytest.mark.parametrize(
    ("flat", "ours"),
    [
        (
            {"model_name": "moco"},
            {
                "method.name": "moco", "method.head_layers": 1, "method.symmetric": "none", "method.queue_size": 65536,
                "method.temperature": 0.07, "method.ema_momentum": 0.999, "method.projection_dim": 2048,
                "optim.decay_norm_and_bias": True, "optim.weight_decay": 1e-4, "optim.warmup_epochs": 0,
            },
        ),
        (
            {"model_name": "moco", "num_devices": 4, "mlp": True, "symmetric": True},
            {"method.bn_groups": 4, "method.head_layers": 2, "method.symmetric": "sum", "optim.global_batch": 1024},
        ),
        (
            {"model_name": "simclr", "feat_dim": 256},
            {
                "method.name": "simclr", "method.temperature": 1.0, "method.projection_dim": 256,
                "method.views_in_one_forward": True, "optim.decay_norm_and_bias": False,
            },
        ),
        ({"model_name": "simsiam"}, {"method.projector_layers": 3, "optim.fixed_predictor_lr": False}),
    ],
)  # fmt: skip
def test_a_flat_config_sets_what_it_meant(flat: dict[str, Any], ours: dict[str, Any]) -> None:
    found = set_of(flat)
    assert {key: found[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("method", "key", "value", "fate"),
    [
        (
            "moco",
            "shuffling_bn",
            True,
            "not needed    shuffling_bn: true (with method.bn_groups above 1 keys are always",
        ),
        ("moco", "temperature", 0.5, "not needed    temperature: 0.5 (moco did not read it)"),
        ("simclr", "cluster_loss_weight", 0.1, "not needed    cluster_loss_weight: 0.1 (simclr did not read it)"),
        ("simclr", "data_resample", True, "not supported data_resample: true (propos alone draws rows by cluster)"),
        ("simsiam", "data_resample", False, "not needed    data_resample: false (rows are drawn evenly)"),
    ],
)
def test_a_key_that_does_nothing_says_so(method: str, key: str, value: Any, fate: str) -> None:
    assert fates_of({"model_name": method, key: value})[key].startswith(fate)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"model_name": "pcl"}, "num_clusters: None is not like 250,500,1000"),
        ({"model_name": "simsiam", "feat_dim": 3}, "feat_dim: 3 is not an integer of at least 4"),
        ({"model_name": "moco", "mlp": "maybe"}, "mlp: maybe is not true or false"),
    ],
)
def test_a_value_without_a_meaning_costs_one_line(flat: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        set_of(flat)
    assert str(caught.value) == message
