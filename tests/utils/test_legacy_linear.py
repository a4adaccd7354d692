"""`lincls` configs of the earlier ProPos repository: the published two, and every key's fate."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.linear_settings import is_linear, load_linear, sections
from utils.config import compose
from utils.errors import UserError
from utils.legacy import EARLIER_DEFAULTS, KNOWN, translate
from utils.legacy_linear import LINCLS

R50 = """
batch_size: 32
num_devices: 8
weight_decay: 0.0
num_workers: 32
dataset: imagenet
test_resized_crop: true
encoder_name: resnet50
epochs: 100
img_size: 224
learning_rate: 30
momentum: 0.9
save_freq: 1
dist: true
lr_decay_gamma: 0.1
lr_decay_milestone:
  - 60
  - 80
step_lr: true
model_name: lincls
pretrained_path: checkpoint-0000200.tar
"""
R50_LARS = """
batch_size: 512
num_devices: 8
weight_decay: 0.0
num_workers: 8
dataset: imagenet
test_resized_crop: true
encoder_name: resnet50
epochs: 90
img_size: 224
learning_rate: 0.1
learning_eta_min: 0.
lars: true
momentum: 0.9
save_freq: 1
print_freq: 100
dist: true
model_name: lincls
pretrained_path: checkpoint-0000200.tar
"""


def write(folder: Path, text: str) -> Path:
    (folder / "flat.yml").write_text(text)
    return folder / "flat.yml"


def translated(**flat: Any) -> tuple[dict[str, Any], list[str]]:
    values, fates = translate({"model_name": "lincls", **flat})
    return values, [str(fate) for fate in fates]


def test_the_published_file_becomes_moco_s_protocol(tmp_path: Path) -> None:
    composed = compose([write(tmp_path, R50)])
    assert is_linear(composed)
    settings = load_linear(composed, None, 8)
    assert settings.method.checkpoint == Path("checkpoint-0000200.tar") and settings.method.mode == "online"
    assert (settings.encoder.name, settings.encoder.stem, settings.data.name) == ("resnet50", "imagenet", "imagenet")
    optim, moco = settings.optim, load_linear(compose([Path("config/linear/moco.yml")]), Path("x.pth"), 8)
    for key in ("name", "epochs", "global_batch", "learning_rate", "schedule", "milestones", "step_factor",
                "weight_decay", "sgd_momentum"):  # fmt: skip
        assert getattr(optim, key) == getattr(moco.optim, key), key
    assert optim.peak_learning_rate == 30
    views = settings.views
    assert (views.size, views.test_crop, settings.data.image_size) == (224, 0.875, 256)
    assert (views.n_views, views.crop_scale, views.flip, views.jitter, views.grayscale) == (1, (0.08, 1), 0.5, None, 0)


def test_the_published_lars_file_has_its_rate_and_curve(tmp_path: Path) -> None:
    optim = load_linear(compose([write(tmp_path, R50_LARS)]), None, 8).optim
    assert (optim.name, optim.lars_variant, optim.global_batch, optim.epochs) == ("lars", "you2017", 4096, 90)
    assert optim.peak_learning_rate == pytest.approx(1.6) and optim.min_lr_ratio == 0 and optim.decay_norm_and_bias
    assert optim.schedule == "propos_cosine" and optim.warmup_epochs == 0  # without warm-up the plain cosine


def test_every_key_has_a_fate_and_no_value_that_no_section_knows() -> None:
    values = EARLIER_DEFAULTS | LINCLS.defaults | {"pretrained_path": "weights.pth"}
    for key in KNOWN - {"model_name"}:
        if key in ("num_clusters", "num_cluster", "label_file", "resume_name", "data_folder", "data_root", "run_name"):
            continue
        nested, fates = translated(**{**values, key: values.get(key, False)})
        assert any(f" {key}:" in fate for fate in fates), key
        assert set(nested) <= set(sections()), key
        for section, keys in nested.items():
            assert set(keys) <= set(sections()[section].model_fields), (key, section)


def test_cifar_takes_a_padded_window_and_the_whole_set_is_refused_aloud() -> None:
    values, fates = translated(dataset="cifar10", encoder_name="bigresnet18", whole_dataset=True, pretrained_path="x")
    assert values["views"]["pad"] == 0.125 and values["views"]["crop_scale"] is None and "size" not in values["views"]
    assert any(fate.startswith("not supported whole_dataset") for fate in fates)
    values, _ = translated(dataset="imagenet", encoder_name="resnet50", img_size=224)
    assert values["data"] == {"name": "imagenet", "split": "train+test", "image_size": 224, "resize": "squash"}


def test_accumulation_is_refused_and_a_missing_checkpoint_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="acc_grd_step: a linear evaluation has none"):
        translated(acc_grd_step=2)
    composed = compose([write(tmp_path, "model_name: lincls\nbatch_size: 8\ndataset: cifar10\n")])
    with pytest.raises(UserError, match="method.checkpoint: missing"):
        load_linear(composed, None, 1)
