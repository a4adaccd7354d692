"""Where an encoder starts from: published weights, or a file of ours or of others, with an account of what fitted.

The encoder's tensors are looked for under the prefix where most of them match by name and shape, so that wrappings
such as 'state_dict.module.encoder_q.' need no rules of their own.
"""

import logging
import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.parts.encoders import EncoderConfig, ImageShape, timm_net
from models.parts.weight_files import Table, read_tensors
from utils import distributed
from utils.compat import prepare_torchvision
from utils.errors import UserError

SHOWN = 5  # names in a line of the report


@dataclass(frozen=True)
class Report:
    """What became of the tensors of an encoder (loaded, adapted, missing, other_shape) and of a file (unexpected)."""

    source: str
    prefix: str
    loaded: list[str]
    adapted: list[str]
    missing: list[str]
    other_shape: list[str]
    unexpected: list[str]

    def lines(self) -> list[str]:
        """One readable line for each kind that there is."""
        fitted = len(self.loaded) + len(self.adapted)
        total = fitted + len(self.missing) + len(self.other_shape)
        under = f" ({self.prefix})" if self.prefix else ""
        told = [f"encoder: {fitted} of {total} tensors loaded from {self.source}{under}"]
        kinds = {
            "adapted to these images": self.adapted,
            "not in it, left at initialisation": self.missing,
            "of another shape in it, left at initialisation": self.other_shape,
            "in it but not in the encoder": self.unexpected,
        }
        for kind, names in kinds.items():
            if names:
                more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                told.append(f"encoder: {len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
        return told


def load_encoder_weights(encoder: nn.Module, config: EncoderConfig, image_shape: ImageShape) -> list[str]:
    """Start `encoder` as `encoder.pretrained` or `encoder.checkpoint` says; returns what to tell the user. Collective.

    To be called once, for a new run, before the method copies the encoder. Without either nothing happens. Raises
    UserError for weights that cannot be fetched or read, or that are of another network; nothing is loaded then.
    """
    if config.checkpoint is not None:
        return fit(encoder, read_tensors(config.checkpoint), str(config.checkpoint)).lines()
    if config.pretrained:
        table = distributed.once_per_machine(lambda: published(config, image_shape))
        return fit(encoder, table, f"the published weights of {config.name}").lines()
    return []


def fit(encoder: nn.Module, tensors: Table, source: str) -> Report:
    """Copy into `encoder` what fits of `tensors`, names and all; `source` says in messages where they come from.

    Of several networks in one file that fit equally well the first is taken: the online one, not its target.

    Raises:
        UserError: fewer than half of the encoder's tensors fit: they are of another network.
    """
    wanted = {name: tensor for name, tensor in encoder.state_dict().items() if _counts(name)}
    children = [name for name, child in encoder.named_children() if any(_counts(key) for key in child.state_dict())]
    candidates = [_under_best_prefix(table, wanted) for table in (tensors, _named(tensors, children))]
    prefix, given = max(candidates, key=lambda candidate: _n_fitting(candidate[1], wanted))
    values: Table = {}
    loaded, adapted, missing, other_shape = [], [], [], []
    for name, tensor in wanted.items():
        if name not in given:
            missing.append(name)
        elif given[name].shape == tensor.shape:
            values[name] = given[name]
            loaded.append(name)
        elif (value := _adapted(name, given[name], tensor, encoder)) is not None:
            values[name] = value
            adapted.append(name)
        else:
            other_shape.append(f"{name} {_shape(given[name])} for {_shape(tensor)}")
    if 2 * len(values) < len(wanted):
        raise UserError(
            source,
            f"only {len(values)} of the encoder's {len(wanted)} tensors are in it: it holds "
            f"{', '.join(list(tensors)[:2]) or 'none'} ..., the encoder {', '.join(list(wanted)[:2])} ...",
            "it is of another network: set encoder.name and encoder.stem to that, or choose another file",
        )
    with torch.no_grad():
        for name, value in values.items():
            wanted[name].copy_(value)
    unexpected = [name for name in given if name not in wanted and _counts(name)]
    return Report(source, prefix, loaded, adapted, missing, other_shape, unexpected)


def published(config: EncoderConfig, image_shape: ImageShape) -> Table:
    """The state dict that timm or torchvision publish for this network, from the cache or the network."""
    prepare_torchvision()
    import timm
    from torchvision.models import get_model_weights, list_models

    name = config.name.removeprefix("timm:")
    of_timm = config.name != name
    if not (timm.is_model_pretrained(name) if of_timm else name in list_models()):
        raise UserError("encoder.pretrained", f"nobody publishes weights of {config.name}", "set it to false")
    origin = ""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each of its tries without a network is a warning
    try:
        if of_timm:
            published_as = timm.get_pretrained_cfg(name)
            origin = f"https://huggingface.co/{published_as.hf_hub_id}" if published_as else "timm"
            with torch.random.fork_rng(devices=[]):  # the random weights under the published ones are nobody's draws
                return timm_net(config, image_shape, pretrained=True).state_dict()
        weights = get_model_weights(name).DEFAULT
        origin = weights.url
        return weights.get_state_dict(progress=distributed.is_main(), check_hash=True, weights_only=True)
    except Exception as error:  # each library has its own for a missing network
        reason = str(error).strip().partition("\n")[0]
        remedy = f"bring a file from {origin} and set encoder.checkpoint=FILE"
        raise UserError("encoder.pretrained", f"{config.name} could not be fetched ({reason})", remedy) from None


def _counts(name: str) -> bool:
    """Whether a tensor is part of what a network computes."""
    return not name.endswith("num_batches_tracked")


def _under_best_prefix(tensors: Table, wanted: Table) -> tuple[str, Table]:
    """The prefix under which most of `wanted` lies, and all tensors under it without it; the first of equals."""
    fitting: Counter[str] = Counter()
    for name, tensor in tensors.items():
        parts = name.split(".")
        for start in range(len(parts)):
            own = wanted.get(".".join(parts[start:]))
            if own is not None and own.shape == tensor.shape:
                fitting[".".join(parts[:start])] += 1
    prefix = max(fitting, key=lambda each: fitting[each], default="")
    before = f"{prefix}." if prefix else ""
    return prefix, {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}


def _n_fitting(given: Table, wanted: Table) -> int:
    return sum(name in given and given[name].shape == tensor.shape for name, tensor in wanted.items())


def _named(tensors: Table, children: list[str]) -> Table:
    """`tensors` with the numbers of an `nn.Sequential` of a network's children replaced by the children's names.

    Many, the earlier ProPos repository too, save a ResNet so: 0, 1, 4, 5, 6, 7 are conv1, bn1, layer1 to layer4.
    """
    numbers: defaultdict[str, set[str]] = defaultdict(set)
    for name in tensors:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if part.isdecimal() and _counts(name):
                numbers[".".join(parts[:place])].add(part)
    names = {
        (parent, number): child
        for parent, found in numbers.items()
        if len(found) >= len(children)
        for number, child in zip(sorted(found, key=int), children, strict=False)
    }
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        for place, part in enumerate(parts):
            if (parent := ".".join(parts[:place]), part) in names:
                parts[place] = names[parent, part]
                break
        renamed[".".join(parts)] = tensor
    return renamed


def _adapted(name: str, given: Tensor, wanted: Tensor, encoder: nn.Module) -> Tensor | None:
    """First-layer weights for another number of channels, position embeddings for another image size; else None."""
    prepare_torchvision()
    from timm.layers import resample_abs_pos_embed
    from timm.models import adapt_input_conv

    if given.ndim == 4 and given.shape[1] == 3 and given.shape[2:] == wanted.shape[2:] and len(given) == len(wanted):
        return adapt_input_conv(wanted.shape[1], given)
    grid = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    if name == "pos_embed" and grid is not None and given.ndim == 3 and given.shape[2] == wanted.shape[2]:
        tokens = wanted.shape[1] - math.prod(grid)  # in front of the patches
        side = math.isqrt(given.shape[1] - tokens)
        if side**2 + tokens == given.shape[1]:
            return resample_abs_pos_embed(given, list(grid), [side, side], num_prefix_tokens=tokens)
    return None


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "scalar"
