"""Projector and predictor: small MLPs on top of an encoder."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

NARROW = 1024  # hidden widths below this run in float32: bfloat16 gains nothing there


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: (B, in) to (B, out).

    Under autocast a narrow head computes in float32; a wide one in bfloat16, but what it gives, from which losses are
    computed, is float32.

    n_layers: Linear layers; 1 is a linear map. norm: BatchNorm before each ReLU. bias: of the Linears before these.
    last_norm: a BatchNorm without weight and bias at the end, as SimSiam has it.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        n_layers: int = 2,
        norm: bool = True,
        bias: bool = True,
        last_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(n_layers - 1):
            layers.append(nn.Linear(width, hidden_dim, bias=bias or not norm))
            layers += [nn.BatchNorm1d(hidden_dim)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            width = hidden_dim
        layers.append(nn.Linear(width, out_dim, bias=not last_norm))
        layers += [nn.BatchNorm1d(out_dim, affine=False)] if last_norm else []
        super().__init__(*layers)
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
