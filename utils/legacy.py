"""Flat configs of the earlier ProPos repository as sections, with the fate of every key.

Its batch sizes are per rank, ours are global; a key that a file leaves out has that repository's default, not ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.config_docs import in_yaml
from utils.errors import UserError, did_you_mean
from utils.legacy_linear import LINCLS
from utils.legacy_methods import EARLIER, Earlier
from utils.legacy_rules import RULES, Decision, Flat, Status

RENAMED = {
    "seed": "run.seed",
    "run_name": "run.name",
    "dataset": "data.name",
    "data_folder": "data.root",
    "data_root": "data.root",
    "epochs": "optim.epochs",
    "acc_grd_step": "optim.accumulation",
    "learning_rate": "optim.learning_rate",
    "learning_eta_min": "optim.min_lr_ratio",
    "momentum": "optim.sgd_momentum",
    "weight_decay": "optim.weight_decay",
    "reassign": "estep.every_epochs",
    "num_cluster": "estep.n_clusters",
    "test_freq": "eval.every_epochs",
    "wandb": "log.wandb",
    "project_name": "log.wandb_project",
    "entity": "log.wandb_entity",
}
WHY_RENAMED = {
    "learning_eta_min": "it always was a fraction of the peak",
    "num_cluster": "null: the number of classes",
    "wandb": "without a login it runs offline",
}
NOT_NEEDED = {
    "dist": "torchrun says how many ranks there are",
    "local_rank": "torchrun says it",
    "num_workers": "the images stay in the memory of the device",
    "pin_memory": "the images stay in the memory of the device",
    "save_checkpoints": "a run always keeps its newest checkpoints",
    "save_freq": "run.checkpoint_minutes says how often",
    "use_copy": "all ranks embed with equal weights and buffers anyway",
    "eval_metric": "ACC, NMI and ARI are always computed",
    "print_freq": "nothing read it; log.every_steps is ours",
    "test_resized_crop": "the data set says how an image is brought to size",
    "lr_decay_gamma": "only the linear probe read it",
    "lr_decay_milestone": "only the linear probe read it",
    "step_lr": "only the linear probe read it",
    "pretrained_path": "only the linear probe read it",
    "faiss": "KMeans is ours",
}

# what every method of the earlier program took where a file says nothing, for every key that changes a run
EARLIER_DEFAULTS: dict[str, Any] = {
    "dataset": "cifar10",
    "whole_dataset": False,
    "encoder_name": "bigresnet18",
    "byol_transform": False,
    "use_gaussian_blur": False,
    "resized_crop_scale": 0.08,
    "batch_size": 256,
    "num_devices": -1,
    "acc_grd_step": 1,
    "epochs": 1000,
    "learning_rate": 0.05,
    "learning_eta_min": 0.01,
    "warmup_epochs": 0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "amp": False,
    "feat_dim": 2048,
    "data_resample": False,
    "reassign": 1,
    "seed": 0,
}
PROGRAMS = {**EARLIER, "lincls": LINCLS}  # what `model_name` could choose
OF_A_METHOD = {key for one in PROGRAMS.values() for key in (*one.defaults, *one.renamed, *one.rules)}
KNOWN = {*RENAMED, *NOT_NEEDED, *RULES, *OF_A_METHOD}


@dataclass(frozen=True)
class Fate:
    """What became of one flat key. became: our dotted keys and their values, empty where nothing of ours is set."""

    status: Status
    key: str
    value: Any
    became: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        """One line: status, key and value, what they became, why."""
        absent = " (not in the file)" if self.status == "default" else ""
        ours = ", ".join(f"{key}: {in_yaml(value)}" for key, value in self.became.items())
        arrow, why = " -> " if ours else "", f" ({self.why})" if self.why else ""
        return f"{self.status:13} {self.key}: {in_yaml(self.value)}{absent}{arrow}{ours}{why}"


def is_flat(values: Mapping[str, Any]) -> bool:
    """Whether a file's keys are those of a flat config: no sections, and `model_name` or three more known keys.

    As JSON that W&B exported, too: each key with a `value`.
    """
    values = _plain(values)
    if any(isinstance(value, dict) for value in values.values()):
        return False
    return "model_name" in values or len(KNOWN & values.keys()) >= 3


def translate(flat: Flat) -> tuple[dict[str, dict[str, Any]], list[Fate]]:
    """(values by section, fates): of every given key in its order, then of the absent ones that change a run.

    Raises:
        UserError: an unknown key, a missing or other `model_name`, an unknown encoder, a size that is no number.
    """
    flat = _plain(flat)
    for key in flat:
        if key not in KNOWN:
            raise UserError(key, f"no such key in a flat config of the earlier repository{did_you_mean(key, KNOWN)}")
    name = flat.get("model_name")
    if not isinstance(name, str) or name not in PROGRAMS:
        problem = "missing in a flat config" if name is None else f"a flat config of {name!r} cannot be translated"
        raise UserError("model_name", f"{problem}{did_you_mean(str(name or ''), PROGRAMS)}")
    earlier = PROGRAMS[name]
    every = EARLIER_DEFAULTS | dict(earlier.defaults)
    keys = [*flat, *(key for key in every if key not in flat)]
    flags = {key for key, value in every.items() if isinstance(value, bool)} | {"wandb"}
    every |= {key: _flag(key, value) if key in flags else value for key, value in flat.items()}
    fates = [fate for key in keys if (fate := _fate(key, every, earlier, given=key in flat)) is not None]
    nested: dict[str, dict[str, Any]] = {}
    for fate in fates:
        for dotted, value in fate.became.items():
            section, _, key = dotted.partition(".")
            nested.setdefault(section, {})[key] = value
    return nested, fates


def _plain(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keys and values; of a W&B export, where each key is a mapping with `value`, without its own `_wandb`."""
    if not values or not all(isinstance(value, dict) and "value" in value for value in values.values()):
        return values
    return {key: value["value"] for key, value in values.items() if not key.startswith("_")}


def _fate(key: str, flat: Flat, earlier: Earlier, *, given: bool) -> Fate | None:
    """The fate of one key; None for an absent key that sets nothing of ours."""
    status, became, why = _decide(key, flat, earlier)
    if given:
        return Fate(status, key, flat[key], became, why)
    return Fate("default", key, flat[key], became, why) if became else None


def _decide(key: str, flat: Flat, earlier: Earlier) -> Decision:
    """(status, what is set, why) of a key, given all others; what the method says of it comes first."""
    rule = earlier.rules.get(key)
    if rule is None and key not in earlier.renamed:
        rule = RULES.get(key)
    if rule is not None:
        return rule(flat)
    if key in NOT_NEEDED:
        return "not needed", {}, NOT_NEEDED[key]
    ours = earlier.renamed.get(key) or RENAMED.get(key)
    if ours is None:
        return "not needed", {}, f"{flat['model_name']} did not read it"
    why = WHY_RENAMED.get(key, "")
    if key == "learning_rate" and "local_rank" in flat:
        why = "a config exported by W&B holds the scaled value: divide it by global_batch / 256"
    return "translated", {ours: flat[key]}, why


def _flag(key: str, value: Any) -> bool:
    """true or false, also as the words that the earlier program's YAML took for them."""
    words = {"yes": True, "on": True, "no": False, "off": False}
    flag = words.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise UserError(key, f"{in_yaml(value)} is not true or false")
    return flag
