"""Recipes against what is published: every table cell has one, with its score, its source and its values."""

from functools import cache
from pathlib import Path

import pytest

from training.settings import Settings, load_settings
from utils.config import compose, diff_keys
from utils.yaml_text import read_yaml

CONFIG = Path(__file__).parent.parent.parent / "config"
OURS = ("digits_", "cifar10_small_", "own_images")  # with values of ours, nothing published
RECIPES = sorted(path.stem for path in CONFIG.glob("*.yml") if not path.stem.startswith(OURS))

# NMI, ACC, ARI in percent: ProPos paper, table 2; Tiny-ImageNet: a listing of papers' results
CELLS = {
    "propos": {
        "cifar10": "88.6 94.3 88.4", "cifar20": "60.6 61.4 45.1", "stl10": "75.8 86.7 73.7",
        "imagenet10": "89.6 95.6 90.6", "imagenet_dogs": "69.2 74.5 62.7",
    },
    "byol": {
        "cifar10": "81.7 89.4 79.0", "cifar20": "55.9 56.9 39.3", "stl10": "71.3 82.5 65.7",
        "imagenet10": "86.6 93.9 87.2", "imagenet_dogs": "63.5 69.4 54.8",
    },
    "simsiam": {
        "cifar10": "78.6 85.6 73.6", "cifar20": "52.2 48.5 32.7", "stl10": "65.9 71.6 57.2",
        "imagenet10": "83.1 92.1 83.3", "imagenet_dogs": "58.3 67.4 50.1",
    },
    "moco": {
        "cifar10": "66.9 77.6 60.8", "cifar20": "39.0 39.7 24.2", "stl10": "61.5 72.8 52.4",
        "imagenet_dogs": "34.7 33.8 19.7",
    },
    "pcl": {
        "cifar10": "80.2 87.4 76.6", "cifar20_r18": "52.8 52.6 36.3", "stl10": "71.8 41.0 67.0",
        "imagenet10": "84.1 90.7 82.2", "imagenet_dogs": "44.0 41.2 29.9",
    },
    "cc": {
        "cifar10": "70.5 79.0 63.7", "cifar20": "43.1 42.9 26.6", "stl10": "76.4 85.0 72.6",
        "imagenet10": "85.9 89.3 82.2", "imagenet_dogs": "44.5 42.9 27.4", "tiny_imagenet": "34.0 14.0 7.1",
    },
}  # fmt: skip
# top-1 in percent: solo-learn README (linear) and the MoCo repository's notebook (kNN)
TOP1 = {
    "cifar10_r18_byol_linear": "linear top-1 92.58", "cifar100_r18_byol_linear": "linear top-1 70.46",
    "cifar10_r18_moco_linear": "linear top-1 92.94", "cifar100_r18_moco_linear": "linear top-1 69.89",
    "cifar10_r18_simclr_linear": "linear top-1 90.74", "cifar100_r18_simclr_linear": "linear top-1 65.78",
    "cifar10_r18_simsiam_linear": "linear top-1 90.51", "cifar100_r18_simsiam_linear": "linear top-1 66.04",
    "cifar10_r18_moco": "kNN 82.6",
}  # fmt: skip

# a recipe's ending: epochs, rows of a step, highest learning rate, weight decay, warm-up of the rate; then of the
# method BatchNorm groups, temperature, momentum and its end, queue. A longer ending comes first.
VALUES = {
    "cifar10_r18_propos": (1000, 512, 0.1, 5e-4, 50, 4, 0.5, 0.996, None, 0),
    "cifar10_r18_propos_released": (1000, 512, 0.1, 5e-4, 50, 4, 0.5, 0.996, None, 0),
    "cifar10_r18_byol": (1000, 512, 0.1, 5e-4, 50, 4, None, 0.996, 1.0, None),
    "cifar20_r18_pcl": (1000, 512, 0.1, 1e-4, 50, 4, 1.0, 0.99, None, 4096),
    "cifar10_r18_moco": (200, 512, 0.06, 5e-4, 0, 8, 0.1, 0.99, None, 4096),
    "r18_byol_linear": (1000, 256, 1.0, 1e-5, 10, 1, None, 0.99, 1.0, None),
    "r18_moco_linear": (1000, 256, 0.3, 1e-4, 10, 1, 0.2, 0.99, 0.999, 32768),
    "r18_simclr_linear": (1000, 256, 0.4, 1e-4, 10, 1, 0.2, None, None, None),
    "r18_simsiam_linear": (1000, 256, 0.5, 1e-5, 10, 1, None, None, None, None),
    "propos": (1000, 256, 0.05, 5e-4, 50, 4, 0.5, 0.996, 1.0, 0),
    "propos_released": (1000, 256, 0.05, 5e-4, 50, 4, 0.5, 0.996, 1.0, 0),
    "byol": (1000, 256, 0.05, 5e-4, 50, 4, None, 0.996, 1.0, None),
    "simsiam": (1000, 512, 0.06, 5e-4, 50, 4, None, None, None, None),
    "moco": (1000, 512, 0.1, 1e-4, 50, 4, 0.2, 0.99, None, 4096),
    "pcl": (1000, 512, 0.1, 1e-4, 50, 4, 0.2, 0.99, None, 4096),
    "simclr": (500, 512, 0.4, 1e-4, 0, 1, 0.1, None, None, None),
    "cc": (1000, 256, 3e-4, 0.0, 0, 1, 0.5, None, None, None),
}
# every value of these is written down by the authors; in all others something is a guess
WITHOUT_GUESS = {
    *(f"{recipe}{preset}" for preset in ("", "_released") for recipe in (
        "cifar10_r18_propos", "cifar20_r18_propos", "cifar20_r34_propos", "imagenet_dogs_r34_propos",
    )),
    "cifar10_r34_propos", "cifar10_r18_byol", "cifar20_r18_byol", "cifar10_r18_moco",
    *(f"{data}_r18_simclr" for data in ("cifar10", "cifar20", "stl10")),
    *(recipe for recipe in TOP1 if recipe.endswith("_linear") and "simsiam" not in recipe),
    *(f"{data}_r34_cc" for data in CELLS["cc"]),
}  # fmt: skip


@cache
def settings(recipe: str) -> Settings:
    return load_settings(compose([CONFIG / f"{recipe}.yml"]), 1)


def heading(recipe: str) -> str:
    """The comment that a recipe begins with, as one line."""
    lines = (CONFIG / f"{recipe}.yml").read_text().splitlines()
    comment = lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.lstrip("# ") for line in comment)


def with_bases(path: Path) -> str:
    """The text of a config and of all that it is composed from."""
    bases = read_yaml(path)[0].get("base", [])
    texts = [with_bases(path.parent / base) for base in ([bases] if isinstance(bases, str) else bases)]
    return path.read_text() + "".join(texts)


@pytest.mark.parametrize("method", CELLS)
def test_every_published_cell_has_a_recipe_that_tells_its_scores(method: str) -> None:
    for data, scores in CELLS[method].items():
        recipe = f"{data}_{method}" if "_r" in data else f"{data}_r34_{method}"
        found = settings(recipe)
        encoder = recipe.removeprefix(found.data.name).split("_")[1]
        assert (found.method.name, found.encoder.name) == (method, encoder.replace("r", "resnet"))
        assert data.startswith(found.data.name)
        text = heading(recipe)
        for name, score in zip(("NMI", "ACC", "ARI"), scores.split(), strict=True):
            assert f"{name} {score}" in text, f"{recipe}: {text}"


@pytest.mark.parametrize("recipe", TOP1)
def test_every_published_top_1_has_a_recipe_that_tells_it(recipe: str) -> None:
    assert TOP1[recipe] in heading(recipe)
    assert (settings(recipe).data.name, settings(recipe).data.split) == (recipe.split("_")[0], "train")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_published_values(recipe: str) -> None:
    optim, method = settings(recipe).optim, settings(recipe).method
    keys = ("temperature", "ema_momentum", "ema_momentum_final", "queue_size")
    found = (
        *(optim.epochs, optim.global_batch, pytest.approx(optim.peak_learning_rate), optim.weight_decay),
        *(optim.warmup_epochs, method.bn_groups, *(getattr(method, key, None) for key in keys)),
    )
    assert VALUES[next(ending for ending in VALUES if recipe.endswith(ending))] == found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_its_source_and_marks_its_guesses(recipe: str) -> None:
    assert "Source: " in heading(recipe)
    guessed = [line for line in with_bases(CONFIG / f"{recipe}.yml").splitlines() if "# guess" in line]
    assert bool(guessed) is (recipe not in WITHOUT_GUESS)
    assert all(not line.startswith("#") for line in guessed), "a guess is marked at its key"


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.endswith("_released")])
def test_the_released_preset_differs_by_what_the_released_code_did(recipe: str) -> None:
    plain = settings(recipe.removesuffix("_released"))
    changed = diff_keys(plain.to_values(), settings(recipe).to_values())
    assert changed == ["method.scattering_weight", "optim.schedule"]
    weight = plain.to_values()["method"]["scattering_weight"]
    assert (weight, weight / plain.method.bn_groups) == (
        0.1,
        settings(recipe).to_values()["method"]["scattering_weight"],
    )


def test_there_is_a_released_preset_for_every_propos_recipe() -> None:
    plain = {recipe for recipe in RECIPES if recipe.endswith("_propos")}
    assert {f"{recipe}_released" for recipe in plain} == {r for r in RECIPES if r.endswith("_released")}
    assert {settings(recipe).data.name for recipe in plain} == {*CELLS["propos"]}


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        ("cifar20_r34_propos_released", {"optim.schedule": "propos_cifar20_r34", "method.resample": True}),
        ("cifar10_r18_propos", {"method.views_in_one_forward": False, "method.warmup_epochs": 50}),
        ("cifar10_r34_propos", {"method.views_in_one_forward": True, "optim.predictor_lr_scale": 10.0}),
        ("imagenet_dogs_r34_propos", {"views.blur": 0.5, "views.size": 224, "views.test_crop": 0.875}),
        ("imagenet_dogs_r34_propos", {"method.resample": True, "encoder.stem": "imagenet", "views.normalize": True}),
        ("stl10_r34_propos", {"data.split": "train+test+unlabelled", "optim.decay_norm_and_bias": True}),
        ("cifar10_r34_simsiam", {"optim.fixed_predictor_lr": True, "optim.predictor_lr_scale": 1.0}),
        ("cifar10_r34_simsiam", {"method.projector_layers": 2, "method.views_in_one_forward": True}),
        ("cifar20_r18_pcl", {"method.n_prototypes": [250, 500, 1000], "method.prototype_weight": 0.01}),
        ("cifar20_r18_pcl", {"method.warmup_epochs": 50, "method.symmetric": "sum"}),
        ("cifar10_r18_moco", {"method.head_layers": 1, "method.symmetric": "none", "optim.schedule": "epoch_cosine"}),
        ("cifar10_r18_moco", {"views.crop_scale": [0.08, 1.0], "views.blur": 0.0, "eval.knn_neighbors": 200}),
        ("cifar10_r18_moco_linear", {"views.jitter": [0.4, 0.4, 0.4, 0.1], "method.hidden_dim": 2048}),
        ("cifar100_r18_byol_linear", {"method.symmetric": "sum", "optim.lars_trust": 0.02, "views.blur": 0.0}),
        ("cifar10_r18_simclr_linear", {"optim.name": "lars", "views.blur": 0.5, "method.hidden_dim": 2048}),
        ("cifar10_r18_simsiam_linear", {"optim.fixed_predictor_lr": True, "encoder.zero_init_residual": True}),
        ("stl10_r18_simclr", {"data.split": "train+unlabelled", "encoder.stem": "stl", "optim.min_lr_ratio": 1e-3}),
        ("cifar10_r18_simclr", {"views.crop_scale": [0.2, 1.0], "optim.schedule": "epoch_cosine"}),
        ("cifar10_r34_cc", {"views.size": 224, "views.normalize": False, "encoder.stem": "imagenet"}),
        ("stl10_r34_cc", {"views.jitter": [0.8, 0.8, 0.8, 0.2], "views.blur": 0.0, "optim.schedule": "constant"}),
        ("imagenet10_r34_cc", {"views.jitter": [0.8, 0.8, 0.8, 0.2], "views.blur": 0.5, "data.resize": "squash"}),
        ("tiny_imagenet_r34_cc", {"views.jitter": [0.4, 0.4, 0.4, 0.1], "data.split": "train", "optim.name": "adamw"}),
    ],
)  # fmt: skip
def test_a_recipe_has_what_is_its_own(recipe: str, keys: dict[str, object]) -> None:
    values = settings(recipe).to_values()
    assert {key: values[key.split(".")[0]][key.split(".")[1]] for key in keys} == keys


def test_byol_of_solo_learn_solarises_its_second_view_alone() -> None:
    views = settings("cifar10_r18_byol_linear").views
    assert views.second is not None
    assert (views.solarize, views.second.solarize, views.blur, views.second.blur) == (0.0, 0.2, 0.0, 0.0)


@pytest.mark.parametrize("method", ["propos", "byol", "simclr", "moco", "simsiam", "pcl", "cc"])
def test_small_recipes_of_all_methods_see_equally_many_equal_views(method: str) -> None:
    small, byol = settings(f"cifar10_small_{method}"), settings("cifar10_small_byol")
    same = ("data", "views", "encoder", "estep", "eval")
    assert [getattr(small, name) for name in same] == [getattr(byol, name) for name in same]
    assert (small.optim.epochs, small.optim.global_batch) == (8, 128)
    digits = settings(f"digits_{method}")
    assert (digits.method.name, digits.optim.epochs, digits.optim.global_batch) == (method, 100, 64)
