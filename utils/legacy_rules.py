"""What becomes of the keys of a flat config that all methods of the earlier ProPos repository share.

A rule takes all flat keys, the earlier defaults filled in, and returns (status, our dotted keys and values, why).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from utils.errors import UserError, did_you_mean

Flat = Mapping[str, Any]
Status = Literal["translated", "default", "not needed", "not supported"]
Decision = tuple[Status, dict[str, Any], str]

ENCODERS = {f"{stem}resnet{depth}": f"resnet{depth}" for stem in ("big", "") for depth in (18, 34, 50)}
CIFAR = ("cifar10", "cifar20", "cifar100")


def count(flat: Flat, key: str) -> int:
    """A whole number above 0."""
    value = flat[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(key, f"{value!r} is not an integer of at least 1")
    return value


def n_devices(flat: Flat) -> int:
    """`num_devices`; one where the file leaves it open (-1: as many as there are)."""
    return 1 if flat["num_devices"] == -1 else count(flat, "num_devices")


def _batch_size(flat: Flat) -> Decision:
    rows, devices, steps = count(flat, "batch_size"), n_devices(flat), count(flat, "acc_grd_step")
    why = f"{rows} rows x {devices} devices" + (f" x {steps} accumulation steps" if steps > 1 else "")
    return "translated", {"optim.global_batch": rows * devices * steps}, why


def _num_devices(flat: Flat) -> Decision:
    groups = 1 if flat.get("syncbn") else n_devices(flat)
    why = "synchronised BatchNorm" if flat.get("syncbn") else "BatchNorm per device, on any number of ranks"
    if flat["num_devices"] == -1:
        why = "the file does not say how many devices: one is taken; mend with num_devices"
    return "translated", {"method.bn_groups": groups}, why


def _warmup_epochs(flat: Flat) -> Decision:
    return "translated", {"optim.warmup_epochs": flat["warmup_epochs"]}, ""


def _encoder(flat: Flat) -> Decision:
    name = str(flat["encoder_name"])
    if name not in ENCODERS:
        raise UserError("encoder_name", f"{name!r} cannot be translated{did_you_mean(name, ENCODERS)}")
    stem = "cifar" if name.startswith("big") else "imagenet"
    return "translated", {"encoder.name": ENCODERS[name], "encoder.stem": stem}, ""


def _image_size(flat: Flat) -> Decision:
    if flat["dataset"] not in CIFAR:
        return "translated", {"data.image_size": flat["img_size"]}, ""
    if flat["img_size"] == 32:
        return "not needed", {}, "the size of the data set's images"
    return "not supported", {}, "views keep the 32 px of the data set's images"


def _transform(flat: Flat) -> Decision:
    byol = flat["byol_transform"]
    jitter = [0.4, 0.4, 0.2 if byol else 0.4, 0.1]
    became: dict[str, Any] = {"views.flip": 0.5, "views.jitter": jitter, "views.jitter_probability": 0.8}
    became |= {"views.grayscale": 0.2, "views.hue": "hsv"}
    if byol:
        became |= {"views.blur": 1.0, "views.second": {"blur": 0.1, "solarize": 0.2}}
    return "translated", became, "BYOL's two views" if byol else "SimCLR's views, as torchvision computes them"


def _blur(flat: Flat) -> Decision:
    if flat["byol_transform"]:
        return "not needed", {}, "byol_transform sets the blur"
    became = {"views.blur": 0.5 if flat["use_gaussian_blur"] else 0.0}
    return "translated", became, "its kernel a tenth of the side, not 23 pixels" if became["views.blur"] else ""


def _amp(flat: Flat) -> Decision:
    amp = flat["amp"]
    return "translated", {"optim.precision": "bf16" if amp else "fp32"}, "fp16 then, bf16 now" if amp else ""


def _resume(flat: Flat) -> Decision:
    if not flat.get("resume_epoch") and not flat.get("resume_name"):
        return "not needed", {}, "a fresh start"
    return "not supported", {}, "this starts afresh; `main.py resume RUN` goes on with a run of this program"


def _whole_dataset(flat: Flat) -> Decision:
    return "translated", {"data.split": "train+test" if flat["whole_dataset"] else "train"}, ""


def _resample(flat: Flat) -> Decision:
    if not flat["data_resample"]:
        return "not needed", {}, "rows are drawn evenly"
    return "not supported", {}, "propos alone draws rows by cluster"


def _crop(flat: Flat) -> Decision:
    return "translated", {"views.crop_scale": [flat["resized_crop_scale"], 1.0]}, ""


def _label_file(flat: Flat) -> Decision:
    if flat["label_file"] is None:
        return "not needed", {}, "labels never train"
    return "not supported", {}, "labels never train"


RULES: dict[str, Callable[[Flat], Decision]] = {
    "batch_size": _batch_size,
    "num_devices": _num_devices,
    "warmup_epochs": _warmup_epochs,
    "encoder_name": _encoder,
    "img_size": _image_size,
    "whole_dataset": _whole_dataset,
    "label_file": _label_file,
    "byol_transform": _transform,
    "use_gaussian_blur": _blur,
    "resized_crop_scale": _crop,
    "amp": _amp,
    "data_resample": _resample,
    "resume_epoch": _resume,
    "resume_name": _resume,
}
