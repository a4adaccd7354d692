import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evaluation.evaluate import evaluate
from evaluation.knn import knn_accuracy, knn_classify, score_knn
from evaluation.scores import scored_state
from models.state import ClusterState
from tests.evaluation.fakes import fake_run
from tests.ranks import run_ranks


def test_files_hold_what_is_returned_and_the_table_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(fake_run(tmp_path))
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert len((tmp_path / "assignments.csv").read_text().splitlines()) == 102
    printed = capsys.readouterr().out
    assert printed.startswith("made: train+test, 101 rows; K = 4, epoch 3, seed 3\n")
    assert printed.splitlines()[2].split() == ["fake", "made", "projection", "1.0000", "1.0000", "1.0000"]


def test_picture_shows_a_row_of_sixteen_enlarged_images_per_cluster(tmp_path: Path) -> None:
    evaluate(fake_run(tmp_path))
    with Image.open(tmp_path / "clusters.png") as picture:
        assert picture.size == (16 * (5 * 7 + 2) + 2, 4 * (5 * 7 + 2) + 2)  # 5 px images, seven times as large
        assert len(picture.convert("L").getcolors()) > 50


def test_scores_and_baseline_stand_beside_their_features(tmp_path: Path) -> None:
    result = evaluate(fake_run())
    assert result["scores"] == pytest.approx({"acc": 1.0, "nmi": 1.0, "ari": 1.0})
    [baseline] = result["baselines"]
    assert (result["features"], baseline["features"]) == ("made projection", "pixels, 10 starts")
    assert baseline["scores"]["acc"] == 1.0
    assert result["embedding"] is None
    assert result["clusters"] == {"used": 4, "smallest": 25, "largest": 26}


def test_a_cluster_head_is_scored_beside_a_kmeans_of_the_embedding() -> None:
    run = fake_run()
    run.method.heads = (4,)
    run.method.probabilities = lambda images: torch.eye(4).double()[[0]].expand(len(images), 4)  # the head says 0
    run.method.e_step = lambda shard, state, clock: ClusterState(
        labels=shard.probabilities[0].argmax(1), centers=torch.zeros(4, 7).double()
    )
    result = evaluate(run)
    assert (result["features"], result["scores"]["acc"]) == ("cluster head", pytest.approx(26 / 101))
    assert (result["embedding"]["features"], result["embedding"]["scores"]["acc"]) == ("made projection", 1.0)


def test_a_run_without_directory_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate(fake_run())
    assert list(tmp_path.iterdir()) == []


def test_evaluation_changes_nothing_of_the_run(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    run.state = state = scored_state(run, None, run.clock)
    labels = state.labels.clone()
    weights = {name: value.clone() for name, value in run.method.state_dict().items()}
    generator = torch.get_rng_state()
    evaluate(run)
    assert run.state is state and torch.equal(state.labels, labels)
    assert all(torch.equal(value, weights[name]) for name, value in run.method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_without_ground_truth_there_are_clusters_and_no_scores(tmp_path: Path) -> None:
    result = evaluate(fake_run(tmp_path, labelled=False))
    assert (result["scores"], result["embedding"], result["baselines"]) == (None, None, [])
    assert (result["knn"], result["linear"]) == (None, None)
    assert (tmp_path / "assignments.csv").exists()


def test_knn_is_leave_one_out_without_a_split() -> None:
    run = fake_run()
    run.source.truth = run.source.truth.clone()
    run.source.truth[[5, 50]] = -1
    known = (run.source.truth >= 0).nonzero()[:, 0]
    features = run.method.encode(run.views.clean(run.source.images[known])).detach()
    truth = run.source.truth[known]
    expected = knn_accuracy(knn_classify(features, truth, features, neighbors=5, exclude_self=True), truth)
    found = score_knn(run)
    assert found["accuracy"] == expected
    assert found["protocol"] == "leave-one-out over 99 rows"


SPLIT = (torch.arange(0, 101, 2), torch.arange(1, 101, 2))


def test_knn_takes_bank_and_queries_from_the_source() -> None:
    run = fake_run(split=SPLIT)
    run.source.truth = torch.arange(101) % 5 % 3  # not what the patterns are: an accuracy between 0 and 1
    bank, queries = (run.method.encode(run.views.clean(run.source.images[rows])).detach() for rows in SPLIT)
    truth = run.source.truth
    expected = knn_accuracy(knn_classify(bank, truth[SPLIT[0]], queries, neighbors=5), truth[SPLIT[1]])
    found = score_knn(run)
    assert 0 < expected < 1
    assert found["accuracy"] == expected
    assert found["protocol"] == "50 queries, bank of 51"


def evaluated(rank: int, world: int, folder: str, split: tuple[torch.Tensor, torch.Tensor] | None) -> dict[str, Any]:
    place = Path(folder) / str(world)
    place.mkdir(exist_ok=True)
    run = fake_run(place, split=split)
    run.source.truth = torch.arange(101) % 5 % 3
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = evaluate(run)
    return {**result, "speaks": printed.getvalue() != ""}


@pytest.mark.parametrize("split", [None, SPLIT])
def test_two_and_four_ranks_find_what_one_finds(
    tmp_path: Path, split: tuple[torch.Tensor, torch.Tensor] | None
) -> None:
    results = [result for world in (1, 2, 4) for result in run_ranks(world, evaluated, str(tmp_path), split)]
    for result in results:
        result.pop("command")
    assert [result.pop("speaks") for result in results] == [True, True, False, True, False, False, False]
    assert all(result == results[0] for result in results)
    files = [(tmp_path / world / "assignments.csv").read_text() for world in ("1", "2", "4")]
    assert files[0] == files[1] == files[2]
