"""Encoders: parameter counts, feature widths, last maps, clear errors."""

import pytest
import torch
from torch import nn

from models.parts.encoders import EncoderConfig, build_encoder
from models.parts.heads import MLP, small_normal_
from utils.errors import UserError


@pytest.mark.parametrize(
    ("name", "stem", "shape", "parameters", "width"),
    [
        ("digits", "cifar", (1, 8, 8), 60_400, 64),
        ("small", "cifar", (3, 32, 32), 240_704, 128),
        ("resnet18", "cifar", (3, 32, 32), 11_168_832, 512),
        ("resnet34", "cifar", (3, 32, 32), 21_276_992, 512),
        ("resnet50", "cifar", (3, 32, 32), 23_500_352, 2048),
        ("resnet18", "stl", (3, 96, 96), 11_168_832, 512),
        ("resnet18", "imagenet", (3, 96, 96), 11_176_512, 512),
        ("resnet34", "imagenet", (3, 64, 64), 21_284_672, 512),
        ("resnet50", "imagenet", (3, 64, 64), 23_508_032, 2048),
        ("timm:test_resnet", "cifar", (1, 32, 32), None, None),
        ("timm:test_vit", "cifar", (3, 32, 32), None, None),
    ],
)
def test_encoder_has_the_published_size_and_gives_its_features(
    name: str, stem: str, shape: tuple[int, int, int], parameters: int | None, width: int | None
) -> None:
    net, feature_dim = build_encoder(EncoderConfig(name=name, stem=stem), shape)
    if parameters is not None:
        assert (sum(p.numel() for p in net.parameters()), feature_dim) == (parameters, width)
    with torch.no_grad():
        assert net.eval()(torch.zeros(2, *shape)).shape == (2, feature_dim)


@pytest.mark.parametrize(
    ("stem", "size", "side"), [("cifar", 32, 4), ("cifar", 96, 12), ("stl", 96, 7), ("imagenet", 96, 3)]
)
def test_stems_give_the_published_last_map(stem: str, size: int, side: int) -> None:
    net, _ = build_encoder(EncoderConfig(name="resnet18", stem=stem), (3, size, size))
    maps: list[torch.Size] = []
    net.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    assert maps[0][2:] == (side, side)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"encoder.name: 'resnet19' is unknown \(did you mean resnet18\?\)"),
        ("timm:resnet19", r"encoder.name: 'resnet19' is unknown to timm \(did you mean resnet1"),
    ],
)
def test_unknown_encoder_is_named_with_the_nearest_known(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_encoder(EncoderConfig(name=name), (3, 32, 32))


def test_published_heads_have_the_published_sizes() -> None:
    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert size(MLP(512, 4096, 256)) == 3_158_272
    assert size(MLP(2048, 4096, 256)) == 9_449_728
    predictor = small_normal_(MLP(256, 4096, 256))
    assert size(predictor) == 2_109_696
    assert float(predictor[0].weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not predictor[3].bias.detach().any()


@pytest.mark.parametrize(("hidden", "inside"), [(7, torch.float32), (1024, torch.bfloat16)])
def test_heads_give_float32_and_only_wide_ones_compute_below_it(hidden: int, inside: torch.dtype) -> None:
    head, seen = MLP(5, hidden, 3), []
    head[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.randn(4, 5)).dtype == torch.float32
    assert seen == [inside]
