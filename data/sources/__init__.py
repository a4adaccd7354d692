"""Image sources by their `data.name`; a new one is a file here and a line in `SOURCES`."""

from collections.abc import Callable
from functools import partial

from data.sources.base import DataConfig, Source
from data.sources.cifar import cifar10, cifar20, cifar100
from data.sources.digits import Digits
from data.sources.encoded import own_images
from data.sources.folder import list_folder
from data.sources.image_list import list_file
from data.sources.imagenet import imagenet
from data.sources.imagenet_subsets import imagenet10, imagenet_dogs
from data.sources.mnist import fashion_mnist, mnist
from data.sources.shards import list_shards
from data.sources.stl10 import stl10
from data.sources.svhn import svhn
from data.sources.tiny_imagenet import tiny_imagenet

SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": Digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar20": cifar20,
    "cifar100": cifar100,
    "stl10": stl10,
    "imagenet10": imagenet10,
    "imagenet_dogs": imagenet_dogs,
    "tiny_imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "folder": partial(own_images, "folder", list_folder),
    "list": partial(own_images, "list", list_file),
    "shards": partial(own_images, "shards", list_shards),
}
