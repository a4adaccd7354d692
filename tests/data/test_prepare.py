"""Sets built from official archives and trees: what goes in, what is missing, what is told."""

import io
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

import data.prepare
from data.prepare import PER_CLASS, prepare
from data.prepare_inputs import DEVKIT, TRAIN_TAR, VAL_TAR, val_classes
from data.sources.base import DataConfig
from data.sources.imagenet_subsets import IMAGENET10
from data.store import open_source
from tests.official_files import jpeg, tar_of, write_tree
from utils.errors import UserError

OTHERS = ("n01440764", "n15075141")  # of ImageNet, of neither subset
Make = Callable[[Path, Sequence[str]], Path]


@pytest.fixture(autouse=True)
def three_images_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in PER_CLASS:
        monkeypatch.setitem(PER_CLASS, key, 3)


def images(wnid: str, n: int = 3) -> dict[str, bytes]:
    return {f"{wnid}_{number}.JPEG": f"{wnid} {number}".encode() for number in range(n)}


def tar_of_tars(source: Path, wnids: Sequence[str]) -> Path:
    return write_tree(source, {TRAIN_TAR: tar_of({f"{wnid}.tar": tar_of(images(wnid)) for wnid in wnids})})


def class_tars(source: Path, wnids: Sequence[str]) -> Path:
    return write_tree(source, {f"{wnid}.tar": tar_of(images(wnid)) for wnid in wnids})


def tree(source: Path, wnids: Sequence[str]) -> Path:
    return write_tree(source, {f"{w}/{name}": content for w in wnids for name, content in images(w).items()})


def deep_tree(source: Path, wnids: Sequence[str]) -> Path:
    tree(source / "train", wnids)
    return source


INPUTS = [tar_of_tars, class_tars, tree, deep_tree]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wanted(wnids: Sequence[str], part: str = "train") -> dict[str, bytes]:
    return {f"{part}/{wnid}/{name}": content for wnid in wnids for name, content in images(wnid).items()}


@pytest.mark.parametrize("make", INPUTS)
def test_a_subset_holds_its_classes_alone_whatever_it_is_built_from(make: Make, tmp_path: Path) -> None:
    said: list[str] = []
    source = make(tmp_path / "source", [*IMAGENET10, *OTHERS])
    made = prepare("imagenet10", source, tmp_path / "root", said.append)
    assert made == tmp_path / "root" / "imagenet10"
    assert files_of(made) == wanted(IMAGENET10)
    assert said == ["train: 30 images of 10 classes"]
    assert sorted(path.name for path in made.parent.iterdir()) == [".imagenet10.lock", "imagenet10"]


def test_the_archive_itself_may_be_named(tmp_path: Path) -> None:
    archive = tar_of_tars(tmp_path, IMAGENET10) / TRAIN_TAR
    assert files_of(prepare("imagenet10", archive, tmp_path / "root", print)) == wanted(IMAGENET10)


def test_files_of_a_tree_are_linked_and_copied_where_they_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name = tree(tmp_path / "source", IMAGENET10), f"{IMAGENET10[0]}/{IMAGENET10[0]}_1.JPEG"
    linked = prepare("imagenet10", source, tmp_path / "one", print)
    assert (linked / "train" / name).samefile(source / name)

    def no_links(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", no_links)
    copied = prepare("imagenet10", source, tmp_path / "two", print)
    assert files_of(copied) == wanted(IMAGENET10)
    assert not (copied / "train" / name).samefile(source / name)


@pytest.mark.parametrize("make", INPUTS)
def test_missing_classes_are_named_with_the_places_looked_at(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path / "source", [*IMAGENET10[2:], *OTHERS])
    missing = f"2 of the 10 classes of imagenet10 are missing in train: {IMAGENET10[0]}, {IMAGENET10[1]};"
    with pytest.raises(UserError, match=rf"--from: {missing} looked for .*source/train/WNID\[.tar\], .*{TRAIN_TAR}"):
        prepare("imagenet10", source, tmp_path / "root", print)
    assert not (tmp_path / "root").exists()


def test_a_class_of_another_size_is_told(tmp_path: Path) -> None:
    source = tree(tmp_path / "source", IMAGENET10)
    (source / IMAGENET10[3] / f"{IMAGENET10[3]}_0.JPEG").unlink()
    write_tree(source / IMAGENET10[4], images(IMAGENET10[4], 5))
    (source / IMAGENET10[5] / "notes.txt").write_text("no image")
    said: list[str] = []
    prepare("imagenet10", source, tmp_path / "root", said.append)
    assert said == [
        f"train/{IMAGENET10[3]}: 2 images, the papers count 3",
        f"train/{IMAGENET10[4]}: 5 images, the papers count 3",
        "train: 31 images of 10 classes",
    ]


def test_a_class_without_images_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    source = tree(tmp_path / "source", IMAGENET10[1:])
    (source / IMAGENET10[0]).mkdir()
    with pytest.raises(UserError, match=f"no image in train of {IMAGENET10[0]}"):
        prepare("imagenet10", source, tmp_path / "root", print)
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".imagenet10.lock"]


CLASS_BYTES = 512 + 10240  # of a header and of a class's tar, which is filled up to whole records


@pytest.mark.parametrize("kept", [0, 300, CLASS_BYTES + 7, 2 * CLASS_BYTES, 10 * CLASS_BYTES - 1, 10 * CLASS_BYTES])
def test_an_archive_that_is_cut_short_is_an_error_and_nothing_is_left(kept: int, tmp_path: Path) -> None:
    archive = tar_of_tars(tmp_path / "source", IMAGENET10) / TRAIN_TAR
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"{TRAIN_TAR}: is damaged or not whole"):
        prepare("imagenet10", archive.parent, tmp_path / "root", print)
    assert not (tmp_path / "root" / "imagenet10").exists()


@pytest.mark.parametrize("cut", [0, 300, 600, 1024, 1100])  # nothing, in header, in content, between, in header
def test_a_class_tar_that_is_cut_short_is_an_error_and_the_next_try_builds_all(cut: int, tmp_path: Path) -> None:
    source = class_tars(tmp_path / "source", IMAGENET10)
    archive = source / f"{IMAGENET10[7]}.tar"
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(UserError, match=rf"{IMAGENET10[7]}.tar: is damaged or not whole"):
        prepare("imagenet10", source, tmp_path / "root", print)
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".imagenet10.lock"]
    class_tars(source, IMAGENET10)
    assert files_of(prepare("imagenet10", source, tmp_path / "root", print)) == wanted(IMAGENET10)


def test_a_finished_set_is_left_alone(tmp_path: Path) -> None:
    made = prepare("imagenet10", tree(tmp_path / "source", IMAGENET10), tmp_path / "root", print)
    said: list[str] = []
    assert prepare("imagenet10", tmp_path / "gone", tmp_path / "root", said.append) == made
    assert said == [f"{made / 'train'} is there already: 30 images of 10 classes"]


def test_another_set_in_the_place_is_an_error(tmp_path: Path) -> None:
    source = tree(tmp_path / "source", IMAGENET10)
    write_tree(tmp_path / "root/imagenet10/train", {"n01440764/a.JPEG": b""})
    with pytest.raises(UserError, match="imagenet10/train: is another data set than imagenet10: it has no n02056570"):
        prepare("imagenet10", source, tmp_path / "root", print)


def test_wrong_words_are_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prepare: 'imagenet100' is not prepared \(did you mean imagenet10\?\)"):
        prepare("imagenet100", tmp_path, tmp_path, print)
    with pytest.raises(UserError, match=r"--from: '.*none' is not there"):
        prepare("imagenet10", tmp_path / "none", tmp_path, print)


TINY = [f"n{number:08d}" for number in range(7)]


@pytest.fixture
def few_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.prepare, "N_TINY", 7)


def tiny_tree(source: Path, wnids: Sequence[str] = TINY) -> Path:
    """Tiny-ImageNet's tree: boxes beside the train images, the val images in one folder."""
    files = {f"train/{w}/images/{name}": content for w in wnids for name, content in images(w).items()}
    files |= {f"train/{w}/{w}_boxes.txt": b"boxes" for w in wnids}
    val = [(f"val_{3 * i + j}.JPEG", wnid) for i, wnid in enumerate(wnids) for j in range(3)]
    files |= {f"val/images/{name}": name.encode() for name, _ in val}
    files["val/val_annotations.txt"] = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in val).encode()
    files |= {"test/images/test_0.JPEG": b"no class", "wnids.txt": "\n".join(wnids).encode()}
    return write_tree(source, {f"tiny-imagenet-200/{name}": content for name, content in files.items()})


def tiny_zip(source: Path, wnids: Sequence[str] = TINY) -> Path:
    source.mkdir()
    folder = tiny_tree(source.with_name("unpacked"), wnids)
    with zipfile.ZipFile(source / "tiny-imagenet-200.zip", "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return source


@pytest.mark.parametrize("make", [tiny_tree, tiny_zip])
def test_tiny_imagenet_has_train_and_val_in_class_folders(few_tiny: None, make: Make, tmp_path: Path) -> None:
    said: list[str] = []
    made = prepare("tiny_imagenet", make(tmp_path / "source", TINY), tmp_path / "root", said.append)
    val = {f"val/{TINY[i // 3]}/val_{i}.JPEG": f"val_{i}.JPEG".encode() for i in range(21)}
    assert files_of(made) == {**wanted(TINY), **val}
    assert said == ["train: 21 images of 7 classes", "val: 21 images of 7 classes"]


@pytest.mark.parametrize("make", [tiny_tree, tiny_zip])
def test_a_tiny_imagenet_with_too_few_classes_is_told(few_tiny: None, make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--from: 6 of the 7 classes of tiny_imagenet are there; looked for"):
        prepare("tiny_imagenet", make(tmp_path / "source", TINY[1:]), tmp_path / "root", print)


def test_a_damaged_zip_and_missing_annotations_are_told(few_tiny: None, tmp_path: Path) -> None:
    source = tiny_tree(tmp_path / "source")
    annotations = source / "tiny-imagenet-200/val/val_annotations.txt"
    annotations.write_text(annotations.read_text().partition("\n")[2])
    with pytest.raises(UserError, match="does not know the class of every val image"):
        prepare("tiny_imagenet", source, tmp_path / "root", print)
    annotations.unlink()
    with pytest.raises(UserError, match=r"tiny-imagenet-200: has no val/val_annotations.txt"):
        prepare("tiny_imagenet", source, tmp_path / "root", print)
    damaged = write_tree(tmp_path / "damaged", {"tiny-imagenet-200.zip": b"half"})
    with pytest.raises(UserError, match=r"tiny-imagenet-200.zip: is damaged or not whole"):
        prepare("tiny_imagenet", damaged, tmp_path / "root", print)


THOUSAND = ("n00000002", "n00000005", "n00000003")  # in the order of the devkit's numbers


def devkit(truth: Sequence[int]) -> bytes:
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(number, wnid, 0) for number, wnid in enumerate([*THOUSAND, "n00000099"], 1)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, dtype=kinds)})
    lines = "".join(f"{number}\n" for number in truth).encode()
    members = {"meta.mat": buffer.getvalue(), "ILSVRC2012_validation_ground_truth.txt": lines}
    return tar_of({f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in members.items()}, "w:gz")


@pytest.fixture
def few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.prepare, "_all_wnids", lambda: sorted(THOUSAND))
    monkeypatch.setitem(data.prepare.CLASSES, "imagenet", 3)
    monkeypatch.setattr(data.prepare, "IMAGENET_TRAIN", 9)


def test_imagenets_val_images_find_their_classes_in_the_devkit(few_classes: None, tmp_path: Path) -> None:
    source = tar_of_tars(tmp_path / "source", THOUSAND)
    val = {f"ILSVRC2012_val_{number:08d}.JPEG": f"val {number}".encode() for number in range(1, 10)}
    write_tree(source, {VAL_TAR: tar_of(val), DEVKIT: devkit([2, 1, 3, 3, 1, 2, 2, 1, 3])})
    said: list[str] = []
    made = prepare("imagenet", source, tmp_path / "root", said.append)
    classes = [THOUSAND[number] for number in (1, 0, 2, 2, 0, 1, 1, 0, 2)]
    named = {f"val/{wnid}/{name}": val[name] for wnid, name in zip(classes, sorted(val), strict=True)}
    assert files_of(made) == {**wanted(THOUSAND), **named}
    assert said == ["train: 9 images of 3 classes", "val: 9 images of 3 classes"]


def test_imagenets_val_images_may_lie_in_class_folders_or_be_absent(few_classes: None, tmp_path: Path) -> None:
    source = deep_tree(tmp_path / "source", THOUSAND)
    said: list[str] = []
    assert files_of(prepare("imagenet", source, tmp_path / "one", said.append)) == wanted(THOUSAND)
    assert said[0].startswith("no val images, so there will be no split test; looked for")
    tree(source / "val", THOUSAND)
    made = prepare("imagenet", source, tmp_path / "two", print)
    assert files_of(made) == {**wanted(THOUSAND), **wanted(THOUSAND, "val")}


def test_a_damaged_devkit_is_told(tmp_path: Path) -> None:
    broken = write_tree(tmp_path, {DEVKIT: devkit([2, 1, 77])}) / DEVKIT
    with pytest.raises(UserError, match=re.escape(f"{broken}: is damaged or no devkit")):
        val_classes(broken)


def test_what_was_prepared_can_be_opened(tmp_path: Path) -> None:
    files = {f"{wnid}/{wnid}_{i}.JPEG": jpeg(20 * c + i) for c, wnid in enumerate(IMAGENET10) for i in range(3)}
    prepare("imagenet10", write_tree(tmp_path / "source", files), tmp_path / "root", print)
    config = DataConfig(
        name="imagenet10", root=tmp_path / "root", split="train", image_size=4, cache=tmp_path / "cache"
    )
    source = open_source(config)
    assert source.read()[:, 0, 0, 0].tolist() == [20 * c + i for c in range(10) for i in range(3)]
