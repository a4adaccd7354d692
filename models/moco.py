"""MoCo v2: momentum contrast with a queue (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., arXiv 2003.04297)."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method
from models.parts.centers import EStepConfig
from models.parts.momentum import MomentumConfig, MomentumContrast
from models.state import ClusterState
from utils.clock import Clock
from utils.draws import Draws


class MoCoConfig(MomentumConfig):
    """MoCo: find the other view's key, of the target network, among the keys of past images."""

    name: Literal["moco"] = Field("moco", description="the method")


class MoCo(Method):
    """Online network, EMA target, a queue of negatives; no clusters."""

    Config = MoCoConfig
    embed_name = "target projection"
    encode_name = "target encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: MoCoConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.contrast = MomentumContrast(encoder, feature_dim, config)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        _, loss, carry = self.contrast(batch)
        return {"loss": loss, "carry": carry}

    def partners(self, rows: Tensor, draws: Draws, state: ClusterState | None, clock: Clock) -> Tensor | None:
        return self.contrast.partners(rows, draws)

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        self.contrast.after_step(carry, clock)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.contrast.target(images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.contrast.target[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.contrast.online.parameters())}
