"""Encoders: small nets for tiny images, ResNets with three stems, any timm network. Each gives (B, feature_dim)."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field
from torch import nn

from utils.compat import prepare_torchvision
from utils.config import Section
from utils.errors import UserError, did_you_mean

Stem = Literal["cifar", "stl", "imagenet"]


class EncoderConfig(Section):
    """Which network turns an image into features."""

    name: str = Field("small", description="tiny, digits, small, resnet18, resnet34, resnet50 or timm:NAME")
    stem: Stem = Field("cifar", description="first layers of a ResNet: cifar (32 px), stl (96 px), imagenet (224 px)")
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout of timm nets; above 0 results depend on the ranks")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth of timm nets; likewise")


def build_encoder(config: EncoderConfig, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """The network and its feature width. Raises UserError for an unknown name, with the nearest known one."""
    channels = image_shape[0]
    if config.name.startswith("timm:"):
        return _timm(config, image_shape)
    if config.name not in ENCODERS:
        raise UserError("encoder.name", f"{config.name!r} is unknown" + did_you_mean(config.name, ENCODERS))
    return ENCODERS[config.name](channels, config.stem)


def tiny(channels: int, stem: Stem) -> tuple[nn.Module, int]:
    """Two convolutions, 16 features: for tests and dry runs in seconds."""
    net = nn.Sequential(*_conv(channels, 8, pool=True), *_conv(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net, 16


def digits(channels: int, stem: Stem) -> tuple[nn.Module, int]:
    """Four convolutions for 8 px images: 60,400 parameters at one channel, 64 features."""
    layers = [*_conv(channels, 16), *_conv(16, 32, pool=True), *_conv(32, 64, pool=True), *_conv(64, 64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 64


def small(channels: int, stem: Stem) -> tuple[nn.Module, int]:
    """A 2 x 2 patch stem and three convolutions for 32 px images: 240,704 parameters, 128 features.

    Full-resolution maps cost more in BatchNorm and ReLU than in the convolution, hence the patch stem.
    """
    stem_conv = [nn.Conv2d(channels, 32, 2, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    layers = [*stem_conv, *_conv(32, 64, pool=True), *_conv(64, 128, pool=True), *_conv(128, 128)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 128


def resnet(name: str) -> Callable[[int, Stem], tuple[nn.Module, int]]:
    """A torchvision ResNet without its classifier, with the stem that fits the image size."""

    def build(channels: int, stem: Stem) -> tuple[nn.Module, int]:
        prepare_torchvision()
        from torchvision.models import get_model

        net = get_model(name, weights=None)
        width = net.fc.in_features
        net.fc = nn.Identity()
        if stem == "imagenet":
            if channels != 3:
                net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        else:
            net.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
            net.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(2, stride=2, padding=1)
        return net, width

    return build


ENCODERS: dict[str, Callable[[int, Stem], tuple[nn.Module, int]]] = {
    "tiny": tiny,
    "digits": digits,
    "small": small,
    "resnet18": resnet("resnet18"),
    "resnet34": resnet("resnet34"),
    "resnet50": resnet("resnet50"),
}


def _conv(inputs: int, outputs: int, *, pool: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return [*layers, nn.MaxPool2d(2)] if pool else layers


def _timm(config: EncoderConfig, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    prepare_torchvision()
    import timm

    name = config.name.removeprefix("timm:")
    known = timm.list_models()
    if name not in known:
        raise UserError("encoder.name", f"{name!r} is unknown to timm" + did_you_mean(name, known))
    options: dict[str, Any] = {
        "drop_rate": config.drop_rate,
        "drop_path_rate": config.drop_path_rate,
        "in_chans": image_shape[0],
    }
    try:
        net = timm.create_model(name, num_classes=0, img_size=image_shape[1:], **options)
    except TypeError:  # convolutional nets take any size and know no such argument
        net = timm.create_model(name, num_classes=0, **options)
    return net, int(net.num_features)  # type: ignore[arg-type]
