import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from evaluation.predict import assign_rows, write_assignments
from evaluation.scores import scored_state
from models.state import ClusterState
from tests.evaluation.fakes import fake_run
from tests.ranks import run_ranks


def read(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_each_row_tells_its_cluster_and_what_comes_next(tmp_path: Path) -> None:
    run = fake_run()
    state = scored_state(run, None, run.clock)
    write_assignments(run, assign_rows(run, state), tmp_path / "assignments.csv")
    header, *lines = read(tmp_path / "assignments.csv")
    assert header == ["row", "path", "cluster", "confidence", "distance", "runner_up"]
    assert [line[0] for line in lines] == [str(row) for row in range(101)]
    features = F.normalize(run.method.embed(run.views.clean(run.source.images)), dim=1).detach()
    probabilities = torch.softmax(features @ state.centers.T / 0.1, dim=1)
    for row in (0, 46, 100):
        best, second = probabilities[row].topk(2).indices.tolist()
        distance = (features[row] - state.centers[best]).norm()
        expected = [f"folder, with comma/{row}.png", str(best), f"{probabilities[row, best]:.6f}", f"{distance:.6f}"]
        assert lines[row][1:] == [*expected, str(second)]


def test_the_cluster_is_the_states_label_even_where_another_is_more_probable() -> None:
    run = fake_run()
    state = scored_state(run, None, run.clock)
    moved = state.labels.clone()
    moved[46] = (state.labels[46] + 1) % 4
    found = assign_rows(run, ClusterState(labels=moved, centers=state.centers, extra=state.extra))
    assert found.cluster[46] == moved[46]
    assert found.runner_up[46] == state.labels[46]
    assert found.confidence[46] < 0.5


def test_one_cluster_has_no_runner_up(tmp_path: Path) -> None:
    run = fake_run(n_clusters=1)
    write_assignments(run, assign_rows(run, scored_state(run, None, run.clock)), tmp_path / "assignments.csv")
    _, *lines = read(tmp_path / "assignments.csv")
    assert {(line[2], line[3], line[5]) for line in lines} == {("0", "1.000000", "")}


def test_clusters_without_centres_have_no_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run()
    state = ClusterState(labels=torch.arange(101) % 4)
    monkeypatch.setattr(run.method, "assign", lambda images, state: torch.full((len(images), 4), 0.25).double())
    write_assignments(run, assign_rows(run, state), tmp_path / "assignments.csv")
    assert {line[4] for line in read(tmp_path / "assignments.csv")[1:]} == {""}


def written(rank: int, world: int, folder: str) -> None:
    run = fake_run()
    state = scored_state(run, None, run.clock)
    found = assign_rows(run, state)
    if rank == 0:
        write_assignments(run, found, Path(folder) / f"{world}.csv")


def test_assignments_are_equal_on_one_two_and_four_ranks(tmp_path: Path) -> None:
    for world in (1, 2, 4):
        run_ranks(world, written, str(tmp_path))
    first, *others = [(tmp_path / f"{world}.csv").read_text() for world in (1, 2, 4)]
    assert len(first.splitlines()) == 102
    assert others == [first, first]
