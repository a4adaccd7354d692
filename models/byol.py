"""BYOL: bootstrap your own latent (Grill et al., NeurIPS 2020, arXiv 2006.07733)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig
from models.parts.ema import ema_update, make_target
from models.parts.heads import online_and_predictor
from models.state import ClusterState
from utils import schedules
from utils.clock import Clock


class BYOLConfig(MethodConfig):
    """BYOL: predict the target network's projection of the other view."""

    name: Literal["byol"] = Field("byol", description="the method")
    hidden_dim: int = Field(4096, ge=1, description="hidden width of projector and predictor")
    projection_dim: int = Field(256, ge=1, description="width of the projection")
    head_bias: bool = Field(True, description="biases before the heads' BatchNorm")
    ema_momentum: float = Field(0.996, ge=0, le=1, description="momentum of the target network")
    ema_momentum_final: float | None = Field(
        1.0, ge=0, le=1, description="cosine from ema_momentum to this; null: constant"
    )
    symmetric: Literal["mean", "sum"] = Field("mean", description="the two directions: mean (ProPos), sum (paper)")


def byol_loss(predictions: Tensor, projections: Tensor) -> Tensor:
    """Mean of 2 - 2 cos over pairs: 0 when they agree, 4 when opposed. Grill et al. 2020, eq. 2.

    predictions (B, D): online side, carries the gradient. projections (B, D): target side, detached here.

    >>> byol_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
    tensor(2.)
    """
    predictions, projections = F.normalize(predictions, dim=1), F.normalize(projections.detach(), dim=1)
    return (2 - 2 * (predictions * projections).sum(1)).mean()


class BYOL(Method):
    """Online network with predictor, EMA target; no negatives, no clusters."""

    Config = BYOLConfig
    embed_name = "target projection"
    encode_name = "target encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: BYOLConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config = config
        self.online, self.predictor = online_and_predictor(
            encoder,
            feature_dim,
            hidden_dim=config.hidden_dim,
            projection_dim=config.projection_dim,
            bias=config.head_bias,
        )
        self.target = make_target(self.online)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        joint = self.config.views_in_one_forward
        projections = forward_views(self.online, batch.views, joint)  # two of (B, D)
        with torch.no_grad():
            target_first, target_second = forward_views(self.target, batch.views, joint)
        first, second = forward_views(self.predictor, projections, joint)
        loss = byol_loss(first, target_second) + byol_loss(second, target_first)
        if self.config.symmetric == "mean":
            loss = loss / 2
        return {"loss": loss, "carry": {"features": torch.stack(projections, 1).detach()}}

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        momentum = schedules.ema_momentum(self.config.ema_momentum, self.config.ema_momentum_final, clock)
        ema_update(self.target, self.online, momentum)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.target(images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.target[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.online.parameters()), "predictor": list(self.predictor.parameters())}
