"""Nearest rows against a sort of all float64 distances, for any split of the rows over ranks."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from tests.ranks import run_ranks
from tests.torch_clustering.made import close
from torch_clustering import neighbors
from torch_clustering.neighbors import nearest_neighbors


def rows_of(name: str) -> Tensor:
    draws = torch.Generator().manual_seed(7)
    noise = torch.randn(211, 5, generator=draws)
    return {
        "noise": noise,
        "float64": noise.double(),
        "far from the origin": noise + 3000,
        "tight groups": 10 * torch.randn(13, 5, generator=draws)[torch.arange(211) % 13] + 1e-4 * noise,
        "duplicates": noise[:7].repeat(31, 1)[:211],
        "a grid of ties": torch.randint(0, 3, (211, 5), generator=draws).float(),
        "rows of zeros": torch.cat([torch.zeros(3, 5), noise]),
        "squares overflow": 1e25 * noise,
    }[name]


NAMES = [
    "noise",
    "float64",
    "far from the origin",
    "tight groups",
    "duplicates",
    "a grid of ties",
    "rows of zeros",
    "squares overflow",
]


def sorted_distances(x: Tensor, queries: Tensor | None, metric: str) -> tuple[Tensor, Tensor]:
    rows, asked = x.double(), x.double() if queries is None else queries.double()
    if metric == "euclidean":
        distances = torch.cdist(asked, rows, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        units = [one / one.norm(dim=1, keepdim=True).clamp(min=1e-300) for one in (asked, rows)]
        distances = torch.cdist(*units, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        distances += (~asked.any(1)).double()[:, None] / 2 + (~rows.any(1)).double() / 2
    if queries is None:
        distances.fill_diagonal_(torch.inf)
    return distances.sort(dim=1, stable=True)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", NAMES)
def test_neighbours_are_those_of_all_float64_distances(name: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows_of(name)
    queries = x[::5].flip(1) + 0.5 * x.std()
    monkeypatch.setattr(neighbors, "QUERIES", 89)
    monkeypatch.setattr("torch_clustering._checks.CHUNK_BYTES", 1 << 9)
    for asked in (None, queries):
        expected, order = sorted_distances(x, asked, metric)
        for k in (1, 3, 17):
            distances, rows = nearest_neighbors(x, k, metric=metric, queries=asked)
            assert torch.equal(rows, order[:, :k]) and rows.dtype == torch.int64
            assert close(distances, expected[:, :k].to(x.dtype), 1e-9) and distances.dtype == x.dtype


def test_rounding_is_met_by_a_second_look_only_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    directly = neighbors._search_directly

    def counted(keys: Any, queries: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        asked.append(len(queries))
        return directly(keys, queries, *arguments)

    monkeypatch.setattr(neighbors, "_search_directly", counted)
    for name in ("noise", "float64", "far from the origin", "tight groups", "squares overflow"):
        nearest_neighbors(rows_of(name), 3)
    assert not asked
    nearest_neighbors(rows_of("duplicates"), 3)
    assert sum(asked) == 211


def test_arrays_give_arrays_equal_to_scikit_learns() -> None:
    x = rows_of("float64").numpy()
    distances, rows = nearest_neighbors(x, 11)
    expected = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(x).kneighbors()
    assert isinstance(rows, np.ndarray) and (rows == expected[1]).all() and close(distances, expected[0])
    distances, rows = nearest_neighbors(x, 11, metric="cosine", queries=x[:5])
    expected = NearestNeighbors(n_neighbors=11, metric="cosine").fit(x).kneighbors(x[:5])
    assert (rows == expected[1]).all() and close(distances, expected[0])


def test_a_row_may_be_its_own_neighbour_and_its_duplicates_always() -> None:
    x = torch.tensor([[1.0], [5.0], [1.0]])
    assert nearest_neighbors(x, 1)[1].tolist() == [[2], [0], [0]]
    assert nearest_neighbors(x, 1, exclude_self=False)[1].tolist() == [[0], [1], [0]]
    assert nearest_neighbors(x, 2, queries=x[1:2])[1].tolist() == [[1, 0]]
    distances, rows = nearest_neighbors(x, 3, queries=x[:0])
    assert distances.shape == rows.shape == (0, 3)


def test_impossible_questions_are_refused_with_their_numbers() -> None:
    x = rows_of("noise")[:5]
    with pytest.raises(ValueError, match="k=5 neighbours; 5 rows have at most 4"):
        nearest_neighbors(x, 5)
    with pytest.raises(ValueError, match="k=6 neighbours; 5 rows have at most 5"):
        nearest_neighbors(x, 6, queries=x)
    with pytest.raises(ValueError, match="k=0"):
        nearest_neighbors(x, 0)
    with pytest.raises(ValueError, match="4 features"):
        nearest_neighbors(x, 1, queries=x[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        nearest_neighbors(x, 1, queries=x / 0)
    with pytest.raises(ValueError, match="'dot' is none of"):
        nearest_neighbors(x, 1, metric="dot")


ENDS = {1: [0, 211], 2: [0, 9, 211], 4: [0, 0, 60, 63, 211]}


@patch.object(neighbors, "QUERIES", 31)
def ask_shard(rank: int, world: int) -> list[tuple[Tensor, Tensor]]:
    group = dist.group.WORLD if world > 1 else None
    part = slice(ENDS[world][rank], ENDS[world][rank + 1])
    found = []
    for name in ("noise", "duplicates", "a grid of ties"):
        x = rows_of(name)[part]
        found += [nearest_neighbors(x, 13, metric=metric, group=group) for metric in ("euclidean", "cosine")]
        found.append(nearest_neighbors(x, 5, queries=rows_of("noise")[part], group=group))
    with pytest.raises(ValueError, match="k=211 neighbours; 211 rows have at most 210"):
        nearest_neighbors(x, 211, group=group)
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_find_the_neighbours_among_the_rows_of_all(world: int) -> None:
    alone, parts = ask_shard(0, 1), run_ranks(world, ask_shard)
    for number, (distances, rows) in enumerate(alone):
        assert torch.equal(torch.cat([part[number][1] for part in parts]), rows)
        assert torch.equal(torch.cat([part[number][0] for part in parts]), distances)
