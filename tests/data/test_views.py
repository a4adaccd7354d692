"""Views of a batch: independent of ranks, different for every place, as the section says."""

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data.view_config import AffineConfig, IntensityConfig, LocalConfig, ViewConfig
from data.views import Views, ViewsConfig
from utils.draws import Draws

EVERYTHING: dict[str, Any] = {
    "affine": {}, "intensity": {}, "blur": 0.5, "solarize": 0.5, "grayscale": 0.5,
    "second": {"blur": 1.0, "crop_scale": None, "strong": 4, "cutout": 7, "pad": 0.2},
    "local": {"number": 1, "size": 11, "affine": None, "intensity": None},
}  # fmt: skip
OFF: dict[str, Any] = {"crop_scale": None, "flip": 0.0, "jitter": None, "grayscale": 0.0}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def config(**values: Any) -> ViewsConfig:
    return ViewsConfig.model_validate_json(json.dumps(values))


def all_of(n: int, step: int = 3) -> Draws:
    return Draws(seed=1, step=step, start=0, stop=n, total=n)


def some_images(n: int, channels: int = 3, side: int = 17) -> Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("hue", ["yiq", "hsv"])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_of_three_ranks_are_the_views_of_one(hue: str, channels: int) -> None:
    images = some_images(14, channels)
    views = Views(config(hue=hue, **EVERYTHING), (channels, 17, 17), MEAN[:channels], STD[:channels], torch.float64)
    whole = views(images, all_of(14))
    parts = [
        views(images[start:stop], Draws(seed=1, step=3, start=start, stop=stop, total=14))
        for start, stop in ((0, 3), (3, 8), (8, 14))
    ]
    for number, view in enumerate(whole):
        joined = torch.cat([part[number] for part in parts])
        assert (joined - view).abs().max() < 1e-12


def test_the_same_image_twice_in_a_batch_gets_different_views() -> None:
    twins = some_images(1).expand(2, -1, -1, -1)
    first, second = Views(config(), (3, 17, 17), MEAN, STD)(twins, all_of(2))
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first[0], second[0])


def test_views_change_with_the_step_and_repeat_with_it() -> None:
    views, images = Views(config(), (3, 17, 17), MEAN, STD), some_images(5)
    once, again, later = (views(images, all_of(5, step))[0] for step in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.allclose(once, later)


def test_everything_off_is_the_clean_image() -> None:
    views, images = Views(config(**OFF), (3, 17, 17), MEAN, STD), some_images(5)
    assert torch.equal(views(images, all_of(5))[1], views.clean(images))


def test_clean_images_are_normalised_per_channel() -> None:
    images = some_images(5)
    clean = Views(config(), (3, 17, 17), MEAN, STD).clean(images)
    expected = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(clean, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_come_channels_last_in_the_type_asked_for(dtype: torch.dtype) -> None:
    for view in Views(config(), (3, 17, 17), MEAN, STD, dtype)(some_images(5), all_of(5)):
        assert view.dtype == dtype
        assert view.is_contiguous(memory_format=torch.channels_last)


def test_restored_clean_images_are_the_images() -> None:
    images, views = some_images(5), Views(config(), (3, 17, 17), MEAN, STD)
    assert torch.equal(views.restore(views.clean(images)), images)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_without_crop_mirrors_with_its_probability(probability: float) -> None:
    images = some_images(5)
    views = Views(config(**{**OFF, "flip": probability}), (3, 17, 17), MEAN, STD)
    expected = views.clean(images.flip(3) if probability else images)
    assert torch.equal(views(images, all_of(5))[0], expected)


def test_probabilities_are_met_over_a_large_batch() -> None:
    images = some_images(1, side=5).expand(2003, -1, -1, -1)
    views = Views(config(**{**OFF, "grayscale": 0.2}), (3, 5, 5), (0.0,) * 3, (1.0,) * 3)
    first = views(images, all_of(2003))[0]
    share = ((first[:, 0] - first[:, 2]).abs().amax((1, 2)) < 1e-6).double().mean()
    assert abs(share - 0.2) < 0.036  # 4 standard errors


def test_turning_one_operation_off_leaves_the_draws_of_the_others() -> None:
    images = some_images(5)
    with_blur = Views(config(blur=0.5), (3, 17, 17), MEAN, STD)(images, all_of(5))[0]
    without = Views(config(), (3, 17, 17), MEAN, STD)(images, all_of(5))[0]
    same = [torch.equal(one, other) for one, other in zip(with_blur, without, strict=True)]
    assert any(same)
    assert not all(same)


def test_the_second_view_starts_from_the_first_and_differs_where_it_says_so() -> None:
    read = config(crop_scale=[0.2, 0.9], blur=1.0, affine={"rotation": 5}, second={"blur": 0.1, "jitter": None})
    assert read.second is not None
    assert read.second.crop_scale == (0.2, 0.9)
    assert read.second.affine == AffineConfig(rotation=5.0)
    assert (read.second.blur, read.second.jitter) == (0.1, None)
    assert config(**read.model_dump(mode="json")) == read


def test_more_views_than_two_follow_the_second() -> None:
    views = Views(config(n_views=3, second=OFF), (3, 17, 17), MEAN, STD)
    images = some_images(5)
    first, second, third = views(images, all_of(5))
    assert torch.equal(second, third)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"crop_scale": [1.0, 0.2]}, "crop_scale"),
        ({"crop_scale": ["a", 1.0]}, "crop_scale"),
        ({"crop_scale": [0.2, 0.5, 1.0]}, "crop_scale"),
        ({"flip": 1.5}, "flip"),
        ({"jitter": [0.4, 0.4, 0.4, 0.6]}, "jitter"),
        ({"jitter": [True, 0.4, 0.4, 0.1]}, "jitter"),
        ({"hue": "hsl"}, "hue"),
        ({"second": {"flop": 0.5}}, "second"),
        ({"second": {"second": {}}}, "second"),
        ({"test_crop": 1.5}, "test_crop"),
        ({"local": {"number": 0}}, "local"),
    ],
)
def test_a_wrong_value_is_refused_at_its_key(values: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as failure:
        config(**values)
    assert failure.value.errors()[0]["loc"][0] == place


def test_the_defaults_are_the_recipe_of_small_images(request: pytest.FixtureRequest) -> None:
    import yaml

    text = (request.config.rootpath / "config" / "base" / "views_propos32.yml").read_text()
    assert config(**yaml.safe_load(text)["views"]) == ViewsConfig()


def test_the_digits_recipe_is_an_affine_map_and_an_intensity() -> None:
    images = some_images(5, 1, 8)
    recipe = config(**OFF, affine={}, intensity={})
    assert (recipe.affine, recipe.intensity) == (AffineConfig(), IntensityConfig())
    first, second = Views(recipe, (1, 8, 8), (0.3,), (0.4,))(images, all_of(5))
    assert first.shape == second.shape == (5, 1, 8, 8)
    assert not torch.allclose(first, second)


def test_hsv_and_yiq_agree_where_hue_is_off_and_nothing_is_clamped() -> None:
    images = torch.randint(110, 140, (5, 3, 17, 17), dtype=torch.uint8)
    both = {
        hue: Views(config(jitter=[0.2, 0.2, 0.2, 0.0], hue=hue), (3, 17, 17), MEAN, STD)(images, all_of(5))[0]
        for hue in ("yiq", "hsv")
    }
    torch.testing.assert_close(both["yiq"], both["hsv"], atol=2e-3, rtol=0)


def test_no_key_of_a_view_is_left_undocumented() -> None:
    models = (ViewConfig, ViewsConfig, LocalConfig)
    assert all(field.description for model in models for field in model.model_fields.values())
