"""Image sources by their `data.name`; a new one is a file here and a line in `SOURCES`."""

from collections.abc import Callable
from functools import partial

from data.sources.base import DataConfig, Source
from data.sources.digits import Digits
from data.sources.folder import Folder
from data.sources.torchvision_sets import CIFAR10, FASHION_MNIST, TorchvisionSet

SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": Digits,
    "cifar10": partial(TorchvisionSet, CIFAR10),
    "fashion_mnist": partial(TorchvisionSet, FASHION_MNIST),
    "folder": Folder,
}
