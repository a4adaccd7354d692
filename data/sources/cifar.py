"""CIFAR-10, CIFAR-100 and CIFAR-20, its coarse classes: 50,000 + 10,000 photographs of 32 x 32 pixels."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from data.fetch import Published, obtain
from data.sources.arrays import ArraySource, Facts, Part, parts_of
from data.sources.base import DataConfig, Source
from utils.errors import UserError

CIFAR10 = Published(
    "cifar10",
    "cifar-10-batches-py",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
)
CIFAR100 = Published(
    "cifar100",
    "cifar-100-python",
    {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
)
ARRAY_PARTS = {
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
}
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
# of SCAN, GCC and ProPos; the deviations of the two families come from different definitions, see the papers' code
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE = (
    "apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple tree", "motorcycle", "mountain", "mouse", "mushroom", "oak tree", "orange", "orchid",
    "otter", "palm tree", "pear", "pickup truck", "pine tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow tree", "wolf",
    "woman", "worm",
)  # fmt: skip
COARSE = (
    "aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices",
    "household furniture", "insects", "large carnivores", "large man-made outdoor things",
    "large natural outdoor scenes", "large omnivores and herbivores", "medium-sized mammals",
    "non-insect invertebrates", "people", "reptiles", "small mammals", "trees", "vehicles 1", "vehicles 2",
)  # fmt: skip
# coarse class of each fine one
FINE_TO_COARSE = np.array(
    [4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7]
    + [6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10]
    + [16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16]
    + [12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13]
)


def cifar10(config: DataConfig) -> Source:
    """Ten classes, (3, 32, 32)."""
    parts = {part: BATCHES[part] for part in parts_of("cifar10", config.split)}
    found = obtain(CIFAR10, sum(parts.values(), []), config.root, config.download)
    read = {}
    for part, names in parts.items():
        batches = [_unpickle(found[name]) for name in names]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        read[part] = Part(images, np.concatenate([batch["labels"] for batch in batches]))
    return ArraySource(Facts("cifar10", 10, CIFAR10_MEAN, CIFAR10_STD, CLASSES), config.split, read)


def cifar100(config: DataConfig) -> Source:
    """The hundred fine classes, (3, 32, 32)."""
    return _open_cifar100(Facts("cifar100", 100, CIFAR100_MEAN, CIFAR100_STD, FINE), config, coarse=False)


def cifar20(config: DataConfig) -> Source:
    """CIFAR-100's images with its twenty coarse classes, (3, 32, 32)."""
    return _open_cifar100(Facts("cifar20", 20, CIFAR100_MEAN, CIFAR100_STD, COARSE), config, coarse=True)


def _open_cifar100(facts: Facts, config: DataConfig, coarse: bool) -> Source:
    parts = parts_of(facts.name, config.split)
    found = obtain(CIFAR100, parts, config.root, config.download)
    read = {}
    for part in parts:
        content = _unpickle(found[part])
        fine = np.array(content["fine_labels"])
        if not np.array_equal(FINE_TO_COARSE[fine], content["coarse_labels"]):
            raise UserError(str(found[part]), "its coarse classes are not those that publications use")
        read[part] = Part(content["data"].reshape(-1, 3, 32, 32), FINE_TO_COARSE[fine] if coarse else fine)
    return ArraySource(facts, config.split, read)


def _unpickle(path: Path) -> dict[str, Any]:
    """The content of a file whose MD5 was found right, without running any code that it may hold."""
    with path.open("rb") as file:
        try:
            return _ArraysOnly(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise UserError(str(path), str(error)) from None


class _ArraysOnly(pickle.Unpickler):
    """Unpickles lists, dicts, text, numbers and numpy's arrays; a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickled array is put together from."""
        if (module, name) in ARRAY_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"holds {module}.{name}, which only running its code could read")
