import math

import pytest
import torch
from torch import Tensor

from evaluation.knn import knn_accuracy, knn_classify, nearest_rows
from tests.ranks import run_ranks

# (k, T, first and last row of the class probabilities, predictions, top-1, top-3); an independent float64 computation
CASES = [
    (
        1,
        0.07,
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0, 2, 4, 1, 3, 0, 3, 3, 2],
        0.666666666667,
        0.777777777778,
    ),
    (
        5,
        0.07,
        [0.324307657913, 0.197998809156, 0.13872398422, 0.159750785031, 0.17921876368],
        [0.221427748134, 0.122009181797, 0.546639498824, 0.0, 0.109923571244],
        [0, 3, 4, 1, 3, 2, 3, 3, 2],
        0.444444444444,
        0.777777777778,
    ),
    (
        20,
        0.07,
        [0.324755236668, 0.171581551438, 0.16475819174, 0.19645026735, 0.142454752804],
        [0.215304310477, 0.102729839404, 0.415041948714, 0.0934371871259, 0.173486714279],
        [0, 3, 4, 1, 3, 3, 3, 3, 2],
        0.444444444444,
        0.666666666667,
    ),
    (
        20,
        0.1,
        [0.280314578108, 0.168055601419, 0.188132357652, 0.209614087183, 0.153883375638],
        [0.235263685482, 0.121322890232, 0.310771588004, 0.12729860141, 0.205343234872],
        [0, 3, 1, 1, 3, 3, 0, 3, 2],
        0.333333333333,
        0.666666666667,
    ),
    (
        50,
        0.07,
        [0.32607575326, 0.172553817159, 0.163709112717, 0.195204619365, 0.142456697499],
        [0.214907253237, 0.103552067246, 0.413361541584, 0.0937421762942, 0.174436961639],
        [0, 3, 4, 1, 3, 3, 3, 3, 2],
        0.444444444444,
        0.666666666667,
    ),
    (
        200,
        0.07,
        [0.32607575326, 0.172553817159, 0.163709112717, 0.195204619365, 0.142456697499],
        [0.214907253237, 0.103552067246, 0.413361541584, 0.0937421762942, 0.174436961639],
        [0, 3, 4, 1, 3, 3, 3, 3, 2],
        0.444444444444,
        0.666666666667,
    ),
]
LEAVE_ONE_OUT = [
    [28, 8, 16, 12, 44],
    [20, 21, 41, 9, 33],
    [46, 37, 18, 10, 42],
    [19, 7, 23, 39, 43],
    [36, 20, 1, 16, 8],
]


def table(n_rows: int, shift: float) -> Tensor:
    """(n_rows, 6): x[i, j] = 3 sin(0.7 (i mod 4) + 1.3 j) + sin(0.37 (i+1)(j+1) + s) + 0.1 ((7i + 3j) mod 11)."""
    return torch.tensor(
        [
            [
                3 * math.sin(0.7 * (i % 4) + 1.3 * j)
                + math.sin(0.37 * (i + 1) * (j + 1) + shift)
                + 0.1 * ((7 * i + 3 * j) % 11)
                for j in range(6)
            ]
            for i in range(n_rows)
        ],
        dtype=torch.float64,
    )


BANK, QUERIES = table(50, 0.0), table(9, 0.9)
BANK_TRUTH = torch.tensor([(7 * i + i // 6) % 5 for i in range(50)])
QUERY_TRUTH = torch.tensor([(7 * i) % 5 for i in range(9)])
# rows of the bank and of the queries that each rank holds: unequal, one rank without any
SPLITS = {1: ([50], [9]), 2: ([37, 13], [2, 7]), 4: ([3, 0, 30, 17], [4, 3, 0, 2])}


@pytest.mark.parametrize("neighbors, temperature, first, last, predictions, top1, top3", CASES)
def test_probabilities_and_accuracy_are_those_of_the_independent_computation(
    neighbors: int,
    temperature: float,
    first: list[float],
    last: list[float],
    predictions: list[int],
    top1: float,
    top3: float,
) -> None:
    found = knn_classify(BANK, BANK_TRUTH, QUERIES, neighbors=neighbors, temperature=temperature)
    torch.testing.assert_close(found[[0, -1]], torch.tensor([first, last], dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert found.argmax(1).tolist() == predictions
    assert knn_accuracy(found, QUERY_TRUTH) == pytest.approx(top1, rel=1e-9)
    assert knn_accuracy(found, QUERY_TRUTH, top=3) == pytest.approx(top3, rel=1e-9)


def test_leave_one_out_masks_the_own_row() -> None:
    _, position = nearest_rows(BANK, BANK, neighbors=5, exclude_self=True)
    assert position[:5].tolist() == LEAVE_ONE_OUT
    agreement = (BANK_TRUTH[position] == BANK_TRUTH[:, None]).double().mean()
    assert float(agreement) == pytest.approx(0.188)


def test_leave_one_out_keeps_a_duplicate_of_the_own_row() -> None:
    bank = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2, 1]]
    _, position = nearest_rows(bank, bank, neighbors=2, exclude_self=True)
    assert position[[1, 2, 4]].tolist() == [[2, 4], [1, 4], [1, 2]]


def test_equal_similarities_are_taken_from_the_lowest_position() -> None:
    bank = torch.eye(2, dtype=torch.float64)[[1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]]
    _, position = nearest_rows(bank, torch.tensor([[1.0, 0.0]], dtype=torch.float64), neighbors=3)
    assert position.tolist() == [[1, 3, 5]]


def test_length_of_rows_does_not_matter() -> None:
    lengths = torch.arange(1, 51, dtype=torch.float64)[:, None]
    expected = knn_classify(BANK, BANK_TRUTH, QUERIES)
    torch.testing.assert_close(knn_classify(BANK * lengths, BANK_TRUTH, QUERIES * 7), expected)


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert knn_classify(BANK.float(), BANK_TRUTH, QUERIES.float(), temperature=1e-4).isfinite().all()


def test_classes_absent_from_the_bank_get_zero() -> None:
    found = knn_classify(BANK, BANK_TRUTH, QUERIES, n_classes=7)
    assert found.shape == (9, 7)
    assert found[:, 5:].eq(0).all()


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="bank of 1 rows"):
        nearest_rows(BANK[:1], BANK[:1], neighbors=3, exclude_self=True)


def sharded(rank: int, world: int) -> dict[str, Tensor | float]:
    bank_sizes, query_sizes = SPLITS[world]
    bank, bank_truth = BANK.split(bank_sizes)[rank], BANK_TRUTH.split(bank_sizes)[rank]
    queries, truth = QUERIES.split(query_sizes)[rank], QUERY_TRUTH.split(query_sizes)[rank]
    found = knn_classify(bank, bank_truth, queries, neighbors=5, chunk=2)
    similarity, position = nearest_rows(bank, bank, neighbors=5, exclude_self=True, chunk=7)
    tied = torch.eye(3, dtype=torch.float64)[torch.arange(50) % 3].split(bank_sizes)[rank]
    return {
        "probabilities": found,
        "accuracy": knn_accuracy(found, truth),
        "similarity": similarity,
        "position": position,
        "tied": nearest_rows(tied, tied, neighbors=4, exclude_self=True, chunk=3)[1],
    }


@pytest.mark.parametrize("world", [1, 2, 4])
def test_sharded_bank_and_queries_equal_one_process(world: int) -> None:
    ranks = run_ranks(world, sharded)
    whole = {name: torch.cat([result[name] for result in ranks]) for name in ("probabilities", "position", "tied")}
    expected = knn_classify(BANK, BANK_TRUTH, QUERIES, neighbors=5)
    torch.testing.assert_close(whole["probabilities"], expected, rtol=1e-12, atol=1e-14)
    assert {result["accuracy"] for result in ranks} == {knn_accuracy(expected, QUERY_TRUTH)}
    assert torch.equal(whole["position"], nearest_rows(BANK, BANK, neighbors=5, exclude_self=True)[1])
    tied = [[j for j in range(i % 3, 50, 3) if j != i][:4] for i in range(50)]
    assert whole["tied"].tolist() == tied
