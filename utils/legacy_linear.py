"""What becomes of the keys of a `lincls` config, the linear evaluation of the earlier ProPos repository."""

from functools import partial
from typing import Any

from utils.errors import UserError
from utils.legacy_methods import Earlier
from utils.legacy_rules import CIFAR, Decision, Flat, count, n_devices


def _name(flat: Flat) -> Decision:
    plain: dict[str, Any] = {"method.name": "linear", "method.mode": "online", "views.n_views": 1, "views.flip": 0.5}
    plain |= {"views.jitter": None, "views.grayscale": 0.0, "optim.decay_norm_and_bias": True}
    crop: dict[str, Any] = {"views.crop_scale": [0.08, 1.0]}
    if flat["dataset"] in CIFAR:
        crop = {"views.crop_scale": None, "views.pad": 0.125}
    return "translated", {**plain, **crop}, "frozen encoder, views encoded every epoch"


def _checkpoint(flat: Flat) -> Decision:
    if flat["pretrained_path"] is None:
        return "not supported", {}, "nothing to judge: set method.checkpoint"
    return "translated", {"method.checkpoint": flat["pretrained_path"]}, ""


def _batch_size(flat: Flat) -> Decision:
    rows, devices = count(flat, "batch_size"), n_devices(flat)
    return "translated", {"optim.global_batch": rows * devices}, f"{rows} rows x {devices} devices"


def _num_devices(flat: Flat) -> Decision:
    if flat["num_devices"] == -1:
        return "not needed", {}, "the file does not say how many devices: one is taken; mend with num_devices"
    return "not needed", {}, "see batch_size"


def _accumulation(flat: Flat) -> Decision:
    if count(flat, "acc_grd_step") > 1:
        raise UserError("acc_grd_step", "a linear evaluation has none", "set it to 1")
    return "not needed", {}, "one batch is one step"


def _image_size(flat: Flat) -> Decision:
    if flat["dataset"] in CIFAR:
        return "not needed", {}, "the size of the data set's images"
    size = count(flat, "img_size")
    if not flat["test_resized_crop"]:
        return "translated", {"data.image_size": size, "data.resize": "squash"}, "test images are squashed to a square"
    became = {"data.image_size": round(size * 256 / 224), "views.size": size, "views.test_crop": 0.875}
    return "translated", became, "tested on the middle 224 of 256"


def _schedule(flat: Flat) -> Decision:
    if not flat["step_lr"]:
        return "translated", {"optim.schedule": "propos_cosine", "optim.min_lr_ratio": flat["learning_eta_min"]}, ""
    became = {"optim.schedule": "step", "optim.milestones": flat["lr_decay_milestone"]}
    return "translated", became | {"optim.step_factor": flat["lr_decay_gamma"]}, ""


def _of_schedule(flat: Flat) -> Decision:
    return "not needed", {}, "see step_lr"


def _lars(flat: Flat) -> Decision:
    if not flat["lars"]:
        return "translated", {"optim.name": "sgd"}, ""
    return "translated", {"optim.name": "lars", "optim.lars_variant": "you2017", "optim.lars_trust": 1e-3}, ""


def _split(flat: Flat) -> Decision:
    if flat["whole_dataset"]:
        return "not supported", {}, "the train part is fitted, the test part judges"
    return "translated", {"data.split": "train+test"}, "the train part is fitted, the test part judges"


def _not_read(why: str, flat: Flat) -> Decision:
    return "not needed", {}, why


NOT_READ = {
    "seed": "the classifier's first weights have our seed",
    "run_name": "the result is named by its protocol and its data",
    "reassign": "nothing is clustered",
    "num_cluster": "the data set says how many classes there are",
    "test_freq": "the test rows are judged after every epoch",
    "feat_dim": "the encoder says how wide its features are",
    "data_resample": "rows are drawn evenly",
    "use_gaussian_blur": "its views are a crop and a flip",
    "byol_transform": "its views are a crop and a flip",
    "resized_crop_scale": "its crop took torchvision's 0.08 to 1 whatever this says",
    "wandb": "the result is a JSON file",
    "project_name": "the result is a JSON file",
    "entity": "the result is a JSON file",
}
LINCLS = Earlier(
    defaults={
        "lars": False,
        "step_lr": False,
        "lr_decay_milestone": [60, 80],
        "lr_decay_gamma": 0.1,
        "test_resized_crop": False,
        "img_size": 32,
        "pretrained_path": None,
    },
    renamed={},
    rules={
        "model_name": _name,
        "pretrained_path": _checkpoint,
        "batch_size": _batch_size,
        "num_devices": _num_devices,
        "acc_grd_step": _accumulation,
        "img_size": _image_size,
        "test_resized_crop": partial(_not_read, "see img_size"),
        "step_lr": _schedule,
        "lr_decay_milestone": _of_schedule,
        "lr_decay_gamma": _of_schedule,
        "learning_eta_min": _of_schedule,
        "lars": _lars,
        "whole_dataset": _split,
        **{key: partial(_not_read, why) for key, why in NOT_READ.items()},
    },
)
