"""SimCLR: a simple framework for contrastive learning (Chen et al., ICML 2020, arXiv 2002.05709)."""

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig
from models.parts.contrastive import nt_xent
from models.parts.heads import MLP
from models.state import ClusterState
from utils.clock import Clock


class SimCLRConfig(MethodConfig):
    """SimCLR: find an image's other view among the views of the whole batch."""

    name: Literal["simclr"] = Field("simclr", description="the method")
    views_in_one_forward: bool = Field(True, description="both views through the network at once: statistics over both")
    projection_dim: int = Field(128, ge=1, description="width of the projection")
    hidden_dim: int | None = Field(None, ge=1, description="hidden width of the projector; null: the encoder's width")
    temperature: float = Field(0.5, gt=0, description="temperature of the similarities")


class SimCLR(Method):
    """Encoder and projector; every other row of the batch is a negative. What is clustered is the encoder's output."""

    Config = SimCLRConfig
    exact_under_accumulation = False
    embed_name = "encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: SimCLRConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config = config
        projector = MLP(feature_dim, config.hidden_dim or feature_dim, config.projection_dim, norm=False)
        self.online = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        projections = forward_views(self.online, batch.views, self.config.views_in_one_forward)  # two of (B, D)
        loss = nt_xent(*projections, temperature=self.config.temperature)
        return {"loss": loss, "carry": {"features": torch.stack(projections, 1).detach()}}

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.encode(images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.online[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.online.parameters())}
