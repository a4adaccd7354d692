import numpy as np
import pytest
import torch
from torch import Tensor

from data.views import Views, ViewsConfig
from evaluation import pixel_baseline
from evaluation.pixel_baseline import cluster_pixels, pixel_rows, principal_components
from evaluation.scores import external_scores
from tests.evaluation.fakes import FakeRun, fake_run, made_images
from tests.ranks import run_ranks


def test_pixels_are_normalised_as_the_network_sees_them() -> None:
    run = fake_run()
    rows = torch.tensor([7, 2, 99])
    expected = (run.source.images[rows].double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(pixel_rows(run, rows), expected.flatten(1).float())


def test_patterns_in_pixels_are_found() -> None:
    run = fake_run()
    [(labels, features)] = cluster_pixels(run, 4)  # of 25 pixels there are no 50 components
    assert external_scores(labels, run.source.truth)["acc"] == 1.0
    assert features == "pixels, 10 starts"


def test_components_stand_beside_pixels_and_find_the_same_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_baseline, "N_COMPONENTS", 7)
    run = fake_run()
    (_, pixels), (labels, components) = cluster_pixels(run, 4)
    assert (pixels, components) == ("pixels, 10 starts", "pixels, PCA-7, 10 starts")
    assert external_scores(labels, run.source.truth)["acc"] == 1.0


def test_large_images_are_averaged_down_and_the_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_baseline, "N_COMPONENTS", 3072)  # none: the covariance of 3,072 pixels takes seconds
    run = fake_run(images=made_images(13, (3, 64, 96)))
    run.views = Views(ViewsConfig(normalize=False), run.source.image_shape, (0.5,) * 3, (0.25,) * 3)
    found = pixel_rows(run, torch.arange(13))
    blocks = run.source.images.float().unflatten(3, (32, 3)).unflatten(2, (32, 2)).mean((3, 5)) / 255
    torch.testing.assert_close(found, blocks.flatten(1))
    assert [features for _, features in cluster_pixels(run, 4)] == ["pixels at 32x32, 10 starts"]


def baseline(rank: int, world: int, many: bool) -> tuple[list[tuple[Tensor, str]], Tensor]:
    """Labels and names, and the components' spanned space, with bounds and chunks so small that all paths are taken."""
    pixel_baseline.CHUNK_ROWS = 11
    pixel_baseline.MANY_ROWS, pixel_baseline.MANY_PIXELS = (17, 23) if many else (101, 23)
    pixel_baseline.N_COMPONENTS = 7
    run = fake_run()
    basis = principal_components(run, run.store.shard(rank, world), 25)
    return cluster_pixels(run, 4), basis @ basis.T


@pytest.mark.parametrize(
    "many, features", [(True, ["pixels, PCA-7, 3 starts"]), (False, ["pixels, 10 starts", "pixels, PCA-7, 10 starts"])]
)
def test_labels_are_equal_on_all_ranks_and_to_one_process(many: bool, features: list[str]) -> None:
    [(expected, space)] = run_ranks(1, baseline, many)
    assert [name for _, name in expected] == features
    for world in (2, 4):
        for found, other_space in run_ranks(world, baseline, many):
            for (labels, _), (other_labels, _) in zip(expected, found, strict=True):
                assert torch.equal(labels, other_labels)
            torch.testing.assert_close(other_space, space, rtol=0, atol=1e-4)


def numpy_components(run: FakeRun, n_components: int) -> Tensor:
    pixels = pixel_rows(run, torch.arange(101)).double().numpy()
    vectors = np.linalg.svd(pixels - pixels.mean(0))[2][:n_components]
    return torch.from_numpy(vectors.T @ vectors).float()


def test_components_span_the_space_of_an_independent_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_baseline, "CHUNK_ROWS", 17)
    monkeypatch.setattr(pixel_baseline, "N_COMPONENTS", 7)
    run = fake_run()
    basis = principal_components(run, torch.arange(101), 25)
    torch.testing.assert_close(basis @ basis.T, numpy_components(run, 7), rtol=0, atol=1e-4)
