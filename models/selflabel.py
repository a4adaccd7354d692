"""Self-labelling, a second stage on any clusters (Van Gansbeke et al., ECCV 2020, arXiv 2005.12320, section 2.3)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.method import Losses, Method, MethodConfig
from models.parts.centers import EStepConfig, head_clusters
from models.parts.linear_fit import fit_linear
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock


class SelfLabelConfig(MethodConfig):
    """Self-labelling: images of which the network is sure teach it their strongly changed views."""

    name: Literal["selflabel"] = Field("selflabel", description="the method")
    views_in_one_forward: Literal[False] = Field(False, description="weak and strong views have own statistics")
    threshold: float = Field(0.99, ge=0, lt=1, description="an image counts where its best probability is above this")
    balanced: bool = Field(True, description="every cluster that has such images weighs the same")


class SelfLabel(Method):
    """Encoder and one linear cluster head. View 1 is weak and gives the label, view 2 is strong and learns it."""

    Config = SelfLabelConfig
    starts_from = "clusters"
    exact_under_accumulation = False
    embed_name = "encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: SelfLabelConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        self.cluster_head = nn.Linear(feature_dim, n_clusters)

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.n_clusters,)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        if batch.phase == UNLABELLED:  # images of other classes too: none of these clusters need be theirs
            # every learnable parameter takes part in every step, which is what DistributedDataParallel expects
            return {"loss": torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0}
        with torch.no_grad():  # in train mode: its batch statistics are those that the strong views meet
            weak = self.encoder(batch.views[0])  # (B, feature_dim)
            weak_logits = self._logits(weak)  # (B, K)
        strong = self.encoder(batch.views[1])
        loss, selected = confident_cross_entropy(
            weak_logits, self._logits(strong), threshold=self.config.threshold, balanced=self.config.balanced
        )
        return {"loss": loss, "selected": selected, "carry": {"features": torch.stack([weak, strong.detach()], 1)}}

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        if phase == UNLABELLED:  # nothing was learnt: neither momentum nor decay moves a weight
            for parameter in self.parameters():
                parameter.grad = None

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        return head_clusters(shard, self.n_clusters)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.encoder(images), dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self._logits(self.encoder(images)), dim=1)

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        return self.probabilities(images)

    def classifier(self, state: ClusterState) -> nn.Linear | None:
        return self.cluster_head

    @torch.no_grad()
    def adopt(self, other: Method, state: ClusterState, shard: FeatureShard) -> str:
        """Take over the linear head of `other`, or fit one to its labels where it has none. Collective."""
        assert shard.probabilities is not None
        labels = shard.probabilities[0].argmax(1)  # (n,)
        given = other.classifier(state)
        head = fit_linear(shard.features, labels, self.n_clusters) if given is None else given
        self.cluster_head.weight.copy_(head.weight)
        self.cluster_head.bias.copy_(head.bias)
        confidence, own = torch.softmax(self._logits(shard.features), dim=1).max(1)
        counts = torch.stack([(own == labels).sum(), (confidence > self.config.threshold).sum()]).double()
        kept, sure = (distributed.reduce_sum_(counts) / shard.n_rows).tolist()
        done = "a linear head fitted to the clusters" if given is None else "cluster head taken over"
        passing = f"{sure:.1%} pass method.threshold={self.config.threshold:g}"
        return f"{done}: {kept:.1%} of the images keep their label, {passing}"

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}

    def _logits(self, features: Tensor) -> Tensor:
        """(B, K) in float32 or wider."""
        with torch.autocast(features.device.type, enabled=False):
            return self.cluster_head(features.to(torch.promote_types(features.dtype, torch.float32)))


def confident_cross_entropy(
    weak_logits: Tensor, strong_logits: Tensor, *, threshold: float, balanced: bool
) -> tuple[Tensor, Tensor]:
    """This rank's part of the cross-entropy of confident labels, and the share of all rows that is confident.

    A row's label is the most probable entry of its weak logits; it counts where that probability is above `threshold`.
    The mean over ranks is the mean over all rows that count (balanced: over clusters of the mean over their rows), 0
    with zero gradient where there are none. weak_logits: (B, K), get no gradient; strong_logits: (B, K), carry it; B
    equal on all ranks. Only K counts travel; in float32 or wider. Van Gansbeke et al. 2020, section 2.3. Collective.

    >>> weak, strong = torch.tensor([[9.0, 0.0], [0.0, 9.0], [1.0, 0.0]]), torch.tensor([[0.0, 0], [0, 2], [5, 0]])
    >>> confident_cross_entropy(weak, strong, threshold=0.95, balanced=True)  # (log 2 + log(1 + e^-2)) / 2; 2 of 3
    (tensor(0.4100), tensor(0.6667))
    """
    with torch.autocast(strong_logits.device.type, enabled=False):
        wide = torch.promote_types(strong_logits.dtype, torch.float32)
        confidence, labels = torch.softmax(weak_logits.to(wide), dim=1).max(1)  # (B,)
        counted = (confidence > threshold).to(wide)
        counts = counted.new_zeros(strong_logits.shape[1]).index_add_(0, labels, counted)  # (K,)
        counts = distributed.reduce_sum_(counts)
        n_counted, n_present = counts.sum(), (counts > 0).sum()
        below = counts * n_present if balanced else n_counted.expand_as(counts)  # (K,) what a row's loss is divided by
        losses = F.cross_entropy(strong_logits.to(wide), labels, reduction="none") * counted  # (B,)
        loss = distributed.world() * (losses / below.clamp_min(1)[labels]).sum()
        return loss, n_counted / (len(labels) * distributed.world())
