"""Data sets by name: the digits, and splits that do not exist."""

from typing import Any

import pytest
import torch

from data.store import DataConfig, open_source
from utils.errors import UserError


def test_digits_are_sixteenths_as_near_as_bytes_allow() -> None:
    from sklearn.datasets import load_digits

    source = open_source(DataConfig(name="digits"))
    images = source.read()
    expected = torch.from_numpy(load_digits().images)[:, None] / 16
    assert images.shape == (1797, 1, 8, 8)
    assert (images.double() / 255 - expected).abs().max() < 0.5 / 255
    assert (images.double() / 255).mean().item() == pytest.approx(source.mean[0], abs=1e-4)
    assert (images.double() / 255).std().item() == pytest.approx(source.std[0], abs=2e-4)


def test_every_fifth_digit_is_a_query() -> None:
    source = open_source(DataConfig(name="digits"))
    split = source.knn_split()
    assert split is not None
    assert torch.equal(split[1], torch.arange(0, 1797, 5))
    assert torch.equal(torch.cat(split).sort().values, torch.arange(1797))


def test_the_parts_of_digits_are_its_bank_and_its_queries() -> None:
    whole, part = open_source(DataConfig(name="digits")), open_source(DataConfig(name="digits", split="test"))
    assert (part.n_rows, part.path(1), part.knn_split()) == (360, "digits/0005", None)
    assert torch.equal(part.read(), whole.read(torch.arange(0, 1797, 5)))


def test_digits_know_their_classes() -> None:
    truth = open_source(DataConfig(name="digits")).read_truth()
    assert truth is not None
    assert truth.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data.name: 'fashion-mnist' is unknown \(did you mean fashion_mnist\?\)"):
        open_source(DataConfig(name="fashion-mnist"))


NAMES = ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar20", "cifar100", "tiny_imagenet", "imagenet", "digits"]


@pytest.mark.parametrize("name", NAMES)
def test_a_split_that_a_set_does_not_have_is_answered_with_those_it_has(name: str) -> None:
    with pytest.raises(UserError, match=rf"data.split: {name} has no 'unlabelled'; it has train\+test, train, test$"):
        open_source(DataConfig(name=name, split="unlabelled"))


@pytest.mark.parametrize("split", ["test", "train+test"])
@pytest.mark.parametrize("name", ["imagenet10", "imagenet_dogs"])
def test_the_subsets_of_imagenet_have_train_images_alone(name: str, split: Any) -> None:
    with pytest.raises(UserError, match=rf"data.split: {name} has no '{split.replace('+', '.')}'; it has train$"):
        open_source(DataConfig(name=name, split=split))
