"""Photographs as a source: what it knows beside their pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.decode import decode_square
from data.listing import Listing
from data.sources.base import DataConfig
from data.sources.encoded import EncodedImages, own_images
from tests.listings import fill, listing_of
from utils.errors import UserError


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    """Seven files, the second of which is empty."""
    fill(tmp_path / "images", 6)
    (tmp_path / "images" / "0a.jpg").write_bytes(b"")
    return replace(listing_of(tmp_path / "images"), skipped=[("notes.txt", "not an image by its name (.txt)")])


def config(**words: Any) -> DataConfig:
    return DataConfig.model_validate({"name": "folder", "store": "memory", **words})


def test_rows_are_the_readable_images_and_the_rest_is_named(listing: Listing) -> None:
    source = EncodedImages("set", listing, config())
    assert [source.path(row) for row in range(source.n_rows)] == ["0.png", "1.jpg", "2.png", "3.jpg", "4.png", "5.jpg"]
    assert [name for name, _ in source.skipped] == ["notes.txt", "0a.jpg"]
    square = torch.from_numpy(decode_square(listing.read(3), 96, "crop")).permute(2, 0, 1)
    assert torch.equal(source.read(torch.tensor([2]))[0], square)
    assert torch.equal(source.read()[2], square)


@pytest.mark.parametrize(
    ("words", "shape", "protocol"),
    [
        ({}, (3, 17, 17), "some words at 17 px, 6 rows"),
        ({"image_size": 13, "resize": "squash"}, (3, 13, 13), "some words at 13 px, squashed, 6 rows"),
    ],
)
def test_the_protocol_tells_size_and_rule(listing: Listing, words: Any, shape: Any, protocol: str) -> None:
    source = EncodedImages("set", listing, config(**words), words="some words", default_size=17)
    assert (source.image_shape, source.protocol, source.name) == (shape, protocol, "set")
    assert source.read(torch.tensor([0])).shape == (1, *shape)


def test_without_labels_or_parts_nothing_is_known_of_classes_and_neighbours(listing: Listing) -> None:
    source = EncodedImages("set", listing, config())
    assert (source.n_classes, source.read_truth(), source.knn_split()) == (None, None, None)


def test_classes_are_numbered_by_name_and_follow_the_rows_that_remain(listing: Listing) -> None:
    labels = ["pug", "airship", None, "kelpie", "pug", "", "kelpie"]  # airship is the empty file's
    source = EncodedImages("set", replace(listing, labels=labels), config())
    truth, some = source.read_truth(), source.read_truth(torch.tensor([3, 0]))
    assert source.n_classes == 3
    assert truth is not None
    assert some is not None
    assert truth.tolist() == [2, -1, 1, 2, -1, 1]
    assert some.tolist() == [2, 2]
    assert truth.dtype == torch.int64


@pytest.mark.parametrize(("n_train", "bank"), [(4, [0, 1, 2]), (0, None), (7, None), (None, None)])
def test_the_train_part_is_counted_in_the_listing(listing: Listing, n_train: int | None, bank: Any) -> None:
    split = EncodedImages("set", listing, config(), n_train=n_train).knn_split()
    if bank is None:
        assert split is None
    else:
        assert split is not None
        assert (split[0].tolist(), split[1].tolist()) == (bank, [3, 4, 5])


def test_own_images_have_no_parts(listing: Listing) -> None:
    assert own_images("list", lambda _: listing, config()).protocol == "all images of the list at 96 px, 6 rows"
    with pytest.raises(UserError, match=r"data.split: own images have no test part; leave it at train\+test"):
        own_images("list", lambda _: listing, config(split="test"))
