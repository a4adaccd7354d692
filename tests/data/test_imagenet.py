"""Sets of class folders: which classes must be there, rows, classes by WordNet id, splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.sources.arrays import LABELLED_SPLITS
from data.sources.base import DataConfig, Source
from data.sources.imagenet import open_classes
from data.sources.imagenet_subsets import IMAGENET10, IMAGENET_DOGS
from data.store import open_source
from tests.official_files import jpeg, write_tree
from utils.errors import UserError

WNIDS = ["n00000007", "n00000003", "n00000005"]


def config(root: Path, name: str = "imagenet", **keys: Any) -> DataConfig:
    return DataConfig.model_validate({"name": name, "root": root, "cache": root / "cache", "image_size": 4, **keys})


def classes(part: str, wnids: Sequence[str], n: int) -> dict[str, bytes]:
    return {f"{part}/{w}/{w}_{i}.JPEG": jpeg(10 * c + i) for c, w in enumerate(wnids) for i in range(n)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "imagenet", {**classes("train", WNIDS, 2), **classes("val", WNIDS, 1)})
    return tmp_path


def open_three(root: Path, **keys: Any) -> Source:
    return open_classes("imagenet", config(root, **keys), 3, LABELLED_SPLITS, default_size=8)


def truth_of(source: Source) -> list[int]:
    truth = source.read_truth()
    assert truth is not None
    return truth.tolist()


def test_rows_are_train_then_val_and_classes_are_ranks_of_wordnet_ids(root: Path) -> None:
    source, split = open_three(root), open_three(root).knn_split()
    assert [source.path(row) for row in (0, 5, 6)] == [
        "train/n00000003/n00000003_0.JPEG",
        "train/n00000007/n00000007_1.JPEG",
        "val/n00000003/n00000003_0.JPEG",
    ]
    assert truth_of(source) == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert source.read()[:, 0, 0, 0].tolist() == [10, 11, 20, 21, 0, 1, 10, 20, 0]
    assert source.protocol == "train+test at 4 px, 9 rows"
    assert split is not None
    assert (split[0].tolist(), split[1].tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7, 8])


def test_a_damaged_train_image_moves_the_split_and_no_class(root: Path) -> None:
    (root / "imagenet/train/n00000005/n00000005_0.JPEG").write_bytes(b"none")
    source = open_three(root)
    split = source.knn_split()
    assert split is not None
    assert (truth_of(source), split[1].tolist()) == ([0, 0, 1, 2, 2, 0, 1, 2], [5, 6, 7])
    assert source.path(7) == "val/n00000007/n00000007_0.JPEG"
    assert [name for name, _ in source.skipped] == ["train/n00000005/n00000005_0.JPEG"]


@pytest.mark.parametrize(("split", "first", "n_rows"), [("train", "train", 6), ("test", "val", 3)])
def test_one_part_has_the_same_classes_and_no_knn_split(root: Path, split: str, first: str, n_rows: int) -> None:
    source = open_three(root, split=split, image_size=None)
    assert source.path(0) == f"{first}/n00000003/n00000003_0.JPEG"
    assert (source.n_rows, source.n_classes, source.knn_split()) == (n_rows, 3, None)
    assert source.protocol == f"{split} at 8 px, {n_rows} rows"


def test_data_root_may_be_the_tree_itself(root: Path) -> None:
    assert open_three(root / "imagenet").n_rows == 9


def test_train_alone_will_do_for_its_split(root: Path) -> None:
    (root / "imagenet/val").rename(root / "elsewhere")
    assert open_three(root, split="train").n_rows == 6
    with pytest.raises(UserError, match=r"data.split: '.*/imagenet/val' is not there; data.split=train does without"):
        open_three(root)


@pytest.mark.parametrize("name", ["imagenet10", "imagenet_dogs", "tiny_imagenet", "imagenet"])
def test_an_absent_set_says_how_to_prepare_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_source(config(tmp_path, name, split="train"))
    remedy = f"python main.py prepare {name} --from DIR makes it of the official files in DIR"
    assert str(caught.value) == f"data.root: no {name} in '{tmp_path / name}'; {remedy}"


@pytest.mark.parametrize(("name", "wnids"), [("imagenet10", IMAGENET10), ("imagenet_dogs", IMAGENET_DOGS)])
def test_a_subset_is_its_train_images_at_96_pixels(name: str, wnids: Sequence[str], tmp_path: Path) -> None:
    write_tree(tmp_path / name, classes("train", wnids, 1))
    source = open_source(config(tmp_path, name, split="train", image_size=None))
    assert truth_of(source) == list(range(len(wnids)))
    assert (source.image_shape, source.knn_split()) == ((3, 96, 96), None)
    assert source.protocol == f"train at 96 px, {len(wnids)} rows"


def test_the_lists_of_wordnet_ids_are_sorted_and_share_one() -> None:
    assert [len({*IMAGENET10}), len({*IMAGENET_DOGS})] == [10, 15]
    assert list(IMAGENET10) == sorted(IMAGENET10)
    assert list(IMAGENET_DOGS) == sorted(IMAGENET_DOGS)
    assert {*IMAGENET10} & {*IMAGENET_DOGS} == {"n02085936"}


def test_another_set_of_the_same_name_is_known_by_its_classes(tmp_path: Path) -> None:
    write_tree(tmp_path / "imagenet10", classes("train", [*IMAGENET10[1:], "n01440764"], 1))
    with pytest.raises(
        UserError,
        match=r"train: is another data set than imagenet10: it has no n02056570, but it has n01440764; python",
    ):
        open_source(config(tmp_path, "imagenet10", split="train"))


def test_more_classes_than_the_subset_has_are_another_set(tmp_path: Path) -> None:
    write_tree(tmp_path, classes("train", [*IMAGENET10, *(f"n0000000{number}" for number in range(4))], 1))
    more = "n00000000, n00000001, n00000002, ..."
    with pytest.raises(UserError, match=f"is another data set than imagenet10: it has {more}; python main.py prepare"):
        open_source(config(tmp_path, "imagenet10", split="train"))


def test_too_few_classes_are_no_imagenet(root: Path) -> None:
    with pytest.raises(UserError, match="is not imagenet: it has 3 classes, not 1,000"):
        open_source(config(root))


def test_a_class_folder_without_files_counts_as_missing(tmp_path: Path) -> None:
    write_tree(tmp_path / "imagenet10", classes("train", IMAGENET10[1:], 1))
    (tmp_path / "imagenet10/train" / IMAGENET10[0]).mkdir()
    with pytest.raises(UserError, match=r"it has no n02056570; "):
        open_source(config(tmp_path, "imagenet10", split="train"))
