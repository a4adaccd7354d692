import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from evaluation import retrieval
from evaluation.retrieval import retrieve, score_retrieval
from tests.evaluation.fakes import fake_run
from tests.ranks import run_ranks


def table(n_rows: int, shift: float) -> Tensor:
    """(n_rows, 6): x[i, j] = 3 sin(0.7 (i mod 4) + 1.3 j) + sin(0.37 (i+1)(j+1) + s) + 0.1 ((7i + 3j) mod 11)."""
    i, j = torch.arange(n_rows, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)[None]
    waves = 3 * torch.sin(0.7 * (i % 4) + 1.3 * j) + torch.sin(0.37 * (i + 1) * (j + 1) + shift)
    return waves + 0.1 * ((7 * i + 3 * j) % 11)


BANK, QUERIES = table(50, 0.0), table(9, 0.9)
BANK_TRUTH = torch.tensor([(7 * i + i // 6) % 5 for i in range(50)])
QUERY_TRUTH = torch.tensor([(7 * i) % 5 for i in range(9)])
# rows of the bank and of the queries that each rank holds: unequal, one rank without any
SPLITS = {1: ([50], [9]), 2: ([37, 13], [2, 7]), 4: ([3, 0, 30, 17], [4, 3, 0, 2])}


def cosines(queries: Tensor, bank: Tensor) -> Tensor:
    return (queries / queries.norm(dim=1, keepdim=True)) @ (bank / bank.norm(dim=1, keepdim=True)).T


def test_average_precision_is_that_of_scikit_learn() -> None:
    precision, _ = retrieve(BANK, BANK_TRUTH, QUERIES, QUERY_TRUTH)
    expected = [
        average_precision_score((truth == BANK_TRUTH).numpy(), scores.numpy())
        for truth, scores in zip(QUERY_TRUTH, cosines(QUERIES, BANK), strict=True)
    ]
    assert precision.tolist() == pytest.approx(expected, rel=1e-12)


def test_rows_of_other_classes_ahead_are_counted_as_a_loop_counts_them() -> None:
    _, ahead = retrieve(BANK, BANK_TRUTH, QUERIES, QUERY_TRUTH)
    for truth, scores, found in zip(QUERY_TRUTH, cosines(QUERIES, BANK), ahead, strict=True):
        ranking = scores.argsort(descending=True)
        assert int(found) == (BANK_TRUTH[ranking] == truth).nonzero()[0, 0]


def test_equal_similarities_share_one_rank() -> None:
    bank = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2, 1]]
    truth = torch.tensor([0, 0, 1, 1, 1])
    query = torch.tensor([[0.1, 1.0, 0.0]], dtype=torch.float64)
    precision, ahead = retrieve(bank, truth, query, torch.tensor([0]))
    expected = average_precision_score((truth == 0).numpy(), cosines(query, bank)[0].numpy())
    assert precision.tolist() == pytest.approx([expected])
    assert ahead.tolist() == [2]  # both rows of class 1 that are as near as the one of class 0


def test_a_query_is_not_found_by_itself_but_by_its_duplicate() -> None:
    bank = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2]]
    truth = torch.tensor([0, 1, 1, 0])
    precision, ahead = retrieve(bank, truth, bank[1:], truth[1:], own=torch.tensor([1, 2, 3]))
    assert precision.tolist() == pytest.approx([1.0, 1.0, 1 / 3])
    assert ahead.tolist() == [0, 0, 2]


def test_a_class_without_another_row_gives_no_score() -> None:
    precision, ahead = retrieve(BANK, BANK_TRUTH, QUERIES[:2], torch.tensor([7, 0]))
    assert math.isnan(precision[0]) and not math.isnan(precision[1])
    assert ahead[0] == -1 and ahead[1] >= 0


def sharded(rank: int, world: int) -> tuple[Tensor, ...]:
    bank_sizes, query_sizes = SPLITS[world]
    bank, bank_truth = BANK.split(bank_sizes)[rank], BANK_TRUTH.split(bank_sizes)[rank]
    queries, truth = QUERIES.split(query_sizes)[rank], QUERY_TRUTH.split(query_sizes)[rank]
    own = torch.arange(50).split(bank_sizes)[rank]
    return (
        *retrieve(bank, bank_truth, queries, truth, chunk=2),
        *retrieve(bank, bank_truth, bank, bank_truth, own=own, chunk=7),
    )


@pytest.mark.parametrize("world", [1, 2, 4])
def test_sharded_bank_and_queries_equal_one_process(world: int) -> None:
    expected = (
        *retrieve(BANK, BANK_TRUTH, QUERIES, QUERY_TRUTH),
        *retrieve(BANK, BANK_TRUTH, BANK, BANK_TRUTH, own=torch.arange(50)),
    )
    for found in run_ranks(world, sharded):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


SPLIT = (torch.arange(0, 101, 2), torch.arange(1, 101, 2))


def test_scores_of_a_run_are_those_of_its_embedding_and_split() -> None:
    run = fake_run(split=SPLIT)
    run.source.truth = truth = torch.arange(101) % 5 % 3  # not what the patterns are
    truth[[3, 4]] = -1
    bank_rows, query_rows = (rows[truth[rows] >= 0] for rows in SPLIT)
    bank, queries = (
        run.method.embed(run.views.clean(run.source.images[rows])).detach() for rows in (bank_rows, query_rows)
    )
    similarity = cosines(queries, bank)
    same = truth[query_rows][:, None] == truth[bank_rows]
    hits = same.gather(1, similarity.argsort(1, descending=True))
    found = score_retrieval(run)
    assert found is not None
    for k in (1, 5, 10):
        assert found[f"recall@{k}"] == pytest.approx(float(hits[:, :k].any(1).double().mean()))
    assert found["map"] == pytest.approx(average_precision_score(same.T.numpy(), similarity.T.numpy()))
    assert (found["features"], found["protocol"]) == ("made projection", "49 queries, bank of 50")


def test_more_queries_than_the_bound_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run()
    run.source.truth = torch.arange(101) % 5 % 3
    everyone = score_retrieval(run)
    monkeypatch.setattr(retrieval, "MOST_QUERIES", 7)
    few = score_retrieval(run)
    assert everyone is not None and few is not None
    assert everyone["protocol"] == "101 queries, each among the other 100 rows"
    assert few["protocol"] == "7 queries, each among the other 100 rows"
    rows = torch.arange(7) * 101 // 7
    features = run.method.embed(run.views.clean(run.source.images)).detach()
    precision, _ = retrieve(features, run.source.truth, features[rows], run.source.truth[rows], own=rows)
    assert few["map"] == pytest.approx(float(precision.mean()))
    run.source.split = SPLIT
    of_a_split = score_retrieval(run)
    assert of_a_split is not None and of_a_split["protocol"] == "7 queries, bank of 51"


def test_a_query_without_another_row_of_its_class_has_no_part_in_the_means() -> None:
    run = fake_run()
    run.source.truth = torch.arange(101) % 5 % 3
    run.source.truth[50] = 9
    found = score_retrieval(run)
    assert found is not None and 0 < found["map"] < 1
    assert found["protocol"] == "100 queries, each among the other 100 rows"


def test_without_ground_truth_there_is_no_score() -> None:
    assert score_retrieval(fake_run(labelled=False)) is None


def scored(rank: int, world: int, most: int) -> dict[str, Any] | None:
    run = fake_run()
    run.source.truth = torch.arange(101) % 5 % 3
    with patch.object(retrieval, "MOST_QUERIES", most):
        return score_retrieval(run)


@pytest.mark.parametrize("most", [13, 10_000])
def test_two_and_four_ranks_score_a_run_as_one_does(most: int) -> None:
    results = [result for world in (1, 2, 4) for result in run_ranks(world, scored, most)]
    assert all(result == results[0] for result in results)


def test_chunks_are_bounded_whatever_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def remember(values: Tensor) -> Tensor:
        seen.append(values.numel())
        return values.sort(dim=1).values

    monkeypatch.setattr(retrieval, "_ascending", remember)
    monkeypatch.setattr(retrieval, "CHUNK_SIMILARITIES", 200)
    retrieve(BANK, BANK_TRUTH, BANK, BANK_TRUTH, own=torch.arange(50))
    assert max(seen) == 200
