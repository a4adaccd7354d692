"""Views of another size than the image's, local crops, edges, streams, the shipped recipes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data import view_crop, view_ops
from data.view_params import NUMBERS
from data.views import PART, Views, ViewsConfig
from utils import compat
from utils.config import compose, validate
from utils.draws import Draws

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
OFF: dict[str, Any] = {"crop_scale": None, "flip": 0.0, "jitter": None, "grayscale": 0.0}
RECIPES = sorted((Path(__file__).parents[2] / "config" / "base").glob("views_*.yml"))
B = 5
DRAWS = Draws(seed=1, step=3, start=0, stop=B, total=B)


def make(side: int = 32, dtype: torch.dtype = torch.float32, **values: Any) -> Views:
    return Views(ViewsConfig.model_validate_json(json.dumps(values)), (3, side, side), MEAN, STD, dtype)


def some_images(side: int = 32) -> Tensor:
    return torch.randint(0, 256, (B, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize(("side", "size"), [(32, 48), (48, 24), (24, 96)])
def test_views_and_clean_images_have_the_size_asked_for(side: int, size: int) -> None:
    views = make(side, size=size)
    seen = [
        *views(some_images(side), DRAWS),
        views.clean(some_images(side)),
        views.partner(some_images(side), DRAWS, 0),
    ]
    assert views.output_shape == (3, size, size)
    assert {tuple(view.shape) for view in seen} == {(B, 3, size, size)}
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in seen)


def test_clean_images_are_resize_center_crop_normalise() -> None:
    compat.prepare_torchvision()
    from torchvision.transforms.v2 import functional

    images = some_images()
    resized = functional.center_crop(functional.resize(images, [40, 40], antialias=True), [32, 32])
    expected = functional.normalize(resized / 255, MEAN, STD)
    assert (make(test_crop=0.8).clean(images) - expected).abs().max() < 1.001 / 255 / min(STD)


def test_the_first_view_of_pica_is_a_window_of_the_enlarged_image() -> None:
    images = some_images()
    enlarged = make(size=40, **OFF).clean(images)
    first = make(**{**OFF, "crop_window": 0.8})(images, DRAWS)[0]
    for image, view in zip(enlarged, first, strict=True):
        places = [(y, x) for y in range(9) for x in range(9) if torch.equal(image[:, y : y + 32, x : x + 32], view)]
        assert len(places) == 1


def test_local_crops_come_last_with_their_size_and_leave_the_views_and_partners_alone() -> None:
    images, local = some_images(), {"number": 3, "size": 18, "crop_scale": [0.05, 0.3]}
    plain, views = make(), make(local=local)
    seen = views(images, DRAWS)
    assert [view.shape[2] for view in seen] == [32, 32, 18, 18, 18]
    assert views.n_all == 5
    for ours, theirs in zip(seen[:2], plain(images, DRAWS), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(views.partner(images, DRAWS, 0), plain.partner(images, DRAWS, 0))
    assert not torch.allclose(seen[2], seen[3])


def test_local_crops_have_draws_of_their_own() -> None:
    seen = make(local={"number": 3})(some_images(), DRAWS)
    assert not any(torch.allclose(one, other) for number, one in enumerate(seen) for other in seen[:number])


def test_edges_are_sobels_of_the_normalised_image() -> None:
    images = some_images()
    views = make(sobel=True, jitter=[0.4, 0.4, 0.4, 0.4])
    assert views.output_shape == (2, 32, 32)
    torch.testing.assert_close(views.clean(images), view_ops.sobel(make().clean(images)))
    colored = make(jitter=[0.4, 0.4, 0.4, 0.4])(images, DRAWS)
    for edges, view in zip(views(images, DRAWS), colored, strict=True):
        torch.testing.assert_close(edges, view_ops.sobel(view))
        assert views.restore(edges).shape == (B, 1, 32, 32)


def test_without_normalising_clean_images_are_pixels_from_0_to_1() -> None:
    images = some_images()
    torch.testing.assert_close(make(normalize=False).clean(images), images / 255)


@pytest.mark.parametrize("values", [{}, {"second": {"jitter": None, "cutout": 8}, "local": {"size": 24}, "hue": "hsv"}])
@pytest.mark.parametrize("side", [32, 97])
def test_streamed_crops_make_the_views_of_resident_images(side: int, values: dict[str, Any]) -> None:
    images, views = some_images(side), make(side, blur=0.5, grayscale=0.5, **values)
    resident = views(images, DRAWS)
    for number in range(views.n_all):
        boxes, flipped, out = views.boxes(number, DRAWS, torch.tensor([[side, side]] * B))
        assert (boxes.dtype, flipped.dtype, out) == (torch.int64, torch.bool, resident[number].shape[2])
        crops = view_crop.resize_bytes(images, boxes, flipped, (out, out))
        streamed = views.finish(crops, number, DRAWS)
        # bytes are rounded, and the hue of dark pixels turns with a level
        assert (streamed - resident[number]).abs().mean() < 0.5 / 255 / min(STD)
        if side > view_crop.LARGEST_PRODUCT and out > view_crop.LARGEST_PRODUCT:
            torch.testing.assert_close(streamed, resident[number], rtol=0, atol=1e-5)


@pytest.mark.parametrize("values", [{}, {**OFF, "test_crop": 0.8}, {**OFF, "crop_window": 0.8}])
def test_boxes_lie_inside_images_of_any_shape(values: dict[str, Any]) -> None:
    sizes = torch.tensor([[7, 100], [100, 7], [33, 40], [1, 1], [640, 480]])
    boxes, _, _ = make(**values).boxes(0, DRAWS, sizes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()


def test_a_batch_in_parts_is_the_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, views = some_images(), make(blur=0.5, local={"size": 18}, dtype=torch.float64)
    whole = views(images, DRAWS)
    assert images.numel() < PART
    monkeypatch.setattr("data.views.PART", 2 * images[0].numel())
    for once, parts in zip(whole, views(images, DRAWS), strict=True):
        torch.testing.assert_close(parts, once, atol=1e-12, rtol=0)


def test_float64_views_are_computed_in_float64() -> None:
    images = some_images(80)
    single, double = (make(80, blur=0.5, dtype=dtype)(images, DRAWS)[0] for dtype in (torch.float32, torch.float64))
    assert (single - double).abs().max() > 1e-4  # bytes are rounded in float32
    assert torch.equal(double, double.float().double()) is False


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_makes_finite_views(recipe: Path) -> None:
    config = validate(compose([recipe]), {"views": ViewsConfig})["views"]
    assert isinstance(config, ViewsConfig)
    views = Views(config, (3, 32, 32), MEAN, STD)
    seen = [*views(some_images(), DRAWS), views.clean(some_images())]
    assert len(seen) == views.n_all + 1
    assert all(view.isfinite().all() for view in seen)
    assert seen[0].shape == seen[-1].shape == (B, *views.output_shape)


def test_the_shipped_recipes_are_there() -> None:
    names = ("simclr", "moco_v2", "byol", "simsiam", "cc", "pica", "and", "gcc", "strong", "multi_crop")
    assert {f"views_{name}" for name in names} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    "values", [{"crop_window": 0.8}, {"pad": 0.1}, {"crop_scale": None, "crop_window": 0.8, "pad": 0.1}]
)
def test_two_ways_to_crop_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one at most"):
        make(**values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("hue", ["yiq", "hsv"])
def test_a_gpu_makes_the_views_of_the_cpu(hue: str) -> None:
    images, views = some_images(), make(hue=hue, blur=0.5, solarize=0.5, second={"crop_scale": None, "strong": 4})
    for here, there in zip(views(images, DRAWS), views(images.cuda(), DRAWS), strict=True):
        assert (here - there.cpu()).abs().mean() < 0.5 / 255 / min(STD)


def test_the_draws_of_existing_operations_stay_where_they_are() -> None:
    assert sum(NUMBERS.values()) == 44
    assert list(NUMBERS)[:4] == ["area", "ratio", "corner", "flip"]
