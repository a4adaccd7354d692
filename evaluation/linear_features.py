"""Features that linear classifiers see: the encoder's output, or a ViT's tokens side by side, each kind a slice."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from utils.errors import UserError

BLOCKS = 4  # of the last, those whose class tokens are read


def reader(encoder: nn.Module, width: int, tokens: Sequence[str]) -> tuple[Callable[[Tensor], Tensor], list[slice]]:
    """(images (B, C, H, W) to features (B, W), where in these each of `tokens` lies).

    Of a ViT, W is five times its width: the normalised class tokens of its last four blocks, then the mean of the last
    one's patch tokens (DINO, DINOv2): every kind of `tokens` is one slice of that.

    Raises:
        UserError: tokens asked of another network than a timm ViT with a class token.
    """
    if list(tokens) == ["output"]:
        return encoder, [slice(0, width)]
    layers = getattr(encoder, "get_intermediate_layers", None)
    if layers is None or getattr(encoder, "cls_token", None) is None:
        raise UserError("method.tokens", f"{type(encoder).__name__} has no class tokens", "leave it at [output]")
    depth = min(BLOCKS, len(encoder.blocks))  # type: ignore[arg-type]

    def read(images: Tensor) -> Tensor:
        found = layers(images, n=depth, norm=True, return_prefix_tokens=True)
        return torch.cat([*(prefix[:, 0] for _, prefix in found), found[-1][0].mean(1)], dim=1)

    end, stops = depth * width, {"": depth * width, "+mean": (depth + 1) * width}
    starts = {"last1": end - width, "last4": 0}
    return read, [slice(starts[kind[:5]], stops[kind[5:]]) for kind in tokens]
