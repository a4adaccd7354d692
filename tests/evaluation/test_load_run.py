"""A run that is loaded and looks at images: what it says of those it was trained on, and of any others."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data.sources.base import DataConfig
from data.sources.digits import Digits
from evaluation.load_run import LoadedRun, load_run
from evaluation.predict import assign_rows, write_assignments, write_table
from tests.data.pictures import encoded, picture, with_exif
from tests.listings import fill
from tests.runs import save, tiny_run
from training.log import Log
from training.loop import train
from training.run_dir import create_run
from utils.errors import UserError

TEST_ROWS = [f"{row:04d}.png" for row in range(0, 1797, 5)]  # of the digits


def trained(folder: Path, method: str, **changes: Any) -> Path:
    """The folder of a run that has ended, with its assignments.csv."""
    run = tiny_run(method, optim__epochs=1, **changes)
    run.directory = create_run(folder, method, "test", run.settings.to_yaml())
    run.directory.describe_images(run.source)
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None
    write_assignments(run, assign_rows(run, run.state), run.directory.path / "assignments.csv")
    return run.directory.path


def make_photos(folder: Path) -> Path:
    """Twenty photographs of many shapes, five odd ones, and what is none."""
    fill(folder / "many", 20)
    odd = folder / "odd"
    odd.mkdir()
    photo = picture(60, 40, 7)
    (odd / "turned.jpg").write_bytes(encoded(photo, "JPEG", exif=with_exif(6)))
    photo.convert("L").save(odd / "grey.png")
    photo.convert("CMYK").save(odd / "cmyk.jpg")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(odd / "alpha.png")
    Image.fromarray(np.arange(0, 65536, 19, dtype=np.uint16)[:3000].reshape(50, 60)).save(odd / "deep.png")
    (odd / "broken.jpg").write_bytes(b"no picture")
    (odd / "notes.txt").write_text("none")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def photo_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the photographs, bent to squares of 20 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    return trained(
        folder, "propos", data__name="folder", data__root=photos, data__image_size=20, data__resize="squash",
        data__cache=folder / "cache", optim__global_batch=10, estep__n_clusters=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(photo_run: Path) -> LoadedRun:
    return load_run(photo_run)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 360 test rows of the digits as PNG files."""
    folder = tmp_path_factory.mktemp("digits")
    for name, image in zip(TEST_ROWS, Digits(DataConfig(split="test")).read(), strict=True):
        Image.fromarray(image[0].numpy()).save(folder / name)
    return folder


def lines_of(file: Path, first: int) -> list[list[str]]:
    return [line[first:] for line in csv.reader(file.read_text().splitlines())]


def test_photographs_of_the_training_folder_get_the_lines_of_assignments_csv(
    photos: Path, photo_run: Path, loaded: LoadedRun, tmp_path: Path
) -> None:
    found = loaded.predict(photos)
    write_table(tmp_path / "clusters.csv", ["path"], [(path,) for path in found.paths], found)
    lines = lines_of(tmp_path / "clusters.csv", 0)
    assert len(lines) == 26
    assert lines == lines_of(photo_run / "assignments.csv", 1)
    assert found.skipped == [
        ("odd/notes.txt", "not an image by its name (.txt)"), ("odd/broken.jpg", "not an image of a known format"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "changes"),
    [("propos", {}), ("simclr", {"estep__algorithm": "gmm"}), ("cc", {}), ("temi", {})],
)
def test_digits_from_files_get_the_lines_of_assignments_csv(
    method: str, changes: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    path = trained(tmp_path, method, data__split="test", **changes)
    found = load_run(path).predict(digits)
    assert found.paths == TEST_ROWS
    write_table(tmp_path / "clusters.csv", ["path"], [(path,) for path in found.paths], found)
    assert lines_of(tmp_path / "clusters.csv", 1) == lines_of(path / "assignments.csv", 2)


def test_pictures_files_and_tensors_are_one_and_the_same(photos: Path, loaded: LoadedRun) -> None:
    names = ["odd/turned.jpg", "odd/grey.png", "odd/cmyk.jpg", "odd/alpha.png", "odd/deep.png", "many/0.png"]
    paths = [photos / name for name in names]
    by_path = loaded.predict(paths)
    assert by_path.paths == [str(path) for path in paths]
    whole = loaded.predict(photos)
    expected = whole.features[[whole.paths.index(name) for name in names]]
    torch.testing.assert_close(by_path.features, expected)
    pictures = [Image.open(path) for path in paths]
    torch.testing.assert_close(loaded.embed(pictures), by_path.features, rtol=1e-3, atol=1e-3)
    one = ImageOps.exif_transpose(pictures[0]).resize((20, 20), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(one)).permute(2, 0, 1)[None]  # (1, 3, 20, 20)
    torch.testing.assert_close(loaded.embed(pixels), by_path.features[:1], rtol=1e-3, atol=1e-3)
    grey = torch.from_numpy(np.array(pictures[1]))[None, None]  # (1, 1, 40, 60)
    torch.testing.assert_close(loaded.embed(grey), by_path.features[1:2])
    turned_back = loaded.embed(pictures[0].transpose(Image.Transpose.ROTATE_180))
    assert not torch.allclose(turned_back, by_path.features[:1], rtol=1e-3, atol=1e-3)


def test_paths_are_named_as_they_are_given(photos: Path, loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    top, listed = photos.name, photos / "few.csv"
    listed.write_text("path\nmany/3.jpg\nodd/grey.png\nmany/3.jpg\n")
    try:
        assert loaded.predict(f"{top}/few.csv").paths == ["many/3.jpg", "odd/grey.png"]  # as training on a list does
    finally:
        listed.unlink()
    assert loaded.predict(f"{top}/many/1?.jpg").paths == [f"{top}/many/1{number}.jpg" for number in (1, 3, 5, 7, 9)]
    assert loaded.predict(f"{top}/**/grey.png").paths == [f"{top}/odd/grey.png"]
    mixed = loaded.predict([f"{top}/odd/grey.png", f"{top}/odd", f"{top}/many/0.png"])
    odd = ["grey.png", "alpha.png", "cmyk.jpg", "deep.png", "turned.jpg"]
    assert mixed.paths == [*(f"{top}/odd/{name}" for name in odd), f"{top}/many/0.png"]
    reasons = dict(mixed.skipped)
    assert reasons[f"{top}/odd/grey.png"] == "given again; the first counts"
    assert reasons[f"{top}/odd/broken.jpg"] == "not an image of a known format"


def test_an_embedding_has_a_row_for_each_image_or_says_which_has_none(photos: Path, loaded: LoadedRun) -> None:
    assert torch.equal(loaded.embed(photos / "many"), loaded.predict(photos / "many").features)
    with pytest.raises(UserError, match=r"odd/broken.jpg: not an image of a known format; 1 of 2 images cannot be"):
        loaded.embed([photos / "odd" / "broken.jpg", photos / "odd" / "grey.png"])


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 20, 20), torch.zeros(3, 20, 20).byte(), torch.zeros(2, 4, 20, 20).byte()]
)
def test_tensors_that_are_no_images_are_refused(images: torch.Tensor, loaded: LoadedRun) -> None:
    with pytest.raises(TypeError, match=r"is not \(B, 1 or 3, H, W\) uint8"):
        loaded.predict(images)


@pytest.mark.parametrize("images", [[], torch.zeros(0, 3, 20, 20).byte()])
def test_no_images_are_an_error(images: Any, loaded: LoadedRun) -> None:
    with pytest.raises(UserError, match="no images given"):
        loaded.predict(images)


def test_a_run_without_clusters_embeds_and_says_that_it_cannot_predict(digits: Path, tmp_path: Path) -> None:
    run = tiny_run("byol")
    run.directory = create_run(tmp_path, "early", "test", run.settings.to_yaml())
    save(run)
    early = load_run(tmp_path / "early")
    assert early.embed(digits / TEST_ROWS[0]).shape == (1, 7)
    with pytest.raises(UserError, match=r"early: no clusters yet: it stopped at epoch 0, before its first E-step; let"):
        early.predict(digits)


@pytest.mark.parametrize(
    ("method", "changes"), [("propos", {}), ("and", {}), ("temi", {}), ("cc", {"estep__n_clusters": None})]
)
def test_a_run_that_was_taken_elsewhere_predicts_without_its_images(
    method: str, changes: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    shutil.copytree(photos, there)
    settings = {"data__name": "folder", "data__root": there, "data__image_size": 20, "data__truth": "folders"}
    settings |= {"data__cache": there / "cache", "optim__global_batch": 10, "estep__n_clusters": 3, **changes}
    path = trained(tmp_path, method, **settings)
    there.rename(here)
    away = load_run(path)
    found = away.predict(here)
    write_table(tmp_path / "clusters.csv", ["path"], [(path,) for path in found.paths], found)
    assert lines_of(tmp_path / "clusters.csv", 0) == lines_of(path / "assignments.csv", 1)
    with pytest.raises(UserError, match="data.root: the images of the run are not here: .*there"):
        away.embed_training_images()
    (path / "images.json").unlink()
    with pytest.raises(UserError, match="data.root: "):  # as of a run that was begun before there were such files
        load_run(path)


def test_a_folder_of_a_run_without_what_is_known_of_its_images_still_loads(photos: Path, photo_run: Path) -> None:
    known = load_run(photo_run).predict(photos)
    (photo_run / "images.json").rename(photo_run / "images.old")
    try:
        assert torch.equal(load_run(photo_run).predict(photos).features, known.features)
    finally:
        (photo_run / "images.old").rename(photo_run / "images.json")


def test_loading_and_looking_change_nothing_of_the_run(photos: Path, photo_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in photo_run.rglob("*")}
    generator = torch.get_rng_state()
    loaded = load_run(str(photo_run))
    weights = {name: value.clone() for name, value in loaded.run.method.state_dict().items()}
    loaded.predict(photos)
    assert {path: path.stat().st_mtime_ns for path in photo_run.rglob("*")} == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.run.method.state_dict().items())
