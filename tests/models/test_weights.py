"""Where an encoder starts from: every kind of file and wrapping, an account of what fitted, errors in one line."""

import argparse
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.byol import BYOL, BYOLConfig
from models.parts.centers import EStepConfig
from models.parts.encoders import EncoderConfig, build_encoder
from models.parts.weight_files import read_tensors
from models.parts.weights import fit, load_encoder_weights
from training.checkpoint import snapshot, write_checkpoint
from utils.clock import Clock
from utils.compat import prepare_torchvision
from utils.errors import UserError
from utils.group_batchnorm import convert_batchnorm

SHAPE = (3, 32, 32)
prepare_torchvision()  # before any test names a place in timm


def fresh(name: str = "timm:test_resnet", shape: tuple[int, int, int] = SHAPE, **config: Any) -> nn.Module:
    return build_encoder(EncoderConfig(name=name, **config), shape)[0]


def moved(net: nn.Module) -> nn.Module:
    """`net` with running statistics that no fresh network has."""
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    return net


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}


def assert_same(net: nn.Module, other: nn.Module) -> None:
    theirs = state_of(other)
    assert [name for name, tensor in state_of(net).items() if not torch.equal(tensor, theirs[name])] == []


def start(encoder: nn.Module, path: Path) -> list[str]:
    return load_encoder_weights(encoder, EncoderConfig(checkpoint=path), SHAPE)


def wrapped(state: dict[str, Tensor], before: str) -> dict[str, Any]:
    """The state dict as deep in tables and name prefixes as 'table/table/prefix.' says."""
    *tables, prefix = before.split("/")
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    for table in reversed(tables):
        content = {"epoch": 7, table: content, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}}
    return content


@pytest.mark.parametrize(
    "before", ["", "state_dict/module.", "model/", "teacher/backbone.", "student/module.encoder.", "net/a.b.encoder_q."]
)
def test_wrappings_of_every_kind_are_seen_through(tmp_path: Path, before: str) -> None:
    source, encoder = moved(fresh()), fresh()
    torch.save(wrapped(source.state_dict(), before), tmp_path / "weights.pth")
    lines = start(encoder, tmp_path / "weights.pth")
    assert_same(encoder, source)
    prefix = before.replace("/", ".").strip(".")
    where = f"{tmp_path}/weights.pth" + (f" ({prefix})" if prefix else "")
    assert lines == [f"encoder: 75 of 75 tensors loaded from {where}"]


def test_safetensors_and_half_precision_are_read(tmp_path: Path) -> None:
    source, encoder = fresh().half(), fresh()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    start(encoder, tmp_path / "model.safetensors")
    assert_same(encoder, source.float())


def test_own_checkpoints_give_their_online_encoder_from_the_run_folder_too(tmp_path: Path) -> None:
    method = BYOL(moved(fresh("tiny")), 16, BYOLConfig(hidden_dim=11, projection_dim=7), EStepConfig(), 3)
    convert_batchnorm(method, 1)
    nn.init.zeros_(method.target[0][0].weight)
    optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9)
    path = write_checkpoint(tmp_path / "checkpoints", snapshot(method, optimizer, None, Clock(3, 3, 1), ""))
    for given in (tmp_path, path, tmp_path / "checkpoints" / "last.pt"):
        encoder = fresh("tiny")
        lines = start(encoder, given)
        assert lines == [f"encoder: 10 of 10 tensors loaded from {given} (method.online.encoder)"]
        assert torch.equal(encoder[0].weight, method.online[0][0].weight)
        assert torch.equal(encoder[1].running_var, method.online[0][1].running_var)
    path.write_bytes(path.read_bytes().replace(b"momentum", b"momentun"))
    with pytest.raises(UserError, match="is damaged: its checksum does not hold"):
        start(fresh("tiny"), tmp_path)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_earlier_propos_repositorys_tar_gives_its_online_encoder(tmp_path: Path, stem: str) -> None:
    source = moved(fresh("resnet18", stem=stem))
    children = [child for name, child in source.named_children() if name not in ("fc", "maxpool")]
    if stem == "imagenet":
        children.insert(3, source.maxpool)  # in a cifar stem its Sequential has no pool, and later children move up
    online = nn.Sequential(*children, nn.Flatten()).state_dict()
    target = {name: torch.zeros_like(tensor) for name, tensor in online.items()}
    byol = OrderedDict({f"encoder_q.{name}": tensor for name, tensor in online.items()})
    byol |= {"projector_q.0.weight": torch.ones(7, 512), "projector_q.1.weight": torch.ones(7)}
    byol |= {f"{k}.{name}": tensor for k in ("encoder_k", "encoder.0") for name, tensor in target.items()}
    torch.save({"byol": byol, "optimizer": {"state": {}}, "cur_epoch": 1000}, tmp_path / "cifar10.tar")
    encoder = fresh("resnet18", stem=stem)
    lines = start(encoder, tmp_path / "cifar10.tar")
    assert lines == [f"encoder: 100 of 100 tensors loaded from {tmp_path}/cifar10.tar (byol.encoder_q)"]
    assert_same(encoder, source)


def test_a_sequential_of_a_networks_children_beside_a_head_is_seen_through() -> None:
    source, encoder = moved(fresh()), fresh()
    tensors = nn.Sequential(nn.Sequential(*source.children(), nn.Linear(96, 7)), nn.Linear(7, 5)).state_dict()
    report = fit(encoder, tensors, "file.pth")
    assert (report.prefix, len(report.loaded), report.unexpected) == ("0", 75, ["10.weight", "10.bias"])
    assert_same(encoder, source)


def test_of_two_networks_in_a_file_the_one_of_the_same_shapes_is_taken() -> None:
    source, encoder = moved(fresh("tiny")), fresh("tiny")
    narrow = {f"narrow.{name}": tensor.reshape(-1)[:5] for name, tensor in source.state_dict().items()}
    report = fit(encoder, narrow | {f"wide.{name}": tensor for name, tensor in source.state_dict().items()}, "file.pth")
    assert report.prefix == "wide"
    assert_same(encoder, source)


def test_a_head_another_stem_and_missing_blocks_are_told_and_the_rest_is_loaded() -> None:
    head = {"fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}
    tensors = fresh("resnet18", stem="imagenet").state_dict() | head
    del tensors["layer4.1.bn2.bias"]
    encoder = fresh("resnet18")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    report = fit(encoder, tensors, "file.pth")
    assert report.lines() == [
        "encoder: 98 of 100 tensors loaded from file.pth",
        "encoder: 1 not in it, left at initialisation: layer4.1.bn2.bias",
        "encoder: 1 of another shape in it, left at initialisation: conv1.weight 64 x 3 x 7 x 7 for 64 x 3 x 3 x 3",
        "encoder: 2 in it but not in the encoder: fc.weight, fc.bias",
    ]
    for name in ("conv1.weight", "layer4.1.bn2.bias"):
        assert torch.equal(encoder.state_dict()[name], before[name])
    assert torch.equal(encoder.state_dict()["layer4.1.conv2.weight"], tensors["layer4.1.conv2.weight"])


def test_a_long_list_of_names_is_cut() -> None:
    tensors = fresh("tiny").state_dict() | {f"head.{i}": torch.ones(1) for i in range(7)}
    last = fit(fresh("tiny"), tensors, "file.pth").lines()[-1]
    assert last == "encoder: 7 in it but not in the encoder: head.0, head.1, head.2, head.3, head.4, and 2 more"


def test_grey_images_take_the_sum_of_the_first_layers_colours() -> None:
    source, encoder = fresh("tiny"), fresh("tiny", (1, 8, 8))
    report = fit(encoder, source.state_dict(), "file.pth")
    assert report.adapted == ["0.weight"]
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(encoder.eval()(image), source.eval()(image.expand(-1, 3, -1, -1)))


def test_position_embeddings_are_resampled_to_another_image_size() -> None:
    source, encoder = fresh("timm:test_vit", (3, 64, 64)), fresh("timm:test_vit", (3, 96, 96))
    source.pos_embed.data = torch.linspace(0, 1, 17)[None, :, None].expand(1, 17, 64).clone()
    report = fit(encoder, source.state_dict(), "file.pth")
    assert (report.adapted, report.other_shape, report.missing) == (["pos_embed"], [], [])
    assert torch.equal(encoder.pos_embed[:, 0], source.pos_embed[:, 0])
    assert encoder.pos_embed[0, 1:, 0].diff().view(-1)[:5].min() > 0  # along the first row of 6 patches


def test_weights_of_another_network_are_refused_and_nothing_is_loaded() -> None:
    encoder = fresh("tiny")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(UserError, match=r"x.pth: only \d of the encoder's 10 tensors are in it: it holds conv1.w"):
        fit(encoder, fresh("resnet18").state_dict(), "x.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("sprung",)


def test_a_file_that_wants_to_run_code_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": fresh("tiny").state_dict(), "trap": Trap()}, "trap.pt")
    with pytest.raises(UserError, match=r"trap.pt: holds \w+.mkdir, which only running its code could") as error:
        read_tensors(Path("trap.pt"))
    assert "\n" not in str(error.value)
    assert not Path("sprung").exists()


def test_training_options_beside_the_weights_do_not_matter(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(3)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "mae.pth")
    assert list(read_tensors(tmp_path / "mae.pth")) == ["model.w"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"", "a.pt: is damaged, or no file of weights; bring it again"),
        ("a.pth", b"<html>not found</html>", "a.pth: is damaged, or no file of weights"),
        ("a.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "a.safetensors: is damaged, or no file of weights"),
        ("a.json", json.dumps({}).encode(), "a.json: is damaged, or no file of weights"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_tensors(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(error.value)


def test_a_truncated_file_an_empty_table_and_a_missing_file_are_told(tmp_path: Path) -> None:
    torch.save(fresh("tiny").state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-999])
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name, message in (("cut.pt", "is damaged"), ("empty.pt", "holds no tensors"), ("no.pt", "does not exist")):
        with pytest.raises(UserError, match=message):
            read_tensors(tmp_path / name)
    with pytest.raises(UserError, match=r"encoder.checkpoint: .*/checkpoints/last.pt does not exist"):
        read_tensors(tmp_path)


def test_published_torchvision_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = moved(fresh("resnet18", stem="imagenet"))
    head = {"fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(source.state_dict() | head, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    config = EncoderConfig(name="resnet18", stem="imagenet", pretrained=True)
    encoder = fresh("resnet18", stem="imagenet")
    lines = load_encoder_weights(encoder, config, SHAPE)
    assert lines[0] == "encoder: 100 of 100 tensors loaded from the published weights of resnet18"
    assert_same(encoder, source)


def test_published_timm_weights_are_fetched_for_these_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    source = moved(timm.create_model("test_resnet"))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **more: source.state_dict())
    monkeypatch.setattr("timm.models._builder.has_hf_hub", lambda necessary=False: True)
    config = EncoderConfig(name="timm:test_resnet", pretrained=True)
    encoder, before = fresh(shape=(1, 32, 32)), torch.random.get_rng_state()
    lines = load_encoder_weights(encoder, config, (1, 32, 32))
    assert lines == ["encoder: 75 of 75 tensors loaded from the published weights of timm:test_resnet"]
    assert torch.equal(encoder.layer4[0].bn1.running_var, source.layer4[0].bn1.running_var)
    assert encoder.conv1[0].weight.shape[1] == 1
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("library", ["timm:", ""])
def test_without_a_network_the_user_is_told_which_file_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    def fails(*args: Any, **more: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fails)
    monkeypatch.setattr("torch.hub.download_url_to_file", fails)
    origin = "huggingface.co/timm/resnet18.a1_in1k" if library else "download.pytorch.org/models/resnet18-f37072fd.pth"
    with pytest.raises(UserError) as error:
        load_encoder_weights(fresh("tiny"), EncoderConfig(name=f"{library}resnet18", pretrained=True), SHAPE)
    assert str(error.value) == (
        f"encoder.pretrained: {library}resnet18 could not be fetched (no route); "
        f"bring a file from https://{origin} and set encoder.checkpoint=FILE"
    )


def test_a_network_without_published_weights_is_told() -> None:
    with pytest.raises(UserError, match="encoder.pretrained: nobody publishes weights of small; set it to false"):
        load_encoder_weights(fresh("tiny"), EncoderConfig(name="small", pretrained=True), SHAPE)


def test_without_a_start_nothing_is_touched_or_told() -> None:
    encoder, other = fresh("tiny"), fresh("tiny")
    other.load_state_dict(encoder.state_dict())
    assert load_encoder_weights(encoder, EncoderConfig(name="tiny"), SHAPE) == []
    assert_same(encoder, other)
