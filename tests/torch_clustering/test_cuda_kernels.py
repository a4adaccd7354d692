"""Kernels against float64, on a GPU where there is one, else on CPU tensors under Triton's interpreter."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.torch_clustering.made import made_rows
from torch_clustering import _checks, assign, cuda_assign, cuda_kernels, cuda_sums
from torch_clustering.cuda_assign import Shifted, available, screen, shift_rows
from torch_clustering.cuda_kernels import nearest_two
from torch_clustering.cuda_sums import cluster_totals, segment_sums

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the test's rows lie; on the CPU the kernels are interpreted, whoever has imported Triton before."""
    if request.param == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        kernels = [(cuda_kernels, "_nearest_two"), (cuda_kernels, "_shift"), (cuda_sums, "_add")]
        for module, name in kernels + [(triton.language, name) for name in ("cdiv", "min", "sum", "zeros")]:
            monkeypatch.setattr(module, name, triton.jit(getattr(module, name).fn))
    return str(request.param)


def nearest(x: Tensor, centers: Tensor, shifted: Shifted | None = None) -> Tensor:
    return cuda_assign.nearest(x, centers, assign.nearest, shifted)


def oracle(x: Tensor, centers: Tensor) -> Tensor:
    return torch.stack([(row.double() - centers).square().sum(1).argmin() for row in x])


def scores_of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return bias.double() + x.double() @ weight.double().T


@pytest.mark.parametrize(("n", "D", "K"), [(37, 3, 5), (131, 64, 1), (17, 129, 300), (19, 300, 131), (0, 5, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_label_best_and_second_are_those_of_all_scores(device: str, n: int, D: int, K: int, dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(n, D).to(dtype), torch.randn(K, D), torch.randn(K)
    labels, best, second = nearest_two(x.to(device), weight.to(device), bias.to(device))
    wanted = F.pad(scores_of(x, weight, bias), (0, 1), value=torch.inf).topk(2, largest=False)
    assert torch.equal(labels.long().cpu(), wanted.indices[:, 0])
    assert torch.allclose(torch.stack([best, second], 1).double().cpu(), wanted.values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("precision", ["tf32x3", "ieee", "tf32"])
def test_precision_is_the_calls_own(device: str, precision: str) -> None:
    x, weight, bias = torch.randn(37, 67), torch.randn(5, 67), torch.randn(5)
    best = nearest_two(x.to(device), weight.to(device), bias.to(device), precision=precision)[1]
    tolerance = 1e-2 if precision == "tf32" else 1e-5
    wanted = scores_of(x, weight, bias).amin(1)
    assert torch.allclose(best.double().cpu(), wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_centers_give_the_lowest_index_and_no_gap(device: str, dtype: torch.dtype) -> None:
    x = torch.randn(131, 16).to(dtype)
    weight, bias = torch.randn(7, 16).to(dtype).repeat(90, 1), torch.randn(7).repeat(90)  # in tiles of several programs
    labels, best, second = nearest_two(x.to(device), weight.to(device), bias.to(device))
    assert torch.equal(labels.long().cpu(), scores_of(x, weight[:7], bias[:7]).argmin(1))
    assert torch.equal(best, second)


@pytest.mark.parametrize(("n", "D", "K"), [(131, 3, 5), (67, 129, 137), (37, 300, 17), (5, 7, 1), (0, 5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_are_those_of_float64_distances(device: str, n: int, D: int, K: int, dtype: torch.dtype) -> None:
    x, centers = torch.randn(n, D, device=device).to(dtype), torch.randn(K, D, device=device).double()
    labels = nearest(x, centers)
    assert labels.tolist() == ([] if n == 0 else oracle(x, centers).tolist())
    assert torch.equal(labels, nearest(x, centers))


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def between(centers: Tensor, n: int, reach: float) -> Tensor:
    """(n, D) float32 rows near the plane between the first two centres; the third part of them at most `reach` off."""
    across = (centers[1] - centers[0]) / (centers[1] - centers[0]).norm()
    aside = torch.randn(n, centers.shape[1], dtype=torch.float64)
    aside -= (aside @ across)[:, None] * across
    steps = torch.linspace(-reach, reach, n, dtype=torch.float64) * torch.logspace(0, 4, 3).double().repeat(n)[:n]
    return (centers[:2].mean(0) + aside + steps[:, None] * across).float()


def test_near_ties_are_decided_whatever_the_switches_of_precision_say(device: str, precision: str) -> None:
    centers = torch.randn(2, 61).double()
    x = between(centers, 499, 1e-7)
    assert torch.equal(nearest(x.to(device), centers.to(device)).cpu(), oracle(x, centers))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_that_products_are_sure_of_have_the_right_label(device: str, dtype: torch.dtype) -> None:
    centers = torch.randn(2, 61).double()
    x = between(centers, 499, 1e-7 if dtype == torch.float32 else 1e-4)
    rows = shift_rows(x.to(device), centers.mean(0).to(device), centers.norm().to(device), dtype)
    labels, unsure = (found.cpu() for found in screen(rows, centers.to(device)))
    wrong = (labels != oracle(x, centers)).nonzero()[:, 0]
    assert set(wrong.tolist()) < set(unsure.tolist())
    assert len(wrong) > 3  # the products alone do err
    assert len(unsure) < 450  # and are not always unsure


def test_collapsed_rows_are_told_apart(device: str) -> None:
    x = (1000 + 0.01 * made_rows(40, 5)).float()
    centers = x[:4].double()
    assert torch.equal(nearest(x.to(device), centers.to(device)).cpu(), oracle(x, centers))
    tight = 1 + 1e-6 * torch.randn(97, 61)
    assert torch.equal(
        nearest(tight.to(device), tight[:7].double().to(device)).cpu(), oracle(tight, tight[:7].double())
    )


def test_rows_beyond_the_range_of_float16_are_decided_too(device: str) -> None:
    centers = torch.randn(7, 5).double()
    x = torch.randn(37, 5) * torch.logspace(-9, 9, 37)[:, None]
    assert torch.equal(nearest(x.to(device), centers.to(device)).cpu(), oracle(x, centers))


def test_equal_centers_give_the_lowest_index(device: str) -> None:
    centers = torch.randn(1, 61).double().expand(5, -1)
    assert nearest(torch.randn(37, 61, device=device), centers.to(device)).unique().tolist() == [0]


def test_rows_shifted_once_serve_other_centers(device: str) -> None:
    x = 100 + torch.randn(97, 19)
    mean = x.double().mean(0)
    rows = shift_rows(x.to(device), mean.to(device), (x - mean).norm(dim=1).mean().to(device), torch.float16)
    for centers in (x[:7].double(), 1e4 * torch.randn(3, 19).double()):
        assert torch.equal(nearest(x.to(device), centers.to(device), rows).cpu(), oracle(x, centers))


def test_chunks_do_not_show(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    centers = torch.randn(2, 61).double()
    x = between(centers, 211, 1e-4)
    monkeypatch.setattr(_checks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(cuda_assign, "UNSURE_ROWS", 31)
    assert torch.equal(nearest(x.to(device), centers.to(device)).cpu(), oracle(x, centers))


def test_rows_in_steps_are_read_as_they_lie(device: str) -> None:
    wide, centers = torch.randn(37, 26), torch.randn(5, 13).double()
    for x in (wide[:, :13], wide[:, ::2], wide[:13].T, wide[::2, :13]):
        fitting = centers[:, : x.shape[1]]
        assert torch.equal(nearest(x.to(device), fitting.to(device)).cpu(), oracle(x, fitting))
        assert torch.allclose(
            segment_sums(x.to(device), None, torch.zeros(len(x), device=device), 1)[0].cpu(), x.double().sum(0)
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_sums_by_cluster_are_those_of_float64(device: str, dtype: torch.dtype, weighted: bool) -> None:
    x = torch.randn(1031, 131).to(dtype)
    labels = torch.randint(5, (1031,)) % 4 * 2  # 0 fills two parts of 256 rows; 1, 3, 5 and beyond are empty
    weights = torch.rand(1031).double() if weighted else None
    sums = segment_sums(x.to(device), None if weights is None else weights.to(device), labels.to(device), 8)
    terms = x.double() if weights is None else x.double() * weights[:, None]
    assert torch.allclose(sums.cpu(), torch.zeros(8, 131).double().index_add(0, labels, terms), rtol=0, atol=1e-12)
    assert int(torch.bincount(labels)[0]) > 256


def test_totals_count_the_chosen_rows_only(device: str) -> None:
    x, labels, rows = torch.randn(97, 5), torch.randint(7, (97,)), torch.arange(0, 97, 3)
    labels[1::3] = -1  # not looked at
    for weights in (torch.arange(97).double() % 4, torch.ones(()).double().expand(97)):
        terms = torch.cat([x * weights[:, None], weights[:, None], (weights > 0)[:, None]], 1)[rows]
        wanted = torch.zeros(7, 7).double().index_add(0, labels[rows], terms)
        totals = cluster_totals(*(given.to(device) for given in (x, weights, labels)), 7, rows.to(device))
        assert torch.allclose(totals.cpu(), wanted, rtol=0, atol=1e-12)


def test_no_rows_have_sums_of_zero_and_equal_calls_give_equal_bits(device: str) -> None:
    x, labels = torch.randn(599, 7, device=device), torch.zeros(599, dtype=torch.int32, device=device)
    assert torch.equal(segment_sums(x[:0], None, labels[:0], 3).cpu(), torch.zeros(3, 7).double())
    first, again = (segment_sums(x, None, labels, 3) for _ in range(2))
    assert torch.equal(first, again)


def test_kernels_are_offered_on_a_gpu_only() -> None:
    assert not available(torch.device("cpu"))
