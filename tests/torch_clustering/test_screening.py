"""Labels proven by products of bfloat16."""

import pytest
import torch

from torch_clustering import assign, screening
from torch_clustering.assign import Rows, nearest_each

N_CENTERS = 300


def data(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, 40) float32 and centres (K, 40) float64, some of them equal."""
    draws = torch.Generator().manual_seed(0)
    centers = torch.randn((N_CENTERS, 40), generator=draws)
    x = centers[torch.randint(N_CENTERS, (9000,), generator=draws)] + 0.5 * torch.randn((9000, 40), generator=draws)
    if kind == "far":
        x, centers = x + 1000.0, centers + 1000.0
    elif kind == "unproven":
        x = torch.randn((9000, 40), generator=draws)
    elif kind == "tiny":
        x, centers = 1e-15 * x, 1e-15 * centers
    elif kind == "infinite":
        x[7], centers[3] = 3e38, -3e38
    centers[280:] = centers[:20]
    return x, centers.double()


@pytest.mark.parametrize("kind", ["near", "far", "unproven", "tiny"])
def test_labels_are_those_of_float64(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assign, "pays", lambda *_: True)
    x, centers = data(kind)
    labels = torch.empty(len(x), dtype=torch.int32)
    rows = Rows.about(x, x.double().mean(0))
    nearest_each(rows, [centers], [labels])
    assert labels.long().equal(torch.cdist(x.double(), centers, compute_mode=assign.DIRECT).argmin(1))
    assert rows.screen.worth == (kind != "unproven")


@pytest.mark.parametrize("kind", ["near", "far", "unproven", "tiny"])
def test_what_is_proven_is_right(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "MOST_OPEN", 1.0)
    x, centers = data(kind)
    labels = torch.full((len(x),), -1)
    left = Rows.about(x, x.double().mean(0)).screen.label_(centers[:200], labels)
    expected = torch.cdist(x.double(), centers[:200], compute_mode=assign.DIRECT).argmin(1)
    proven = torch.ones(len(x), dtype=torch.bool).index_fill_(0, left, False)
    assert labels[proven].equal(expected[proven])
    assert proven.float().mean() > {"unproven": 0.05}.get(kind, 0.8)


def test_overflowing_rows_stay_open() -> None:
    x, centers = data("infinite")
    left = Rows.about(x, torch.zeros(40)).screen.label_(centers, torch.empty(len(x), dtype=torch.int64))
    assert 7 in left.tolist()
