"""What is known of published sets, against a second copy of their authors' and of torchvision's numbers."""

import pytest
import torch

from data.fetch import Published
from data.sources.base import DataConfig
from data.sources.cifar import CIFAR10, CIFAR100, CLASSES, COARSE, FINE, FINE_TO_COARSE
from data.sources.digits import Digits
from data.sources.imagenet_subsets import IMAGENET10, IMAGENET_DOGS
from data.sources.mnist import CLOTHES, FASHION_MNIST, MNIST
from data.sources.stl10 import CLASSES as STL10_CLASSES
from data.sources.stl10 import STL10
from data.sources.svhn import SVHN

ARCHIVES = {  # MD5 of torchvision 0.28
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb",
}
IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
FILES = {
    MNIST.name: (
        *("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        *("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    FASHION_MNIST.name: (
        *("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        *("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
FINE_OF = {  # fine classes of each coarse one, by CIFAR-100's numbers
    "aquatic mammals": (4, 30, 55, 72, 95), "fish": (1, 32, 67, 73, 91), "flowers": (54, 62, 70, 82, 92),
    "food containers": (9, 10, 16, 28, 61), "fruit and vegetables": (0, 51, 53, 57, 83),
    "household electrical devices": (22, 39, 40, 86, 87), "household furniture": (5, 20, 25, 84, 94),
    "insects": (6, 7, 14, 18, 24), "large carnivores": (3, 42, 43, 88, 97),
    "large man-made outdoor things": (12, 17, 37, 68, 76), "large natural outdoor scenes": (23, 33, 49, 60, 71),
    "large omnivores and herbivores": (15, 19, 21, 31, 38), "medium-sized mammals": (34, 63, 64, 66, 75),
    "non-insect invertebrates": (26, 45, 77, 79, 99), "people": (2, 11, 35, 46, 98),
    "reptiles": (27, 29, 44, 78, 93), "small mammals": (36, 50, 65, 74, 80), "trees": (47, 52, 56, 59, 96),
    "vehicles 1": (8, 13, 48, 58, 90), "vehicles 2": (41, 69, 81, 85, 89),
}  # fmt: skip
TEN = (
    *("n02056570", "n02085936", "n02128757", "n02690373", "n02692877"),
    *("n03095699", "n04254680", "n04285008", "n04467665", "n07747607"),
)
DOGS = (
    *("n02085936", "n02086646", "n02088238", "n02091467", "n02097130", "n02099601", "n02101388", "n02101556"),
    *("n02102177", "n02105056", "n02105412", "n02105855", "n02107142", "n02110958", "n02112137"),
)


@pytest.mark.parametrize("published", [CIFAR10, CIFAR100, STL10], ids=lambda published: published.name)
def test_archives_are_the_published_ones(published: Published) -> None:
    assert published.archive is not None
    assert ARCHIVES[published.archive[0]] == published.archive[1]


@pytest.mark.parametrize("published", [MNIST, FASHION_MNIST], ids=lambda published: published.name)
def test_files_of_the_mnists_are_the_published_ones(published: Published) -> None:
    names = [f"{stem}-ubyte.gz" for stem in IDX]
    assert published.files == dict(zip(names, FILES[published.name], strict=True))


def test_files_of_svhn_are_the_published_ones() -> None:
    assert SVHN.files == {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }


def test_coarse_classes_hold_the_fine_ones_of_the_authors() -> None:
    assert [tuple((number == FINE_TO_COARSE).nonzero()[0]) for number in range(20)] == list(FINE_OF.values())


def test_classes_have_the_names_of_the_authors() -> None:
    assert tuple(FINE_OF) == COARSE
    assert list(FINE) == sorted(FINE) and len(set(FINE)) == 100
    people, trees = ([FINE[number] for number in FINE_OF[name]] for name in ("people", "trees"))
    assert people == ["baby", "boy", "girl", "man", "woman"]
    assert trees == ["maple tree", "oak tree", "palm tree", "pine tree", "willow tree"]
    assert (CLASSES[1], CLASSES[6], STL10_CLASSES[2], STL10_CLASSES[7]) == ("automobile", "frog", "car", "monkey")
    assert list(CLASSES) == sorted(CLASSES) and list(STL10_CLASSES) == sorted(STL10_CLASSES)
    assert len(CLASSES) == len(STL10_CLASSES) == len(CLOTHES) == 10
    assert (CLOTHES[0], CLOTHES[9]) == ("T-shirt/top", "ankle boot")


def test_imagenet_subsets_are_those_of_dac() -> None:
    assert IMAGENET10 == TEN
    assert IMAGENET_DOGS == DOGS


def test_digits_are_scikit_learns() -> None:
    digits = Digits(DataConfig())
    assert torch.bincount(digits.read_truth()).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    pixels = (digits.read().double() * 16 / 255).round() / 16
    assert float(pixels.mean()) == pytest.approx(0.30526028624095713, rel=1e-12)
    assert float(pixels.std(correction=0)) == pytest.approx(0.3760492217920148, rel=1e-6)
    assert (digits.mean, digits.std) == ((0.305260,), (0.376049,))
