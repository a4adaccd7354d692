import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from evaluation.scores import scored_state
from evaluation.several_runs import evaluate_runs
from evaluation.transfer import answer, ask, with_images
from tests.ranks import run_ranks
from tests.runs import tiny_settings
from training.begin import new_run, open_run
from training.checkpoint import snapshot, write_checkpoint
from training.run_dir import RunDirectory, create_run
from utils.clock import Clock
from utils.errors import UserError

CPU = torch.device("cpu")


@contextlib.contextmanager
def no_probe() -> Iterator[None]:
    """Without the linear probe and the clusters of pixels, which have their own tests and take most of the time."""
    with (
        patch("evaluation.evaluate.score_linear", lambda run: None),
        patch("evaluation.evaluate.cluster_pixels", lambda run, n_clusters: []),
    ):
        yield


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with no_probe():
        yield


def finished(folder: Path, name: str, method: str = "simclr", **changes: Any) -> RunDirectory:
    """A run directory of a network that nobody has trained: its clusters are those of its first features."""
    settings = tiny_settings(method, run__folder=folder, run__name=name, **changes)
    run = new_run(settings, CPU)
    directory = create_run(folder, name, name, settings.to_yaml())
    directory.describe_images(run.source)
    if method == "simclr":
        run.state = scored_state(run, None, run.clock)
    write_checkpoint(
        directory.checkpoints, snapshot(run.method, run.optimizer, run.state, Clock(84, 28, 3), settings.to_yaml())
    )
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return finished(tmp_path_factory.mktemp("runs"), "own", data__split="train")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 digits as grey files of 16 x 16 in a folder for each class."""
    folder = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for row in range(120):
        picture = Image.fromarray((digits.images[row] * 15).astype("uint8")).resize((16, 16))
        place = folder / f"class {digits.target[row]}"
        place.mkdir(exist_ok=True)
        picture.save(place / f"{row}.png")
    return folder


def judged(directory: RunDirectory, data: str | None = None, *words: str) -> dict[str, Any]:
    return answer(directory, ask(directory, data, list(words)), CPU)


def test_own_images_give_the_runs_own_evaluation(trained: RunDirectory) -> None:
    result = judged(trained)
    assert json.loads((trained.path / "evaluation.json").read_text()) == result
    assert (result["rows"], result["assigned"]) == (1437, None)


def test_another_part_is_judged_anew_and_leaves_the_runs_own_evaluation(
    trained: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(trained)
    before = (trained.path / "evaluation.json").read_bytes(), (trained.path / "assignments.csv").read_bytes()
    result = judged(trained, "digits", "data.split=test")
    assert (result["protocol"], result["rows"], result["n_clusters"]) == ("test, 360 rows", 360, 10)
    assert (result["name"], result["assigned"]["features"]) == ("KMeans", "assigned to its own 10 clusters")
    assert json.loads((trained.path / "evaluation-digits-test-k10.json").read_text()) == result
    assert before == ((trained.path / "evaluation.json").read_bytes(), (trained.path / "assignments.csv").read_bytes())
    assert "evaluation-digits-test-k10.json" in capsys.readouterr().out


def test_assigned_training_images_score_as_the_clusters_of_training(trained: RunDirectory) -> None:
    own, again = judged(trained), judged(trained, None, "estep.n_clusters=7")
    assert again["assigned"]["scores"] == pytest.approx(own["scores"])
    assert again["knn"] == own["knn"] and again["retrieval"] == own["retrieval"]


def test_k_that_is_not_the_number_of_classes_gets_ami_and_purity(trained: RunDirectory) -> None:
    result = judged(trained, None, "estep.n_clusters=7")
    assert result["n_clusters"] == 7 and result["clusters"]["used"] == 7
    assert result["scores"].keys() == {"acc", "nmi", "ari", "ami", "purity"}
    assert (trained.path / "evaluation-digits-train-k7.json").is_file()


def test_eval_keys_change_the_runs_own_evaluation(trained: RunDirectory) -> None:
    assert judged(trained, None, "eval.knn_neighbors=3")["knn"]["neighbors"] == 3


@pytest.mark.parametrize("truth", ["folders", "csv"])
def test_a_folder_is_judged_by_the_classes_that_are_given(tmp_path: Path, photos: Path, truth: str) -> None:
    directory = finished(tmp_path, "color", data__name="folder", data__root=photos, estep__n_clusters=5)
    listed = tmp_path / "classes.csv"
    lines = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    listed.write_text("\n".join(["path,label", *lines]))
    assert judged(directory)["scores"] is None
    own = judged(directory, None, f"data.truth={'folders' if truth == 'folders' else listed}")
    assert own["assigned"] is None and own["scores"].keys() >= {"acc", "ami"}
    given = judged(directory, str(photos / "class 3"), "data.image_size=32", "estep.n_clusters=2")
    assert (given["rows"], given["n_clusters"], given["scores"]) == (13, 2, None)
    assert (directory.path / "evaluation-class 3-k2.json").is_file()


def test_images_of_another_size_are_seen_at_the_size_that_the_network_takes(tmp_path: Path, photos: Path) -> None:
    directory = finished(
        tmp_path, "small", data__name="folder", data__root=photos, data__image_size=8, estep__n_clusters=5
    )
    question, rows = ask(directory, str(photos), ["data.image_size=16"]), torch.arange(20)
    run = open_run(question.own, directory, CPU)
    moved = with_images(run, question.asked)
    assert moved.store.images(rows).shape == (20, 3, 16, 16)
    small, own = moved.views.clean(moved.store.images(rows)), run.views.clean(run.store.images(rows))
    assert small.shape == own.shape == (20, 3, 8, 8)
    assert torch.equal(torch.cdist(small.flatten(1), own.flatten(1)).argmin(1), rows)  # the same pictures


def test_other_images_are_normalised_as_those_of_training(tmp_path: Path, photos: Path) -> None:
    small = {"data__image_size": 8, "data__resize": "squash"}
    directory = finished(tmp_path, "grey", data__name="folder", data__root=photos, estep__n_clusters=5, **small)
    question = ask(directory, str(photos), ["data.image_size=8"])
    run = open_run(question.own, directory, CPU)
    assert question.other and question.asked.data.resize == "crop"
    run.source.mean, run.source.std = (0.9, 0.8, 0.7), (0.25, 0.25, 0.25)
    moved = with_images(run, question.asked)
    images, mean = moved.store.images(torch.arange(3)), torch.tensor([0.9, 0.8, 0.7])[:, None, None]
    torch.testing.assert_close(moved.views.clean(images), 4 * (images / 255 - mean))


def test_published_sets_are_not_sought_in_a_folder_of_own_images(tmp_path: Path, photos: Path) -> None:
    directory = finished(tmp_path, "color", data__name="folder", data__root=photos, estep__n_clusters=5)
    assert ask(directory, "cifar10", []).asked.data.root == Path("data_files")
    assert ask(directory, "cifar10", ["data.root=/sets"]).asked.data.root == Path("/sets")
    (smile := tmp_path / "\U0001f600").mkdir()
    assert ask(directory, str(smile), []).asked.data.root == smile


def test_more_or_fewer_images_than_the_run_had_are_refused(tmp_path: Path, photos: Path) -> None:
    own = shutil.copytree(photos, tmp_path / "own")
    directory = finished(tmp_path, "color", data__name="folder", data__root=own, estep__n_clusters=5)
    next(own.rglob("*.png")).unlink()
    with pytest.raises(UserError, match="data.root: 119 images, the run was trained on 120; for other images: --data"):
        judged(directory)


def test_methods_fed_with_features_are_judged_elsewhere(tmp_path: Path) -> None:
    directory = finished(tmp_path, "temi", "temi", data__split="train", estep__n_clusters=7)
    result = judged(directory, "digits", "data.split=test")
    assert (result["rows"], result["n_clusters"]) == (360, 10)  # as many as the set has classes


def test_other_images_are_judged_where_those_of_the_run_are_gone(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(photos, tmp_path / "own")
    changes = {"data__truth": "folders", "log__wandb": True}
    directory = finished(tmp_path, "away", "temi", data__name="folder", data__root=own, **changes)
    own.rename(tmp_path / "gone")
    monkeypatch.setattr("training.settings.installed", lambda package: False)  # which trained, and need not judge
    found = judged(directory, str(photos))
    assert (found["rows"], found["scores"]) == (120, None)  # their classes are not asked for
    with pytest.raises(UserError, match="data.root: "):
        judged(directory)


@pytest.mark.parametrize(
    ("data", "words", "problem"),
    [
        ("digist", [], "--data digist: neither a data set nor a folder (did you mean digits?)"),
        (None, ["optim.epochs=9"], "optim.epochs: a trained network keeps it; data., eval. and estep.n_clusters may"),
        (None, ["estep.n_clusters=1438"], "estep.n_clusters: 1437 images for n_clusters=1438"),
        ("{photos}", ["data.truth=folders"], "data.name: folder has 3 channels, the network takes 1"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(
    trained: RunDirectory, photos: Path, data: str | None, words: list[str], problem: str
) -> None:
    with pytest.raises(UserError) as refused:
        judged(trained, data and data.format(photos=photos), *words)
    assert str(refused.value).startswith(problem)


def test_seeds_of_one_setting_share_a_table_and_other_settings_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(finished(tmp_path, f"seed{seed}", run__seed=seed).path) for seed in (3, 4)]
    paths.append(str(finished(tmp_path, "other", method__temperature=0.3).path))
    results = evaluate_runs(paths, None)
    report = json.loads((tmp_path / "evaluation-seed3-and-1-more.json").read_text())
    assert report["seeds"] == [3, 4]
    one, two = (result["knn"]["accuracy"] for result in results[:2])
    assert one != two
    expected = {"mean": (one + two) / 2, "deviation": abs(one - two) / 2**0.5}
    assert report["spread"]["knn: accuracy"] == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert printed.count("that differ in their seeds alone") == 1
    assert f"{expected['mean']:.4f} ± {expected['deviation']:.4f}" in printed


def commanded(rank: int, world: int, path: Path) -> tuple[str, dict[str, Any]]:
    """What this rank says, and the result; the group of ranks is there already."""
    said = io.StringIO()
    with no_probe(), patch("evaluation.several_runs.start", lambda run: CPU), contextlib.redirect_stdout(said):
        [result] = evaluate_runs([str(path)], None)
    return said.getvalue(), result


def test_two_ranks_evaluate_a_run_as_one_does_and_say_it_once(tmp_path: Path) -> None:
    changes = {"data__split": "test", "optim__precision": "fp64"}
    path = finished(tmp_path, "twice", **changes, optim__global_batch=63).path  # which two ranks cannot share
    [(said, result)], two = run_ranks(1, commanded, path), run_ranks(2, commanded, path)
    assert said.startswith("digits: test, 360 rows; K = 10") and [words for words, _ in two] == [said, ""]
    assert all({**found, "command": ""} == {**result, "command": ""} for _, found in two)


def elsewhere(rank: int, world: int, path: str) -> dict[str, Any]:
    with no_probe():
        return judged(RunDirectory(Path(path)), "digits", "data.split=test", "estep.n_clusters=7")


def test_two_ranks_find_elsewhere_what_one_finds(tmp_path: Path) -> None:
    directory = finished(tmp_path, "double", data__split="train", optim__precision="fp64", estep__max_iter=3)
    results = [each for world in (1, 2) for each in run_ranks(world, elsewhere, str(directory.path))]
    for result in results:
        result.pop("command")
    assert results[1] == results[2]
    assert results[0] == results[1]
