"""Recipes against what is published: every table cell has one, with its score, its source and its values."""

from functools import cache
from pathlib import Path

import pytest

from tests.training.published import CELLS, NETWORKS, OWN, TEMI, TOP1, VALUES, WITHOUT_GUESS
from training.settings import Settings, load_settings
from utils.config import compose, diff_keys
from utils.yaml_text import read_yaml

CONFIG = Path(__file__).parent.parent.parent / "config"
OURS = ("digits_", "cifar10_small_", "own_images")  # with values of ours, nothing published
RECIPES = sorted(path.stem for path in CONFIG.glob("*.yml") if not path.stem.startswith(OURS))


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


@pytest.mark.parametrize("cell", TEMI)
def test_every_published_cell_of_temi_has_a_recipe_that_tells_its_scores(cell: str) -> None:
    data, network = cell.split("_")
    found, text = settings(f"{cell}_temi"), heading(f"{cell}_temi")
    assert (found.method.name, found.data.name, found.data.split) == ("temi", data, "train")
    assert (found.encoder.name, found.encoder.pretrained) == (NETWORKS[network], True)
    for name, score in zip(("NMI", "ACC", "ARI"), TEMI[cell].split(), strict=True):
        assert f"{name} {score}" in text


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
    assert VALUES[max((ending for ending in VALUES if recipe.endswith(ending)), key=len)] == found


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


@pytest.mark.parametrize(("recipe", "keys"), OWN)
def test_a_recipe_has_what_is_its_own(recipe: str, keys: dict[str, object]) -> None:
    values = settings(recipe).to_values()
    assert {key: values[key.split(".")[0]][key.split(".")[1]] for key in keys} == keys


@pytest.mark.parametrize(
    ("recipe", "number", "size", "scale"),
    [
        ("cifar100_r18_swav_multicrop_linear", 6, 18, (0.08, 0.5)), ("imagenet_r50_swav", 6, 96, (0.05, 0.14)),
        ("imagenet_vits16_dino", 8, 96, (0.05, 0.4)),
    ],
)  # fmt: skip
def test_a_recipe_with_local_crops_has_the_published_ones(
    recipe: str, number: int, size: int, scale: tuple[float, float]
) -> None:
    local = settings(recipe).views.local
    assert local is not None
    assert (local.number, local.size, local.crop_scale) == (number, size, scale)


def test_byol_of_solo_learn_solarises_its_second_view_alone() -> None:
    views = settings("cifar10_r18_byol_linear").views
    assert views.second is not None
    assert (views.solarize, views.second.solarize, views.blur, views.second.blur) == (0.0, 0.2, 0.0, 0.0)


@pytest.mark.parametrize("method", ["propos", "byol", "simclr", "moco", "simsiam", "pcl", "cc", "swav", "gcc"])
def test_small_recipes_of_all_methods_see_equally_many_equal_views(method: str) -> None:
    small, byol = settings(f"cifar10_small_{method}"), settings("cifar10_small_byol")
    same = ("data", "views", "encoder", "eval")
    assert [getattr(small, name) for name in same] == [getattr(byol, name) for name in same]
    assert (small.optim.epochs, small.optim.global_batch) == (8, 128)
    digits = settings(f"digits_{method}")
    assert (digits.method.name, digits.optim.epochs, digits.optim.global_batch) == (method, 100, 64)
