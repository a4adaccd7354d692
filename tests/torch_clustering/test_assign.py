"""The nearest centre: fast products must give the labels of float64 differences, at any precision and in any chunks."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from torch_clustering import _checks, assign
from torch_clustering.assign import nearest
from torch_clustering.gemm import Affine, usable


def oracle(x: Tensor, centers: Tensor) -> Tensor:
    return torch.stack([(row.double() - centers).square().sum(1).argmin() for row in x])


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def test_labels_equal_float64_differences_at_every_precision_of_products(precision: str) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(997, 61, generator=draws)
    centers = torch.randn(13, 61, generator=draws).double()
    assert torch.equal(nearest(x, centers), oracle(x, centers))


def test_near_ties_are_decided_by_differences() -> None:
    draws = torch.Generator().manual_seed(1)
    centers = torch.randn(2, 61, generator=draws).double()
    middle, across = centers.mean(0), centers[1] - centers[0]
    steps = torch.linspace(-3e-7, 3e-7, 499, dtype=torch.float64)[:, None]
    x = (middle + 20 * torch.randn(499, 61, generator=draws).double() @ _without(across) + steps * across).float()
    assert torch.equal(nearest(x, centers), oracle(x, centers))
    scores = centers.float().square().sum(1) - 2 * x @ centers.float().T
    assert not torch.equal(scores.argmin(1), oracle(x, centers))  # plain float32 products get some wrong


def _without(direction: Tensor) -> Tensor:
    unit = direction / direction.norm()
    return torch.eye(len(unit), dtype=torch.float64) - torch.outer(unit, unit)


def test_collapsed_rows_are_told_apart() -> None:
    draws = torch.Generator().manual_seed(2)
    x = 1 + 1e-6 * torch.randn(499, 61, generator=draws)
    centers = x[:7].double()
    assert torch.equal(nearest(x, centers), oracle(x, centers))


def test_equal_centers_give_the_lowest_index() -> None:
    centers = torch.randn(1, 61, generator=torch.Generator().manual_seed(3)).double().expand(5, -1)
    assert nearest(torch.randn(97, 61), centers).unique().tolist() == [0]


@pytest.mark.parametrize("faster", [False, True])
def test_either_product_gives_the_labels(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_clustering.gemm.onednn_is_faster", lambda *_: faster)
    draws = torch.Generator().manual_seed(5)
    x = 3 + torch.randn(499, 61, generator=draws)
    centers = 3 + torch.randn(7, 61, generator=draws).double()
    assert Affine(x, x[:, 0]).onednn == (faster and usable(x))
    assert torch.equal(nearest(x, centers), oracle(x, centers))


def test_rows_whose_squares_overflow_are_decided_by_differences() -> None:
    draws = torch.Generator().manual_seed(6)
    x, centers = 1e25 * torch.randn(97, 7, generator=draws), 1e25 * torch.randn(5, 7, generator=draws).double()
    assert torch.equal(nearest(x, centers), oracle(x, centers))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(4)
    x, centers = torch.randn(499, 61, generator=draws), torch.randn(7, 61, generator=draws).double()
    whole = nearest(x, centers)
    monkeypatch.setattr(_checks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(assign, "CHUNK_BYTES", 1)
    assert torch.equal(nearest(x, centers), whole)
    assert nearest(x[:0], centers).tolist() == []
