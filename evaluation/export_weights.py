"""The encoder's weights alone: a safetensors file, and the folder that timm loads (and a model hub shows)."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from evaluation.export_contents import Contents
from models.parts.encoders import ENCODERS, build_encoder, resnet, timm_net
from utils.compat import prepare_torchvision
from utils.errors import UserError
from utils.files import write_text

PREPARE = """mean, std = torch.tensor({mean})[:, None, None], torch.tensor({std})[:, None, None]
images = (pixels - mean) / std
"""
EDGES = """across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
sobel = torch.stack([across, across.T])[:, None]
images = torch.nn.functional.conv2d(images.mean(1, keepdim=True), sobel, padding=1)  # the encoder sees edges
"""
RUN = """with torch.no_grad():
    outputs = {"feature": network(images)}
"""


def write_safetensors(contents: Contents, folder: Path) -> str:
    """Write model.safetensors with its metadata; returns the code that builds the network, loads and calls it.

    Raises:
        UserError: the network cannot be told in a few lines of torch, torchvision or timm, or clusters are asked for.
    """
    build = _code_of(contents)
    facts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in contents.facts().items()}
    save_file(_weights(contents), folder / "model.safetensors", facts)
    return f"""import torch
from safetensors.torch import load_file
{build}
network.load_state_dict(load_file("model.safetensors"))
network.eval()
{_prepare(contents)}{RUN}"""


def write_timm(contents: Contents, folder: Path) -> str:
    """Write model.safetensors and config.json as timm does; returns the code that loads and calls the network.

    Raises:
        UserError: timm has no such network, or cannot say what its input is.
    """
    network = _timm_network(contents)
    if contents.run.settings.views.sobel:
        problem = "timm's layout cannot say that the encoder sees edges (views.sobel)"
        raise UserError("--to timm", problem, "use safetensors, torch-export or onnx")
    from timm.models import save_for_hf

    network.load_state_dict(_weights(contents))
    mean, std = contents.normal
    views, data = contents.run.settings.views, contents.run.settings.data
    seen = {
        "input_size": contents.shape,
        "interpolation": "bicubic",
        "crop_pct": views.test_crop,
        "crop_mode": "squash" if data.resize == "squash" else "center",
        "mean": mean,
        "std": std,
    }
    facts = {"license": "see MODEL_CARD.md", "notes": [json.dumps(contents.facts())], "tag": contents.what}
    save_for_hf(network, str(folder), model_config={"pretrained_cfg": facts}, data_config=seen, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    origins = ("url", "hf_hub_id", "origin_url", "paper_ids", "paper_name", "description", "label_names")
    kept = {name: value for name, value in config["pretrained_cfg"].items() if name not in origins}
    write_text(folder / "config.json", json.dumps({**config, "pretrained_cfg": kept}, indent=2))
    return f"""import timm
import torch

network = timm.create_model("local-dir:.", pretrained=True).eval()
{_prepare(contents)}{RUN}"""


def _weights(contents: Contents) -> dict[str, Tensor]:
    """The encoder's tensors in float32, by the names that the network has without our own BatchNorm."""
    tensors = contents.run.method.final_encoder.state_dict()
    return {
        name: (value.float() if value.is_floating_point() else value).contiguous().clone()
        for name, value in tensors.items()
    }


def _code_of(contents: Contents) -> str:
    """Lines that build `network` with random weights."""
    run = contents.run
    config = run.settings.encoder
    name = config.name.removeprefix("timm:")
    if name != config.name:
        arguments = _timm_arguments(timm_net(config, run.views.output_shape))
        words = "".join(f", {key}={value!r}" for key, value in arguments.items())
        return f"import timm\n\nnetwork = timm.create_model({name!r}{words})"
    if ENCODERS[config.name] is resnet:
        network = resnet(config, run.views.output_shape)
        lines = ["from torch import nn", f"from torchvision.models import {name}", "", f"network = {name}()"]
        parts = [f"network.{part} = {_call(getattr(network, part))}" for part in ("conv1", "maxpool", "fc")]
        return "\n".join(lines + parts)
    network, _ = build_encoder(config, run.views.output_shape)
    layers = list(network.children())
    if type(network) is not nn.Sequential or any(list(layer.children()) or not _of_torch(layer) for layer in layers):
        problem = f"{name} is a network that only its own code can build"
        raise UserError("--to safetensors", problem, "use torch-export or onnx, which hold the code too")
    calls = [f"    {_call(layer)}," for layer in layers]
    return "\n".join(["from torch import nn", "", "network = nn.Sequential(", *calls, ")"])


def _call(layer: nn.Module) -> str:
    """The constructor's call: what torch shows of a layer, which is how it is made again."""
    return f"nn.{layer!r}"


def _of_torch(layer: nn.Module) -> bool:
    return getattr(nn, type(layer).__name__, None) is type(layer)


def _prepare(contents: Contents) -> str:
    """Lines from `pixels` to what the network takes."""
    mean, std = ([round(value, 9) for value in values] for values in contents.normal)
    return PREPARE.format(mean=mean, std=std) + (EDGES if contents.run.settings.views.sobel else "")


def _timm_network(contents: Contents) -> nn.Module:
    """One of timm that the encoder's weights fit, random. Raises UserError where there is none."""
    run = contents.run
    config, shape = run.settings.encoder, run.views.output_shape
    if config.name.startswith("timm:"):
        return timm_net(config, shape)
    if ENCODERS[config.name] is not resnet:
        raise UserError("--to timm", f"timm has no network like {config.name}", "use safetensors, torch-export or onnx")
    if config.stem != "imagenet":
        problem = f"timm's {config.name} has another first layer than encoder.stem={config.stem}"
        raise UserError("--to timm", problem, "use safetensors, torch-export or onnx")
    prepare_torchvision()
    import timm

    return timm.create_model(config.name, num_classes=0, in_chans=shape[0])


def _timm_arguments(network: nn.Module) -> dict[str, Any]:
    """What `timm.create_model` needs to make the network again, as timm has written it down."""
    from timm.models._input import get_model_args

    return get_model_args(network)
