"""Tiny-ImageNet: 100,000 train and 10,000 val images of 200 of ImageNet's classes, 64 x 64 pixels."""

from data.sources.arrays import LABELLED_SPLITS
from data.sources.base import DataConfig, Source
from data.sources.imagenet import open_classes

N_CLASSES = 200


def tiny_imagenet(config: DataConfig) -> Source:
    """Split train is what the papers cluster; test is the published val part."""
    return open_classes("tiny_imagenet", config, N_CLASSES, LABELLED_SPLITS, default_size=64)
