"""PCL: prototypical contrastive learning (Li et al., ICLR 2021, arXiv 2005.04966)."""

from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method
from models.parts.centers import EStepConfig, kmeans_states
from models.parts.momentum import MomentumConfig, MomentumContrast
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

SMOOTHING = 10  # rows that soften the concentration of small clusters


class PCLConfig(MomentumConfig):
    """PCL: momentum contrast, and images find their prototype among those of several clusterings."""

    name: Literal["pcl"] = Field("pcl", description="the method")
    warmup_epochs: int = Field(20, ge=0, description="epochs of momentum contrast alone, without prototypes")
    queue_size: int = Field(16384, ge=1, description="past keys that are the negatives of the instance loss")
    n_prototypes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (250, 500, 1000), min_length=1, description="prototypes of each clustering"
    )
    prototype_weight: float = Field(1.0, ge=0, description="weight of the prototypes' loss")


class PCL(Method):
    """Momentum contrast with prototypes: several numbers of clusters of the target's projections, each epoch anew."""

    Config = PCLConfig
    own_e_step_every = 1
    embed_name = "target projection"
    encode_name = "target encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: PCLConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        if estep.algorithm != "kmeans":
            raise UserError("estep.algorithm", f"{estep.algorithm}: PCL needs centers of kmeans", "use kmeans")
        self.config = config
        self.contrast = MomentumContrast(encoder, feature_dim, config)

    @property
    def first_e_step_epoch(self) -> int | None:
        return self.config.warmup_epochs

    def prepare(self, n_rows: int, n_extra: int) -> None:
        most = max(self.config.n_prototypes)
        if most > n_rows:
            raise UserError("method.n_prototypes", f"{most} prototypes of {n_rows} images", f"use {n_rows} or fewer")

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        queries, instance, carry = self.contrast(batch)
        if state is None or clock.whole_epochs < self.config.warmup_epochs:
            return {"loss": instance, "instance": instance, "carry": carry}
        directions = [self._prototype_loss(query, batch.rows, state) for query in queries]
        prototypes = self.contrast.combine(directions)
        loss = instance + self.config.prototype_weight * prototypes
        return {"loss": loss, "instance": instance, "prototypes": prototypes, "carry": carry}

    def partners(self, rows: Tensor, draws: Draws, state: ClusterState | None, clock: Clock) -> Tensor | None:
        return self.contrast.partners(rows, draws)

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        self.contrast.after_step(carry, clock)

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        """Clusters into K, which are scored, and as `levels` into each of `n_prototypes`, all at once. Collective."""
        n_init = self.estep.final_n_init if clock.finished else self.estep.n_init
        scored, *others = kmeans_states(shard, self.estep, [self.n_clusters, *self.config.n_prototypes], n_init, state)
        return replace(scored, levels=tuple(_level(shard, level, self.config.temperature) for level in others))

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.contrast.target(images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.contrast.target[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.contrast.online.parameters())}

    def _prototype_loss(self, queries: Tensor, rows: Tensor, state: ClusterState) -> Tensor:
        """The mean over clusterings."""
        losses = []
        for level in state.levels:
            assert level.labels is not None and level.centers is not None and level.density is not None
            losses.append(prototype_loss(queries, level.labels[rows], level.centers, level.density))
        return torch.stack(losses).mean()


def prototype_loss(queries: Tensor, labels: Tensor, prototypes: Tensor, density: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy of finding the own prototype among all K. Local: no other row is read.

    queries: (B, D) of any length, carry the gradient. labels: (B,) the own prototypes. prototypes: (K, D) normalised.
    density: (K,) the temperature of each prototype. Li et al. 2021, eq. 11, with all others as negatives.

    >>> prototype_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), torch.eye(2), torch.ones(2))  # log(e + 1) - 1
    tensor(0.3133)
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = F.normalize(queries.to(torch.promote_types(queries.dtype, torch.float32)), dim=1)
        prototypes, density = prototypes.detach().to(queries.dtype), density.detach().to(queries.dtype)
        return F.cross_entropy(queries @ prototypes.T / density, labels)


def concentrations(distance_sums: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """(K,) temperature of each prototype, small where its cluster is tight; their mean is `temperature`.

    distance_sums: (K,) over each cluster's rows of their distance, not squared, to the prototype. counts: (K,) rows.
    A cluster of one row, or of equal ones, has no extent to measure: it takes the largest of the others. What lies
    outside the percentiles 10 to 90 is clipped to them. Li et al. 2021, eq. 12.

    >>> concentrations(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([4.0, 4.0, 1.0]), 0.2)
    tensor([0.2000, 0.2000, 0.2000])
    """
    measured = (counts > 1) & (distance_sums > 0)
    extents = torch.where(measured, distance_sums / (counts * (counts + SMOOTHING).log()), 0)
    largest = extents.max()
    extents = torch.where(measured, extents, torch.where(largest > 0, largest, 1))
    low, high = torch.quantile(extents, extents.new_tensor([0.1, 0.9])).unbind()
    extents = torch.minimum(torch.maximum(extents, low), high)
    return temperature * extents / extents.mean()


def _level(shard: FeatureShard, state: ClusterState, temperature: float) -> ClusterState:
    """`state` of all ranks' rows as prototypes: normalised centers (K, D) and their concentrations (K,). Collective."""
    assert state.labels is not None and state.centers is not None
    features, labels = F.normalize(shard.features, dim=1), state.labels[shard.rows.to(state.labels.device)]  # own rows
    centers = F.normalize(state.centers, dim=1)
    distances = torch.linalg.vector_norm(features - centers[labels], dim=1)  # (n,)
    own = torch.stack([distances, torch.ones_like(distances)], 1).double()
    totals = own.new_zeros(len(centers), 2).index_add_(0, labels, own)  # (K, 2) sums of distances, counts
    sums, counts = distributed.reduce_sum_(totals).unbind(1)
    density = concentrations(sums, counts, temperature).to(features.dtype)
    return ClusterState(labels=state.labels, centers=centers, density=density)
