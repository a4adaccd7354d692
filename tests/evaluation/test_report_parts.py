"""The parts of the report page: places on the map, sheets, tree, matrix, warnings, curves."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import report_thumbnails
from evaluation.report_clusters import confuse, relate
from evaluation.report_facts import curve, panels, warnings_of
from evaluation.report_map import lay_out, place_all
from tests.evaluation.fakes import fake_run

NAME = "<img src=x onerror=alert(1)>.png"
DTYPES = {"row": np.uint32, "sample": np.uint32}


def test_rows_without_a_picture_lie_beside_their_nearest_that_have_one() -> None:
    places = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    neighbors = torch.tensor([[1, 2, 3], *([row - 1, row, row] for row in range(1, 10)), [2, 9, 3], [7, 6, 8]])
    xy = place_all(places, torch.arange(12), torch.arange(10), neighbors, 0)
    assert xy.dtype == np.uint16 and xy.min() >= 0
    step = np.diff(xy[:10, 0].astype(float))
    assert step.max() - step.min() <= 1 and len(set(xy[:10, 1])) == 1  # both axes at one scale
    assert np.abs((xy[10:, 0] - xy[[3, 7], 0].astype(float)) / step[0]).max() < 2.5
    assert not np.array_equal(xy[10], xy[3])


def test_tsne_keeps_groups_together_and_a_tiny_set_is_a_plane() -> None:
    centres = torch.nn.functional.normalize(torch.sin(torch.arange(60.0).view(4, 15) ** 2))
    group = torch.arange(120) % 4
    noise = 0.1 * torch.cos(torch.arange(1800.0).view(120, 15) ** 2)
    rows = torch.nn.functional.normalize(centres[group] + noise)
    places, name = lay_out(rows, 0)
    assert name == "t-SNE" and places.shape == (120, 2)
    apart = torch.cdist(torch.from_numpy(places), torch.from_numpy(places)).fill_diagonal_(torch.inf)
    assert torch.equal(group[apart.argmin(1)], group)
    assert np.array_equal(lay_out(rows, 0)[0], places)
    few, name = lay_out(rows[:40], 0)
    assert name.startswith("PCA") and abs(np.corrcoef(few.T)[0, 1]) < 1e-9


def test_sheets_hold_the_images_in_order_and_fall_in_quality_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = fake_run().source
    made = report_thumbnails.make_sheets(source, torch.arange(0, 101, 2))
    assert (made["wide"], made["stride"], len(made["sheets"])) == (5, 16, 1)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["sheets"][0].split(",")[1]))))
    left, top = 40 % 32 * 16, 40 // 32 * 16
    assert np.array_equal(sheet[top : top + 5, left : left + 5, 0], source.images[80, 0].numpy())
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 3, 40, 40), dtype=np.uint8))
    noise: Any = fake_run(images=images).source
    full = report_thumbnails.make_sheets(noise, torch.arange(60))
    monkeypatch.setattr(report_thumbnails, "BUDGET", len(full["sheets"][0]) * 3 // 4 - 5_000)
    assert len(report_thumbnails.make_sheets(noise, torch.arange(60))["sheets"][0]) < len(full["sheets"][0]) - 5_000


def test_the_tree_joins_the_most_alike_first_and_draws_them_side_by_side() -> None:
    means = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.8, 0.6, 0], [0, 0, 0], [0.6, 0.8, 0]])
    tree = relate(means)
    assert tree is not None
    assert tree["leaves"] in ([0, 2, 4, 1], [1, 4, 2, 0])
    first, second, last = tree["merges"]
    assert {first[0], first[1]} == {1, 2} and first[2] == pytest.approx(1 - 0.96)
    assert {4, 5} & {second[0], second[1], last[0], last[1]} and first[2] < second[2] < last[2]
    assert relate(means[:1]) is None


def test_columns_of_the_confusion_matrix_stand_under_the_class_they_fit() -> None:
    cluster = torch.tensor([2, 2, 0, 0, 1, -1, 3])
    truth = torch.tensor([0, 0, 1, 1, 1, 0, -1])
    found = confuse(cluster, truth, 4)
    assert found == {"classes": 2, "clusters": [2, 0, 1, 3], "counts": [[2, 0, 0, 0], [0, 2, 1, 0]]}
    assert confuse(cluster, torch.tensor([900] * 7), 4)["counts"] is None  # type: ignore[index]
    assert confuse(cluster, None, 4) is None and confuse(cluster, torch.full((7,), -1), 4) is None


def test_the_monitors_are_asked_again() -> None:
    bad = {"step": 1, "epoch": 1.0, "phase": "train", "feature_std": 0.01, "rankme": 1.0}
    rows = [bad, bad, bad, bad, {**bad, "feature_std": "NaN"}]
    rows += [{"phase": "estep", "epoch": 2.0, "empty": empty, "largest": 1200.0} for empty in (2.0, 2.0, 0.0, 1.0)]
    rows += [{"phase": "epoch", "epoch": 3.0, "waited_for_data": 0.5}]
    told = warnings_of(rows)
    assert [text[:30] for text in told] == [
        "epoch 1.0: the features collap", "epoch 2.0: 2 clusters are empt", "epoch 2.0: 1 clusters are empt",
        "epoch 3.0: 50% of the time goe",
    ]  # fmt: skip


def test_long_curves_are_thinned_to_means_with_both_ends_kept() -> None:
    rows: list[dict[str, Any]] = [{"phase": "train", "epoch": step / 10, "loss": float(step)} for step in range(1001)]
    rows[500]["loss"] = "NaN"
    points = curve(rows, "loss")
    assert points[0] == (0.0, 0.0) and points[-1] == (100.0, 1000.0) and 200 < len(points) <= 302
    assert points[1] == pytest.approx((0.25, 2.5))
    assert panels(rows, (("Loss", "train", ("loss", "gone")), ("Empty", "estep", ("empty",)))) == [
        {"title": "Loss", "lines": [{"name": "loss", "points": points}]}
    ]
