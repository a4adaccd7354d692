"""PICA: partition confidence maximisation (Huang, Gong and Zhu, CVPR 2020)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig, head_clusters
from models.parts.heads import MLP
from models.parts.partition import partition_confidence
from models.state import ClusterState, FeatureShard
from utils.clock import Clock
from utils.errors import UserError


class PICAConfig(MethodConfig):
    """PICA: clusters are to be found again in changed images; heads of more clusters help, one after the other."""

    name: Literal["pica"] = Field("pica", description="the method")
    over_clusters: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (70,), description="numbers of clusters of the over-clustering heads, which learn before the target head does"
    )
    balance_weight: float = Field(2.0, ge=0, description="weight of the negative entropy of the cluster sizes")


class PICA(Method):
    """Encoder with linear cluster heads that take turns; an image's cluster is the target head's most probable.

    Views: the image, hardly changed, then one or more that are strongly changed.
    """

    Config = PICAConfig
    exact_under_accumulation = False
    embed_name = "encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: PICAConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        self.cluster_heads = nn.ModuleList(MLP(feature_dim, width, width, n_layers=1) for width in self.heads)
        last_to_first = (*range(1, len(self.heads)), 0)  # the target head learns last
        self.head_of = {f"head {number}": number for number in last_to_first}
        self.phases = tuple(self.head_of)
        if config.over_clusters:  # images of other classes too: none of the target's clusters need be theirs
            self.head_of[UNLABELLED] = 1

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.n_clusters, *self.config.over_clusters)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        if len(batch.views) < 2:
            raise UserError("views.n_views", "1: PICA compares an image with changed ones", "use 2 or more")
        original, *changed = self._features(batch.views)  # each (B, feature_dim)
        carry = {"features": torch.stack([original, changed[0]], 1).detach()}
        chosen = self.head_of.get(batch.phase)
        # every learnable parameter takes part in every step, which is what DistributedDataParallel expects
        idle = 0 * sum(p.sum() for head in self._idle(batch.phase) for p in head.parameters())
        if chosen is None:
            return {"loss": idle, "carry": carry}
        head = self.cluster_heads[chosen]
        probabilities = [torch.softmax(head(view), dim=1) for view in (original, *changed)]  # each (B, K)
        confidence, entropy = partition_confidence(probabilities[0], probabilities[1:])
        loss = confidence + self.config.balance_weight * entropy + idle
        return {"loss": loss, "confidence": confidence, "negative_entropy": entropy, "carry": carry}

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        """An idle head has no gradient, not one of zero, with which Adam would still move it."""
        for head in self._idle(phase):
            for parameter in head.parameters():
                parameter.grad = None

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.encoder(images), dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        return torch.cat([torch.softmax(head(features), dim=1) for head in self.cluster_heads], 1)

    def classifier(self, state: ClusterState) -> nn.Linear:
        return self.cluster_heads[0][0]  # type: ignore[index]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        return head_clusters(shard, self.n_clusters)

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        return torch.softmax(self.cluster_heads[0](self.encoder(images)), dim=1)

    def _features(self, views: list[Tensor]) -> list[Tensor]:
        """The image and the changed ones have their own BatchNorm statistics, or all share them."""
        if self.config.views_in_one_forward:
            return forward_views(self.encoder, views, joint=True)
        return [self.encoder(views[0]), *forward_views(self.encoder, views[1:], joint=True)]

    def _idle(self, phase: str) -> list[nn.Module]:
        """What learns nothing in `phase`: the other heads; everything, where only a head that is not there would."""
        chosen = self.head_of.get(phase)
        if chosen is None:
            return [self]
        return [head for number, head in enumerate(self.cluster_heads) if number != chosen]
