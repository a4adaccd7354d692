"""Classes of own images are read only where they are asked for, and reach nobody but the scores."""

from pathlib import Path

import pytest
import torch

from data.sources.folder import list_folder
from data.sources.image_list import list_file
from data.sources.truth import parent_folders
from data.store import DataConfig, open_source
from tests.data.pictures import encoded, picture
from utils.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.jpg, cat/b.jpg, dog/c.jpg, dog/small/d.jpg, owl/cut.jpg; the last cannot be decoded."""
    for number, name in enumerate(("a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/small/d.jpg", "owl/cut.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(encoded(picture(40, 40, number), "JPEG"))
    (tmp_path / "photos/owl/cut.jpg").write_bytes(b"")
    return tmp_path / "photos"


def config(root: Path, truth: str, name: str = "folder") -> DataConfig:
    return DataConfig(name=name, root=root, truth=truth, image_size=31, store="memory")


def test_class_folders_are_not_looked_at_unless_asked_for(photos: Path) -> None:
    assert list_folder(config(photos, "none")).labels is None
    source = open_source(config(photos, "none"))
    assert (source.read_truth(), source.n_classes) == (None, None)


def test_the_class_is_the_folder_right_above_the_image(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_folder(config(photos, "folders")).labels == [None, "cat", "dog", "small", "owl"]
    told = "warning: data.truth: 1 of 5 images have no class there and are not scored (the first: a.jpg)\n"
    assert capsys.readouterr().out == told


def test_the_way_up_is_no_class_folder() -> None:
    assert parent_folders(["../a.jpg", "../cat/b.jpg", "c.jpg"]) == [None, "cat", None]


def test_a_source_numbers_the_classes_of_its_rows_and_shows_them_and_their_names_where_truth_is_read(
    photos: Path,
) -> None:
    source, unasked = open_source(config(photos, "folders")), open_source(config(photos, "none"))
    assert source.read_truth().tolist() == [-1, 0, 1, 3]
    assert source.n_classes == 4
    assert source.class_names() == ("cat", "dog", "owl", "small") and unasked.class_names() is None
    assert torch.equal(source.read(), unasked.read())
    public = {name for name in dir(source) if not name.startswith("_")}
    assert {name for name in public if "label" in name or "truth" in name or "class" in name} == {
        "class_names",
        "n_classes",
        "read_truth",
    }


@pytest.mark.parametrize("below", ["", "./", "{root}/"])
def test_a_csv_gives_classes_by_paths_however_they_are_written(photos: Path, below: str) -> None:
    rows = {"dog/c.jpg": "x", "cat/b.jpg": " y ", "owl/cut.jpg": "x", "a.jpg": "y", "dog/small/d.jpg": "z"}
    lines = "".join(f"{below.format(root=photos)}{path},{label}\n" for path, label in rows.items())
    (photos.parent / "classes.csv").write_text(f"path,label\n{lines}")
    truth = str(photos.parent / "classes.csv")
    assert list_folder(config(photos, truth)).labels == ["y", "y", "x", "z", "x"]


def test_images_without_a_class_and_strangers_in_the_csv_are_told_in_a_line_each(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = photos.parent / "classes.csv"
    truth.write_text("path,label\na.jpg,1\nz.jpg,2\ny.jpg,2\ncat/b.jpg,\nx.jpg,\n")
    assert list_folder(config(photos, str(truth))).labels == ["1", None, None, None, None]
    assert capsys.readouterr().out.splitlines() == [
        f"warning: {truth}: 2 of 3 paths are no image of '{photos}' (the first: y.jpg)",
        f"warning: {truth}: 4 of 5 images have no class there and are not scored (the first: cat/b.jpg)",
    ]


def test_a_list_gives_its_own_classes_where_it_is_named_as_truth_too(photos: Path) -> None:
    file = photos / "list.csv"
    file.write_text("path,label\ndog/c.jpg,7\ncat/b.jpg,11\n")
    assert list_file(config(file, "none", "list")).labels is None
    assert list_file(config(file, str(file), "list")).labels == ["7", "11"]
    assert list_file(config(file, "folders", "list")).labels == ["dog", "cat"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path\na.jpg\n", "no column named label"),
        ("path,label\nA.jpg,1\nB.jpg,2\n", r"none of its 2 paths with a class is an image of .* like 'a.jpg'"),
        ("path,label\na.jpg,1\n./a.jpg,2\n", "'./a.jpg' has two classes, '1' and '2'"),
        ("path,label\n", "none of its 0 paths"),
    ],
)
def test_a_csv_that_gives_no_classes_is_the_users_error(photos: Path, text: str, problem: str) -> None:
    (photos.parent / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=f"classes.csv: {problem}"):
        list_folder(config(photos, str(photos.parent / "classes.csv")))


def test_a_flat_folder_has_no_class_folders(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="data.truth: no class folders in .*; data.truth=none, or a CSV"):
        list_folder(config(tmp_path, "folders"))


def test_a_missing_csv_is_the_users_error(photos: Path) -> None:
    with pytest.raises(UserError, match="folder: cannot be read"):
        list_folder(config(photos, "folder"))
