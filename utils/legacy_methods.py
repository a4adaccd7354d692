"""What becomes of the keys of a flat config that one method of the earlier ProPos repository had for itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from utils.errors import UserError
from utils.legacy_rules import Decision, Flat, n_devices

Rule = Callable[[Flat], Decision]


@dataclass(frozen=True)
class Earlier:
    """One method of the earlier program: what it took where a file says nothing, new names, and rules as elsewhere."""

    defaults: Mapping[str, Any]
    renamed: Mapping[str, str]
    rules: Mapping[str, Rule]


def is_byol(flat: Flat) -> bool:
    """The earlier repository has no BYOL of its own: it is ProPos without scattering, noise and resampling."""
    return not (flat["cluster_loss_weight"] or flat["latent_std"] or flat["data_resample"])


def _method_name(flat: Flat) -> Decision:
    schedule = "propos_cifar20_r34" if flat["model_name"] == "propos_cifar20_r34" else "propos_cosine"
    name = "byol" if is_byol(flat) else "propos"
    why = "without scattering and noise it is BYOL; " if name == "byol" else ""
    return "translated", {"method.name": name, "optim.schedule": schedule}, why + RELEASED_CURVE


def _scattering(flat: Flat) -> Decision:
    if is_byol(flat):
        return "not needed", {}, "byol has no prototypes"
    ranks = n_devices(flat)
    # its gather lost a factor 1 / ranks in the backward pass
    why = f"its code applied 1/{ranks} of it: divide by {ranks} for parity with its numbers" if ranks > 1 else ""
    return "translated", {"method.scattering_weight": flat["cluster_loss_weight"]}, why


def _of_prototypes(key: str, flat: Flat) -> Decision:
    if is_byol(flat):
        return "not needed", {}, "byol has no prototypes"
    return "translated", {OF_PROTOTYPES[key]: flat[key]}, ""


def _warmup_epochs(flat: Flat) -> Decision:
    became = {"optim.warmup_epochs": flat["warmup_epochs"]}
    if not is_byol(flat):
        became["method.warmup_epochs"] = flat["warmup_epochs"]
    return "translated", became, ""


def _momentum_increase(flat: Flat) -> Decision:
    final = flat["momentum_max"] if flat["momentum_increase"] else None
    return "translated", {"method.ema_momentum_final": final}, "" if final is not None else "constant momentum"


def _momentum_max(flat: Flat) -> Decision:
    if flat["momentum_increase"]:
        return "not needed", {}, "see momentum_increase"
    return "not needed", {}, "read only with momentum_increase: true"


def _predictor_scale(flat: Flat) -> Decision:
    if flat["fix_predictor_lr"]:
        return "translated", {"optim.predictor_lr_scale": 1.0}, "fix_predictor_lr keeps it at the peak, unscaled"
    return "translated", {"optim.predictor_lr_scale": flat["lambda_predictor_lr"]}, ""


def _fixed_predictor(flat: Flat) -> Decision:
    return "translated", {"optim.fixed_predictor_lr": flat["fix_predictor_lr"]}, ""


def _exclude(flat: Flat) -> Decision:
    became = {"optim.decay_norm_and_bias": not flat["exclude_bias_and_bn"]}
    return "translated", became, "by shape, not by name" if flat["exclude_bias_and_bn"] else ""


def _lars(flat: Flat) -> Decision:
    if not flat["lars"]:
        return "translated", {"optim.name": "sgd"}, ""
    return "translated", {"optim.name": "lars", "optim.lars_variant": "you2017", "optim.lars_trust": 1e-3}, ""


def _symmetric(flat: Flat) -> Decision:
    if flat["symmetric"]:
        return "not needed", {}, "both directions always count"
    return "not supported", {}, "both directions always count, one alone cannot"


def _shuffling(flat: Flat) -> Decision:
    if not flat["shuffling_bn"]:
        return "not needed", {}, "the target's rows stay in order"
    return "not supported", {}, "the target's rows stay in order: its BatchNorm groups are those of the online network"


def _syncbn(flat: Flat) -> Decision:
    return "not needed", {}, "method.bn_groups: 1 synchronises all" if flat["syncbn"] else "method.bn_groups says it"


def _named(name: str, flat: Flat, **became: Any) -> Decision:
    """A method that is called as here; all of them took SGD."""
    values = {"method.name": name, "optim.name": "sgd", "optim.schedule": "propos_cosine"}
    return "translated", values | {key.replace("__", "."): value for key, value in became.items()}, RELEASED_CURVE


def _both_directions(flat: Flat) -> Decision:
    return "translated", {"method.symmetric": "sum" if flat["symmetric"] else "none"}, ""


def _head(flat: Flat) -> Decision:
    return "translated", {"method.head_layers": 2 if flat["mlp"] else 1}, ""


def _shuffled(flat: Flat) -> Decision:
    return "not needed", {}, "with method.bn_groups above 1 keys are always shuffled"


def _prototypes(flat: Flat) -> Decision:
    try:
        numbers = [int(word) for word in str(flat["num_clusters"]).split(",")]
    except ValueError:
        raise UserError("num_clusters", f"{flat['num_clusters']!r} is not like 250,500,1000") from None
    return "translated", {"method.n_prototypes": numbers}, ""


def _warmups(flat: Flat) -> Decision:
    return "translated", {f"{section}.warmup_epochs": flat["warmup_epochs"] for section in ("optim", "method")}, ""


def _simsiam_widths(flat: Flat) -> Decision:
    width = flat["feat_dim"]
    if not isinstance(width, int) or width < 4:
        raise UserError("feat_dim", f"{width!r} is not an integer of at least 4")
    return "translated", {"method.hidden_dim": width, "method.predictor_dim": width // 4}, ""


def _simsiam_predictor(flat: Flat) -> Decision:
    became = {"optim.fixed_predictor_lr": flat["fix_predictor_lr"], "optim.predictor_lr_scale": 1.0}
    return "translated", became, ""


RELEASED_CURVE = "the released learning-rate curve"
OF_PROTOTYPES = {
    "latent_std": "method.latent_std",
    "temperature": "method.temperature",
    "queue_size": "method.queue_size",
    "data_resample": "method.resample",
}
PROPOS = Earlier(
    defaults={
        "lambda_predictor_lr": 10.0,
        "fix_predictor_lr": False,
        "lars": False,
        "exclude_bias_and_bn": False,
        "hidden_size": 4096,
        "momentum_base": 0.996,
        "momentum_increase": False,
        "momentum_max": 1.0,
        "cluster_loss_weight": 1.0,
        "latent_std": 0.0,
        "temperature": 0.5,
        "queue_size": 0,
        "v2": False,
        "shuffling_bn": False,
        "syncbn": False,
        "symmetric": False,
    },
    renamed={
        "hidden_size": "method.hidden_dim",
        "feat_dim": "method.projection_dim",
        "momentum_base": "method.ema_momentum",
        "v2": "method.views_in_one_forward",
    },
    rules={
        "model_name": _method_name,
        "cluster_loss_weight": _scattering,
        "warmup_epochs": _warmup_epochs,
        "momentum_increase": _momentum_increase,
        "momentum_max": _momentum_max,
        "lambda_predictor_lr": _predictor_scale,
        "fix_predictor_lr": _fixed_predictor,
        "exclude_bias_and_bn": _exclude,
        "lars": _lars,
        "symmetric": _symmetric,
        "shuffling_bn": _shuffling,
        "syncbn": _syncbn,
        **{key: partial(_of_prototypes, key) for key in OF_PROTOTYPES},
    },
)
SIMCLR = Earlier(
    defaults={"temperature": 1.0},
    renamed={"temperature": "method.temperature", "feat_dim": "method.projection_dim"},
    rules={
        "model_name": partial(_named, "simclr", method__views_in_one_forward=True, optim__decay_norm_and_bias=False)
    },
)
MOCO = Earlier(
    defaults={"mlp": False, "symmetric": False, "moco_momentum": 0.999, "queue_size": 65536, "moco_temp": 0.07},
    renamed={
        "feat_dim": "method.projection_dim",
        "moco_momentum": "method.ema_momentum",
        "queue_size": "method.queue_size",
        "moco_temp": "method.temperature",
    },
    rules={
        "model_name": partial(_named, "moco", optim__decay_norm_and_bias=True),
        "mlp": _head,
        "symmetric": _both_directions,
        "shuffling_bn": _shuffled,
    },
)
PCL = Earlier(
    defaults={**MOCO.defaults, "cls_loss_weight": 1.0, "num_clusters": None},
    renamed={**MOCO.renamed, "cls_loss_weight": "method.prototype_weight"},
    rules={
        **MOCO.rules,
        "model_name": partial(_named, "pcl", optim__decay_norm_and_bias=True),
        "num_clusters": _prototypes,
        "warmup_epochs": _warmups,
    },
)
SIMSIAM = Earlier(
    defaults={"projection_num_layers": 3, "fix_predictor_lr": False},
    renamed={"projection_num_layers": "method.projector_layers"},
    rules={
        "model_name": partial(_named, "simsiam", method__views_in_one_forward=True, optim__decay_norm_and_bias=True),
        "feat_dim": _simsiam_widths,
        "fix_predictor_lr": _simsiam_predictor,
    },
)
EARLIER = {
    "propos": PROPOS,
    "propos_cifar20_r34": PROPOS,
    "simclr": SIMCLR,
    "moco": MOCO,
    "pcl": PCL,
    "simsiam": SIMSIAM,
}
