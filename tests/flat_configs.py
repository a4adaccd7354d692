"""Flat configs of the earlier ProPos repository, and what becomes of them."""

from typing import Any

from utils.legacy import translate

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


def fates_of(flat: dict[str, Any]) -> dict[str, str]:
    """The printed fate of each key."""
    return {fate.key: str(fate) for fate in translate(flat)[1]}


def set_of(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of ours and their values."""
    nested = translate(flat)[0]
    return {f"{section}.{key}": value for section, keys in nested.items() for key, value in keys.items()}
