"""The command `predict` from its words to its files."""

import csv
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import main
from data.sources.base import DataConfig
from data.sources.digits import Digits
from tests.runs import tiny_run
from training.log import Log
from training.loop import train
from training.run_dir import create_run

N = 30  # of the digits that lie as files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the 360 test rows of the digits."""
    return trained(tmp_path_factory.mktemp("runs"), epochs=1)


def trained(folder: Path, epochs: int, stop: int | None = None) -> Path:
    """The folder of a run of so many epochs, killed after `stop` of them."""
    made = tiny_run("propos", optim__epochs=epochs, data__split="test")
    made.directory = create_run(folder, "digits", "test", made.settings.to_yaml())
    with Log(made.settings.log, None, {}) as log:
        for _ in islice(train(made, log), stop):
            pass
    return made.directory.path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Rows 0 to 29 of those as PNG files in two folders, the names in both the same, and two files that are none."""
    for row, image in enumerate(Digits(DataConfig(split="test")).read()[:N]):
        place = tmp_path / "images" / f"part{row % 2}" / f"{row // 2:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place)
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "images" / "notes.md").write_text("none")
    return tmp_path / "images"


def predict(*words: object) -> int:
    try:
        return main.main(["predict", *map(str, words)])
    finally:
        torch.use_deterministic_algorithms(True)


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_a_line_an_image_and_the_skipped_files_beside_it(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clusters.csv"
    assert predict(run, images, "--out", out) == 0
    lines = read(out)
    assert list(lines[0]) == ["path", "cluster", "confidence", "distance", "runner_up"]
    assert [line["path"] for line in lines] == [
        f"part{part}/{number:02d}.png" for part in (0, 1) for number in range(15)
    ]
    skipped = [("notes.md", "not an image by its name (.md)"), ("broken.png", "not an image of a known format")]
    assert [tuple(line.values()) for line in read(tmp_path / "clusters.skipped.csv")] == skipped
    said = capsys.readouterr().out
    used = len({line["cluster"] for line in lines})
    assert (
        f"wrote {out}: 30 images in {used} of 10 clusters\n2 files skipped: {tmp_path}/clusters.skipped.csv\n" in said
    )
    assert "  broken.png: not an image of a known format\n" in said
    assert "the run stopped at epoch" not in said
    assert predict(run, images / "part0", images / "part1" / "03.png", "--out", out) == 0
    assert [line["path"] for line in read(out)][-1] == str(images / "part1" / "03.png")
    assert not (tmp_path / "clusters.skipped.csv").exists()  # it was of the earlier call


def test_of_many_skipped_files_the_first_are_named(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evaluation.predict_images.LISTED", 1)
    (tmp_path / "list.csv").write_text("path\nimages/part0/00.png\nnone.png\nimages/broken.png\nimages/none.png\n")
    assert predict(run, tmp_path / "list.csv", "--out", tmp_path / "clusters.csv") == 0
    said = capsys.readouterr().out
    assert f"3 files skipped: {tmp_path}/clusters.skipped.csv\n  none.png: cannot be read (No such file" in said
    assert said.endswith("\n  ... and 2 more\n") and said.count("\n  ") == 2
    assert [line["path"] for line in read(tmp_path / "clusters.skipped.csv")] == [
        "none.png", "images/none.png", "images/broken.png",
    ]  # fmt: skip


@pytest.mark.parametrize("links", [True, False])
def test_each_cluster_gets_a_folder_of_links_or_copies(
    links: bool, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.chdir(images if links else tmp_path)  # relative words, links that hold from anywhere
    (tmp_path / "sorted").mkdir()
    words = ["*/*.png"] if links else ["images"]
    assert predict(run, *words, "--out", tmp_path / "clusters.csv", "--folders", tmp_path / "sorted") == 0
    expected = sorted(
        (line["cluster"], (images / line["path"]).read_bytes()) for line in read(tmp_path / "clusters.csv")
    )
    made = [path for path in (tmp_path / "sorted").rglob("*") if not path.is_dir()]
    assert all(path.is_symlink() is links for path in made)
    assert sorted((path.parent.name, path.read_bytes()) for path in made) == expected
    assert len(expected) == N and all(path.stem.removesuffix("-2") in {f"{n:02d}" for n in range(15)} for path in made)


def test_near_names_and_shows_the_nearest_of_the_images(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, images, "--out", tmp_path / "clusters.csv", "--near", images / "part1" / "04.png") == 0
    said = capsys.readouterr().out.splitlines()
    first = said.index(f"nearest to {images}/part1/04.png in 30 images, by cosine of the target projection:")
    near = [line.split() for line in said[first + 1 : first + 13]]
    assert near[0][1] == "0.0000" and near[0][-1] == "part1/04.png"
    distances = [float(line[1]) for line in near]
    assert distances == sorted(distances) and distances[-1] > 0
    clusters = {line["path"]: line["cluster"] for line in read(tmp_path / "clusters.csv")}
    assert all(clusters[line[-1]] == line[3] for line in near)
    assert said[first + 13] == f"their picture: {tmp_path}/clusters.near.png"
    with Image.open(tmp_path / "clusters.near.png") as sheet, Image.open(images / "part1" / "04.png") as image:
        assert sheet.size == (5 * 68 + 12, 3 * 68 + 4)
        large = image.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
        for left in (4, 68 + 12):  # the image itself, and the nearest to it
            assert sheet.crop((left, 4, left + 64, 68)).tobytes() == large.tobytes()


def test_near_without_images_searches_those_of_the_run(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, "--near", images / "part1" / "04.png", "--out", tmp_path / "x.csv") == 0
    said = capsys.readouterr().out.splitlines()
    assert "in digits (test, 360 rows), by cosine" in said[-14]
    labels = [line["cluster"] for line in read_assignments(run)]
    assert said[-13].split() == ["distance", "0.0000", "cluster", labels[9], "digits/0045"]  # row 9 of every fifth
    assert (tmp_path / "x.near.png").is_file() and not (tmp_path / "x.csv").exists()


def read_assignments(run: Path) -> list[dict[str, str]]:
    labels = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]["labels"]
    return [{"cluster": str(int(label))} for label in labels]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["{run}"], "IMAGES: no images given; name files, folders, globs or a list of paths"),
        (["{run}", "{dir}/nowhere"], "{dir}/nowhere: no such file or folder"),
        (["{run}", "{dir}/empty"], "{dir}/empty: no image under '{dir}/empty'; known endings: "),
        (["{run}", "{dir}/*.jpg"], "{dir}/*.jpg: no file is named like that"),
        (["{run}", "{dir}/broken"], "{dir}/broken: none of its 1 image files can be read (1.png: the file is empty, "),
        (["{dir}", "{images}"], "{dir}: no run here (config.yml is missing)"),
        (["{run}", "{images}", "--out", "{dir}/no/x.csv"], "--out {dir}/no/x.csv: '{dir}/no' is no folder that can be"),
        (["{run}", "{images}", "--out", "{dir}"], "--out {dir}: a folder; name a file"),
        (
            ["{run}", "{images}", "--folders", "{dir}"],
            "--folders {dir}: it is there and not empty; give another folder",
        ),
        (["{run}", "--near", "{dir}/broken/1.png", "--folders", "{dir}/new"], "--folders: no images given"),
        (["{run}", "--near", "{dir}/none.png"], "{dir}/none.png: no such file; --near takes one image"),
        (["{run}", "--near", "{dir}/broken/1.png"], "{dir}/broken/1.png: none of its 1 image files can be read"),
        (["{run}", "{images}", "--near", "{dir}/broken/1.png"], "{dir}/broken/1.png: none of its 1 image files can"),
        (["{run}", "{dir}/list.csv"], "{dir}/list.csv: no image in it: none of its 2 paths is a file (the first: 1"),
        (["{run}", "{images}", "{dir}/list.csv", "--out", "{dir}/list.csv"], "--out {dir}/list.csv: it is one of IM"),
        (["{run}", "{images}", "--folders", "{dir}/list.csv/x"], "--folders {dir}/list.csv/x: '{dir}/list.csv' is no"),
    ],
)
def test_wrong_words_cost_one_line_and_nothing_is_written(
    words: list[str], error: str, run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path\n1.png\n2.png\n")
    before = sorted(tmp_path.rglob("*"))
    places = {"run": run, "dir": tmp_path, "images": images}
    out = [] if "--out" in words else ["--out", f"{tmp_path}/clusters.csv"]
    assert predict(*(word.format(**places) for word in words), *out) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {error}".format(**places)) and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_under_a_launcher_rank_zero_does_it_and_the_others_leave(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")  # divides no batch of the run, and need not
    monkeypatch.setenv("RANK", "1")
    assert predict(run, images, "--out", tmp_path / "clusters.csv") == 0
    assert (capsys.readouterr().out, (tmp_path / "clusters.csv").exists()) == ("", False)
    monkeypatch.setenv("RANK", "0")
    assert predict(run, images, "--out", tmp_path / "clusters.csv") == 0
    assert "one process does all" in capsys.readouterr().out
    assert len(read(tmp_path / "clusters.csv")) == N


def test_clusters_of_a_run_that_was_stopped_are_said_to_be_those(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = trained(tmp_path, epochs=3, stop=2)
    assert predict(stopped, images, "--out", tmp_path / "clusters.csv") == 0
    words = "the run stopped at epoch 2 of 3: these are the clusters of its last E-step\n"
    assert words in capsys.readouterr().out


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        predict("--help")
    assert left.value.code == 0
    assert "example: main.py predict runs/NAME photos --out clusters.csv" in capsys.readouterr().out
