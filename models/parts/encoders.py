"""Encoders: small nets for tiny images, ResNets with three stems, any timm network. Each gives (B, feature_dim).

Their weights are random here; `models.parts.weights` starts them from published ones or from a file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.compat import prepare_torchvision
from utils.config import Section
from utils.errors import UserError, did_you_mean

Stem = Literal["cifar", "stl", "imagenet"]
ImageShape = tuple[int, int, int]  # C, H, W


class EncoderConfig(Section):
    """Which network turns an image into features, what it starts from and how much of it is learnt."""

    name: str = Field("small", description="tiny, digits, small, small96, resnet18, resnet34, resnet50 or timm:NAME")
    stem: Stem = Field("cifar", description="first layers of a ResNet: cifar (32 px), stl (96 px), imagenet (224 px)")
    pretrained: bool = Field(
        False, description="start from timm's or torchvision's published weights (most were learnt with labels)"
    )
    checkpoint: Path | None = Field(
        None, description="start from a file: a run folder, .pt, .pth, .tar, .bin or .safetensors, of us or others"
    )
    freeze: int | Literal["all"] = Field(
        0, description="this many first stages stay as they start (a ResNet has stem, layer1 to layer4), or all of them"
    )
    zero_init_residual: bool = Field(
        False, description="ResNets: the last BatchNorm weight of every block starts at 0 (SimSiam)"
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout of timm nets; above 0 results depend on the ranks")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth of timm nets; likewise")

    @model_validator(mode="after")
    def _one_start(self) -> "EncoderConfig":
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained and checkpoint are two starts: choose one")
        if self.zero_init_residual and (self.pretrained or self.checkpoint is not None):
            raise ValueError("zero_init_residual says how random weights start: not with pretrained or checkpoint")
        return self


Builder = Callable[[EncoderConfig, ImageShape], nn.Module]


def build_encoder(config: EncoderConfig, image_shape: ImageShape) -> tuple[nn.Module, int]:
    """The network with random weights, and its feature width, measured on one empty image.

    Raises UserError for an unknown name, with the nearest known one, and for a network that cannot take such images.
    """
    if config.name.startswith("timm:"):
        build: Builder = timm_net
        check_timm_name(config.name.removeprefix("timm:"))
    elif config.name in ENCODERS:
        build = ENCODERS[config.name]
    else:
        raise UserError("encoder.name", f"{config.name!r} is unknown" + did_you_mean(config.name, ENCODERS))
    if config.zero_init_residual and build is not resnet:
        raise UserError("encoder.zero_init_residual", f"{config.name} is not resnet18, resnet34 or resnet50")
    with _refused("encoder.name", config.name, image_shape, "choose another network or image size"):
        net = build(config, image_shape)
        with torch.no_grad():
            features = net.eval()(torch.zeros(1, *image_shape))
    if features.ndim != 2:
        raise UserError("encoder.name", f"{config.name} gives {tuple(features.shape)} for one image, not (1, features)")
    return net.train(), features.shape[1]


@torch.no_grad()
def check_takes(encoder: nn.Module, name: str, image_shape: ImageShape, place: str) -> None:
    """Raise UserError at `place` of the config where an encoder that is built cannot take such images, too."""
    example = next(encoder.parameters())
    with _refused(place, name, image_shape, "leave it out or choose another size"):
        encoder.eval()(torch.zeros(1, *image_shape, dtype=example.dtype, device=example.device))
    encoder.train()


@contextmanager
def _refused(place: str, name: str, image_shape: ImageShape, remedy: str) -> Iterator[None]:
    """torch's and timm's errors about images of this shape as the user's."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        shown = " x ".join(str(size) for size in image_shape)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(place, f"{name} cannot take images of {shown}: {reason}", remedy) from None


def stages(encoder: nn.Module) -> list[list[str]]:
    """The names of the parameters of each stage, from the image on.

    timm's networks say themselves what a stage is; else it is a child of `encoder` with the BatchNorm that follows it:
    stem, layer1 to layer4 of a ResNet, the convolutions of the small nets.
    """
    if hasattr(encoder, "group_matcher"):
        from timm.models import group_parameters

        return list(group_parameters(encoder, encoder.group_matcher(coarse=True)).values())  # type: ignore[operator]
    found: list[list[str]] = []
    for name, child in encoder.named_children():
        names = [f"{name}.{parameter}" for parameter, _ in child.named_parameters()]
        if isinstance(child, _BatchNorm) and found:
            found[-1] += names
        elif names:
            found.append(names)
    return found


def freeze_encoder(encoder: nn.Module, config: EncoderConfig) -> None:
    """Keep what `encoder.freeze` names as it is: no gradient, and eval mode whatever `train()` asks for.

    Copies made later (a target network) are frozen likewise. Raises UserError for more stages than there are.
    """
    if config.freeze == 0:
        return
    parameters, parts = dict(encoder.named_parameters()), stages(encoder)
    if config.freeze == "all":
        frozen = set(parameters)
    elif 0 < config.freeze <= len(parts):
        frozen = {name for part in parts[: config.freeze] for name in part}
    else:
        problem = f"{config.freeze} of the {len(parts)} stages of {config.name}"
        raise UserError("encoder.freeze", problem, f"it takes 0 to {len(parts)}, or all")
    for name in frozen:
        parameters[name].requires_grad_(False)
    held = []
    for name, _ in encoder.named_modules():
        own = {parameter for parameter in parameters if not name or parameter.startswith(f"{name}.")}
        if own and own <= frozen:
            held.append(name)
    # by name, since BatchNorms are replaced later; a bound method, since copy.deepcopy binds it to the copy
    encoder.frozen = held  # type: ignore[assignment]
    encoder.train = MethodType(_train_the_rest, encoder)  # type: ignore[method-assign]
    encoder.train(encoder.training)


def _train_the_rest(encoder: nn.Module, mode: bool = True) -> nn.Module:
    """`encoder.train` of a frozen encoder: dropout off and BatchNorm by its running statistics where it is frozen."""
    type(encoder).train(encoder, mode)
    for name in encoder.frozen:  # type: ignore[union-attr]
        nn.Module.train(encoder.get_submodule(name), False)
    return encoder


def tiny(config: EncoderConfig, image_shape: ImageShape) -> nn.Module:
    """Two convolutions, 16 features: for tests and dry runs in seconds."""
    return nn.Sequential(*_conv(image_shape[0], 8, pool=True), *_conv(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def digits(config: EncoderConfig, image_shape: ImageShape) -> nn.Module:
    """Four convolutions for 8 px images: 60,400 parameters at one channel, 64 features."""
    layers = [*_conv(image_shape[0], 16), *_conv(16, 32, pool=True), *_conv(32, 64, pool=True), *_conv(64, 64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small(config: EncoderConfig, image_shape: ImageShape) -> nn.Module:
    """A 2 x 2 patch stem and three convolutions for 32 px images: 240,704 parameters, 128 features.

    Full-resolution maps cost more in BatchNorm and ReLU than in the convolution, hence the patch stem.
    """
    stem_conv = [nn.Conv2d(image_shape[0], 32, 2, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    layers = [*stem_conv, *_conv(32, 64, pool=True), *_conv(64, 128, pool=True), *_conv(128, 128)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small96(config: EncoderConfig, image_shape: ImageShape) -> nn.Module:
    """A 4 x 4 patch stem and four convolutions for 96 px photographs: 979,904 parameters, 256 features."""
    stem_conv = [nn.Conv2d(image_shape[0], 32, 4, stride=4, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    layers = [*_conv(32, 64, pool=True), *_conv(64, 128, pool=True), *_conv(128, 256, pool=True), *_conv(256, 256)]
    return nn.Sequential(*stem_conv, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet(config: EncoderConfig, image_shape: ImageShape) -> nn.Module:
    """A torchvision ResNet without its classifier, with the stem that fits the image size."""
    prepare_torchvision()
    from torchvision.models import get_model

    channels = image_shape[0]
    net = get_model(config.name, weights=None, zero_init_residual=config.zero_init_residual)
    net.fc = nn.Identity()
    if config.stem == "imagenet":
        if channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        net.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity() if config.stem == "cifar" else nn.MaxPool2d(2, stride=2, padding=1)
    return net


ENCODERS: dict[str, Builder] = {
    "tiny": tiny,
    "digits": digits,
    "small": small,
    "small96": small96,
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
}


def timm_net(config: EncoderConfig, image_shape: ImageShape, *, pretrained: bool = False) -> nn.Module:
    """A timm network without its classifier, for these channels and, where it depends on it, this image size."""
    prepare_torchvision()
    import timm

    name = config.name.removeprefix("timm:")
    options: dict[str, Any] = {
        "drop_rate": config.drop_rate,
        "drop_path_rate": config.drop_path_rate,
        "in_chans": image_shape[0],
        "pretrained": pretrained,
    }
    size = {"img_size": image_shape[1:]}
    for known in ({**size, "dynamic_img_size": True}, size):  # dynamic: local crops have a size of their own
        try:
            return timm.create_model(name, num_classes=0, **known, **options)
        except TypeError:  # convolutional nets take any size and know no such argument
            continue
    return timm.create_model(name, num_classes=0, **options)


def check_timm_name(name: str) -> None:
    """Raise UserError for a network, or a tag of its published weights, that timm does not know."""
    prepare_torchvision()
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        raise UserError("encoder.name", f"{architecture!r} is unknown to timm" + did_you_mean(architecture, known))
    tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UserError("encoder.name", f"timm has no weights {tag!r} of {architecture}" + did_you_mean(tag, tags))


def _conv(inputs: int, outputs: int, *, pool: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
    # pooled first, what is cut off is the same, of a quarter of the numbers
    return [*layers, nn.MaxPool2d(2), nn.ReLU(inplace=True)] if pool else [*layers, nn.ReLU(inplace=True)]
