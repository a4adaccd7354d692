"""Projector and predictor: small MLPs on top of an encoder."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

NARROW = 1024  # hidden widths below this run in float32: bfloat16 gains nothing there


class MLP(nn.Sequential):
    """Linear, BatchNorm, ReLU, Linear: (B, in) to (B, out). No BatchNorm at the end.

    Under autocast a narrow head computes in float32; a wide one in bfloat16, but what it gives, from which losses are
    computed, is float32. bias: of the Linear before the BatchNorm.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, *, bias: bool = True) -> None:
        super().__init__(
            nn.Linear(in_dim, hidden_dim, bias=bias),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, out_dim),
        )
        self.narrow = hidden_dim < NARROW

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return super().forward(x)
        if not self.narrow:
            return super().forward(x).float()
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def small_normal_(head: MLP, std: float = 0.01) -> MLP:
    """Draw Linear weights from N(0, std²) and set their biases to 0: the predictor's start in ProPos and BYOL."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return head


def online_and_predictor(
    encoder: nn.Module, feature_dim: int, *, hidden_dim: int, projection_dim: int, bias: bool
) -> tuple[nn.Sequential, MLP]:
    """Encoder and projector in a row, (B, C, H, W) to (B, projection_dim), and the predictor on top of them."""
    projector = MLP(feature_dim, hidden_dim, projection_dim, bias=bias)
    predictor = small_normal_(MLP(projection_dim, hidden_dim, projection_dim, bias=bias))
    return nn.Sequential(OrderedDict(encoder=encoder, projector=projector)), predictor
