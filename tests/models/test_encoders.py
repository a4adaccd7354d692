"""Encoders: parameter counts, feature widths, last maps, clear errors."""

import pytest
import torch
from torch import nn

from models.parts.encoders import ENCODERS, EncoderConfig, build_encoder
from models.parts.heads import MLP, small_normal_
from utils.config import compose, validate
from utils.errors import UserError


@pytest.mark.parametrize(
    ("name", "stem", "shape", "parameters", "width"),
    [
        ("digits", "cifar", (1, 8, 8), 60_400, 64),
        ("small", "cifar", (3, 32, 32), 240_704, 128),
        ("small96", "cifar", (3, 96, 96), 979_904, 256),
        ("resnet18", "cifar", (3, 32, 32), 11_168_832, 512),
        ("resnet34", "cifar", (3, 32, 32), 21_276_992, 512),
        ("resnet50", "cifar", (3, 32, 32), 23_500_352, 2048),
        ("resnet18", "stl", (3, 96, 96), 11_168_832, 512),
        ("resnet18", "imagenet", (3, 96, 96), 11_176_512, 512),
        ("resnet34", "imagenet", (3, 64, 64), 21_284_672, 512),
        ("resnet50", "imagenet", (3, 64, 64), 23_508_032, 2048),
        ("timm:test_resnet", "cifar", (1, 32, 32), None, None),
        ("timm:test_vit", "cifar", (3, 32, 32), None, None),
        ("timm:test_vit", "cifar", (1, 48, 48), None, 64),
        ("timm:test_mambaout", "cifar", (3, 32, 32), None, 256),  # its num_features is 64
    ],
)
def test_encoder_has_the_published_size_and_gives_its_features(
    name: str, stem: str, shape: tuple[int, int, int], parameters: int | None, width: int | None
) -> None:
    net, feature_dim = build_encoder(EncoderConfig(name=name, stem=stem), shape)
    assert net.training
    assert parameters is None or sum(p.numel() for p in net.parameters()) == parameters
    assert width is None or feature_dim == width
    with torch.no_grad():
        assert net.eval()(torch.zeros(2, *shape)).shape == (2, feature_dim)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "resnet18", "digits"])
def test_encoder_takes_local_crops_of_another_size(name: str) -> None:
    net, feature_dim = build_encoder(EncoderConfig(name=name), (3, 48, 48))
    with torch.no_grad():
        assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, feature_dim)


def test_a_transformer_of_any_size_gives_at_its_own_what_one_of_that_size_alone_gives() -> None:
    timm = pytest.importorskip("timm")
    net = build_encoder(EncoderConfig(name="timm:test_vit"), (3, 48, 48))[0].eval()
    plain = timm.create_model("test_vit", num_classes=0, img_size=48).eval()
    plain.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(net(images), plain(images))


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


@pytest.mark.parametrize(("name", "last", "blocks"), [("resnet18", "bn2", 8), ("resnet50", "bn3", 16)])
def test_zero_init_residual_sets_the_last_norm_of_every_block_to_zero(name: str, last: str, blocks: int) -> None:
    torch.manual_seed(3)
    plain = dict(build_encoder(EncoderConfig(name=name), (3, 32, 32))[0].named_parameters())
    torch.manual_seed(3)
    zeroed = dict(build_encoder(EncoderConfig(name=name, zero_init_residual=True), (3, 32, 32))[0].named_parameters())
    changed = [key for key, value in zeroed.items() if not torch.equal(value, plain[key])]
    assert len(changed) == blocks
    assert all(key.endswith(f"{last}.weight") and not zeroed[key].any() for key in changed)


@pytest.mark.parametrize("name", ["small", "timm:test_resnet"])
def test_zero_init_residual_of_another_network_is_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        build_encoder(EncoderConfig(name=name, zero_init_residual=True), (3, 32, 32))
    assert str(error.value) == f"encoder.zero_init_residual: {name} is not resnet18, resnet34 or resnet50"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"encoder.name: 'resnet19' is unknown \(did you mean resnet18\?\)"),
        ("timm:resnet19", r"encoder.name: 'resnet19' is unknown to timm \(did you mean resnet1"),
        ("timm:resnet18.a9_in1k", r"encoder.name: timm has no weights 'a9_in1k' of resnet18"),
    ],
)
def test_unknown_encoder_is_named_with_the_nearest_known(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_encoder(EncoderConfig(name=name), (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("timm:test_vit", (3, 40, 40), "cannot take images of 3 x 40 x 40: Input height (40) should be divisible"),
        ("timm:test_convnext", (1, 8, 8), "cannot take images of 1 x 8 x 8: Calculated padded input size per channel"),
        ("small", (3, 4, 4), "cannot take images of 3 x 4 x 4: Given input size: (128x1x1)"),
    ],
)
def test_images_that_a_network_cannot_take_are_told_in_one_line(
    name: str, shape: tuple[int, int, int], reason: str
) -> None:
    with pytest.raises(UserError) as error:
        build_encoder(EncoderConfig(name=name), shape)
    assert f"encoder.name: {name} {reason}" in str(error.value)
    assert str(error.value).endswith("; choose another network or image size")
    assert "\n" not in str(error.value)


def test_a_network_that_gives_maps_instead_of_features_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "maps", lambda config, image_shape: nn.Conv2d(image_shape[0], 5, 3))
    with pytest.raises(UserError, match=r"encoder.name: maps gives \(1, 5, 6, 6\) for one image, not \(1, features\)"):
        build_encoder(EncoderConfig(name="maps"), (3, 8, 8))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("encoder.freeze=some", "encoder.freeze: 'some' is "),
        ("encoder.freeze=true", "encoder.freeze: true is not an integer or all"),
        ("encoder.pretrained=true", "encoder: pretrained and checkpoint are two starts: choose one"),
        ("encoder.zero_init_residual=true", "encoder: zero_init_residual says how random weights start: not with"),
    ],
)
def test_settings_that_make_no_sense_are_told(word: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(compose([], ["encoder.checkpoint=a.pt", word]), {"encoder": EncoderConfig})
    assert message in str(error.value)


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


def test_pooling_before_the_relu_changes_no_bit() -> None:
    net, _ = build_encoder(EncoderConfig(name="small"), (3, 16, 16))
    assert isinstance(net, nn.Sequential)
    published = [*net]
    for place in [place for place, layer in enumerate(net) if isinstance(layer, nn.MaxPool2d)]:
        published[place : place + 2] = [net[place + 1], net[place]]
    images = torch.randn(6, 3, 16, 16)
    results = []
    for layers in (net, nn.Sequential(*published)):
        net.zero_grad()
        features = layers(images)
        features.square().sum().backward()
        results.append([features, *(parameter.grad.clone() for parameter in net.parameters())])
    assert [type(layer) for layer in published] != [type(layer) for layer in net]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
