import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.choose_k import check_candidates, choose_k, panels, read_candidates, sweep_k
from models.parts.centers import EStepConfig
from tests.ranks import run_ranks
from tests.runs import tiny_settings
from torch_clustering.choose_k import ChoiceOfK, ScoresOfK
from training.begin import new_run
from training.checkpoint import snapshot, write_checkpoint
from training.run_dir import RunDirectory, create_run
from utils.clock import Clock
from utils.errors import UserError


def blobs(n_clusters: int, seed: int = 0, rows: int = 40, width: int = 11) -> Tensor:
    """Well separated: centres a fifth of the sphere apart or more, rows a twentieth around them."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.linalg.qr(torch.randn(width, width, generator=generator))[0][:n_clusters]
    return (centers[:, None] + 0.05 * torch.randn(n_clusters, rows, width, generator=generator)).flatten(0, 1)


@pytest.mark.parametrize(("truth", "metric"), [(3, "euclidean"), (7, "spherical")])
def test_k_is_within_one_of_the_number_of_well_separated_blobs(truth: int, metric: str) -> None:
    rows = blobs(truth) * torch.linspace(1, 9, 40 * truth)[:, None]  # lengths of rows do not matter
    config = EStepConfig(metric=metric, n_init=1)  # type: ignore[arg-type]
    assert abs(choose_k(rows, range(2, 10), config, seed=1).n_clusters - truth) <= 1


@pytest.mark.parametrize(
    ("words", "numbers"), [("2:5", [2, 3, 4, 5]), ("2:9:3", [2, 5, 8]), ("20,5,10", [5, 10, 20]), ("7", [7])]
)
def test_candidates_are_named_by_a_range_or_a_list(words: str, numbers: list[int]) -> None:
    assert list(read_candidates(words)) == numbers


@pytest.mark.parametrize("words", ["", "1:5", "5:2", "two", "2:5:0", "2:", "2:9:3:1", "2,,3", "9:2:-1"])
def test_what_names_no_candidates_is_refused(words: str) -> None:
    with pytest.raises(UserError, match="names no numbers from 2 on; for instance --k 2:50"):
        read_candidates(words)


def test_more_clusters_than_a_subsample_has_rows_are_refused() -> None:
    check_candidates([2, 70], 100)
    with pytest.raises(UserError, match="K = 71 of 100 images; at most 70"):
        check_candidates([2, 71], 100)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run before its first step, on the 360 test digits."""
    folder = tmp_path_factory.mktemp("runs")
    settings = tiny_settings(
        "simclr", run__folder=folder, run__name="begun", data__split="test", estep__n_init=1, optim__precision="fp64",
        optim__global_batch=63,  # which two ranks cannot share, and need not
    )  # fmt: skip
    run = new_run(settings, torch.device("cpu"))
    directory = create_run(folder, "begun", "begun", settings.to_yaml())
    write_checkpoint(
        directory.checkpoints, snapshot(run.method, run.optimizer, None, Clock(0, 28, 3), settings.to_yaml())
    )
    return directory


@pytest.fixture(scope="module")
def alone(begun: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> tuple[ChoiceOfK, str, Path]:
    """What one process chooses, says, and the folder that it made for it."""
    out, said = tmp_path_factory.mktemp("alone") / "new folder", io.StringIO()
    with contextlib.redirect_stdout(said):
        choice = sweep_k(begun.path, "2,3", out)
    return choice, said.getvalue(), out


def test_a_run_is_told_its_k_in_a_table_a_plot_and_json(alone: tuple[ChoiceOfK, str, Path]) -> None:
    choice, printed, out = alone
    report = json.loads((out / "sweep_k.json").read_text())
    assert [row["n_clusters"] for row in report["scores"]] == [2, 3]
    assert (report["n_clusters"], report["reason"]) == (choice.n_clusters, choice.reason)
    with Image.open(out / "sweep_k.png") as picture:
        assert picture.size == (3 * 480, 2 * 320)  # six scores
    assert f"K = {choice.n_clusters}: {choice.reason}" in printed and choice.doubt in printed
    assert "digits: test, 360 rows; encoder, epoch 0\n" in printed


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_place_that_is_no_folder_is_refused_before_the_work(out: str, begun: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out .*file' is no folder that can be written to"):
        sweep_k(begun.path, "2,3", tmp_path / out)


def test_features_that_are_no_numbers_are_refused_in_one_line(begun: RunDirectory, tmp_path: Path) -> None:
    with (
        patch("evaluation.choose_k.map_rows", lambda *arguments: torch.full((360, 7), torch.nan)),
        pytest.raises(UserError, match=r"begun: its features cannot be clustered: .*NaN"),
    ):
        sweep_k(begun.path, "2,3", tmp_path)


def test_a_score_over_k_is_drawn_where_it_is_known_and_the_choice_is_marked() -> None:
    nan = float("nan")
    scores = [ScoresOfK(k, 9.0 - k, 0.1 * k, 1.0, 2.0, -3.0, nan if k == 3 else 0.5, k) for k in (2, 3, 4)]
    drawn = {panel.title: panel for panel in panels(ChoiceOfK(scores, 4, "most agree", "none"))}
    assert [point[0] for point in drawn["stability under subsampling, high is good"].lines[0].points] == [2, 4]
    assert drawn["silhouette, high is good"].lines[0].points[2] == (4.0, pytest.approx(0.4))
    assert {panel.mark for panel in drawn.values()} == {4.0}


def swept(rank: int, world: int, path: Path, out: Path) -> tuple[str, list[dict[str, float]]]:
    """What this rank says, and the scores; the group of ranks is there already."""
    said = io.StringIO()
    with patch("evaluation.choose_k.start", lambda run: torch.device("cpu")), contextlib.redirect_stdout(said):
        choice = sweep_k(path, "2,3", out)
    return said.getvalue(), [asdict(row) for row in choice.scores]


def test_two_ranks_sweep_a_run_as_one_does_and_say_it_once(
    begun: RunDirectory, alone: tuple[ChoiceOfK, str, Path]
) -> None:
    choice, said, out = alone
    two = run_ranks(2, swept, begun.path, out)
    assert [words for words, _ in two] == [said, ""]
    for _, found in two:
        assert found == [pytest.approx(asdict(row), rel=1e-9) for row in choice.scores]


def chosen(rank: int, world: int) -> tuple[int, list[float], str]:
    part = slice(rank * 197 // world, (rank + 1) * 197 // world)
    rows = blobs(5, rows=40)[torch.randperm(200, generator=torch.Generator().manual_seed(2))[:197]]
    choice = choose_k(rows[part].double(), range(4, 7), EStepConfig(n_init=1), seed=1)
    return choice.n_clusters, [row.silhouette for row in choice.scores], choice.doubt


def test_two_ranks_choose_what_one_chooses() -> None:
    one, two = chosen(0, 1), run_ranks(2, chosen)
    assert two[0] == two[1]
    assert two[0][0] == one[0] == 5 and two[0][2] == one[2]
    assert two[0][1] == pytest.approx(one[1], rel=1e-9)
