"""SimSiam: simple siamese networks (Chen and He, CVPR 2021, arXiv 2011.10566)."""

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig
from models.parts.heads import MLP
from models.state import ClusterState
from utils.clock import Clock


class SimSiamConfig(MethodConfig):
    """SimSiam: predict the other view's projection, through which no gradient flows back."""

    name: Literal["simsiam"] = Field("simsiam", description="the method")
    hidden_dim: int = Field(2048, ge=1, description="width of the projector's layers and of the projection")
    projector_layers: Literal[2, 3] = Field(3, description="layers of the projector: 3, or 2 for small images")
    predictor_dim: int = Field(512, ge=1, description="hidden width of the predictor, which is to be narrow")


def negative_cosine(predictions: Tensor, projections: Tensor) -> Tensor:
    """Mean of -cos over pairs: -1 when they agree, 1 when opposed. Chen and He 2021, eq. 1.

    predictions (B, D): carry the gradient. projections (B, D): of the other view, detached here.

    >>> negative_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(-1.)
    """
    predictions, projections = F.normalize(predictions, dim=1), F.normalize(projections.detach(), dim=1)
    return -(predictions * projections).sum(1).mean()


class SimSiam(Method):
    """One network and a predictor: no target network, no negatives, no clusters."""

    Config = SimSiamConfig

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: SimSiamConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config = config
        dim = config.hidden_dim
        projector = MLP(feature_dim, dim, dim, n_layers=config.projector_layers, bias=False, last_norm=True)
        self.online = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))
        self.predictor = MLP(dim, config.predictor_dim, dim, bias=False)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        joint = self.config.views_in_one_forward
        projections = forward_views(self.online, batch.views, joint)  # two of (B, D)
        first, second = forward_views(self.predictor, projections, joint)
        loss = (negative_cosine(first, projections[1]) + negative_cosine(second, projections[0])) / 2
        return {"loss": loss, "carry": {"features": torch.stack(projections, 1).detach()}}

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.online(images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.online[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.online.parameters()), "predictor": list(self.predictor.parameters())}
