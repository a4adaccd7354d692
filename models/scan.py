"""SCAN: semantic clustering by adopting nearest neighbours (Van Gansbeke et al., ECCV 2020, arXiv 2005.12320)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig, head_clusters
from models.parts.graph import check_neighbors, draw_neighbors, mine_neighbors
from models.parts.head_losses import HeadLosses
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws

SMALLEST = 1e-8  # a cluster's share of the batch counts as at least this much


class SCANConfig(MethodConfig):
    """SCAN: an image and its nearest neighbours get the same cluster, clusters get equally many images."""

    name: Literal["scan"] = Field("scan", description="the method")
    n_heads: int = Field(1, ge=1, description="cluster heads; the one of least loss in the last epoch is read out")
    n_neighbors: int = Field(20, ge=1, description="nearest neighbours of an image, one of which is drawn each time")
    entropy_weight: float = Field(5.0, ge=0, description="weight of the entropy of the cluster sizes")
    include_self: bool = Field(False, description="an image is one of its own neighbours, as in the published lists")


class SCAN(Method):
    """Encoder and linear cluster heads, trained on pairs of neighbours that an encoder learnt before has found.

    The neighbours of the first E-step stay, unless `estep.every_epochs` asks for more E-steps: then each finds its own.
    """

    Config = SCANConfig
    starts_from = "encoder"
    exact_under_accumulation = False
    embed_name = "encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: SCANConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        self.cluster_heads = nn.ModuleList(nn.Linear(feature_dim, n_clusters) for _ in range(config.n_heads))
        self.head_losses = HeadLosses(config.n_heads)

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.n_clusters,) * self.config.n_heads

    @property
    def first_e_step_epoch(self) -> int | None:
        return 0  # neighbours are found once before training

    def prepare(self, n_rows: int, n_extra: int) -> None:
        check_neighbors("method.n_neighbors", self.config.n_neighbors, n_rows)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        if state is None:  # rows without neighbours; every parameter takes part, as DistributedDataParallel expects
            nothing = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0
            return {"loss": nothing, "carry": {"head losses": nothing.detach().expand(1, self.config.n_heads)}}
        views = [batch.views[0], batch.views[-1]]  # the image, and its neighbour: the partner comes last
        features = forward_views(self.encoder, views, self.config.views_in_one_forward)  # two of (B, feature_dim)
        consistency, entropy = neighbor_losses(*map(self._logits, features))  # (H,) each
        losses = consistency - self.config.entropy_weight * entropy  # (H,)
        carry = {"features": features[0][:, None].detach(), "head losses": losses[None].detach()}
        return {"loss": losses.sum(), "consistency": consistency.sum(), "entropy": entropy.sum(), "carry": carry}

    def partners(self, rows: Tensor, draws: Draws, state: ClusterState | None, clock: Clock) -> Tensor | None:
        if state is None or state.neighbors is None:
            return None
        return draw_neighbors(state.neighbors, rows, draws, "scan/neighbor")

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        if phase == UNLABELLED:  # nothing was learnt: neither momentum nor decay moves a weight
            for parameter in self.parameters():
                parameter.grad = None

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        self.head_losses.write(carry["head losses"], clock)

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        """Labels of the head of least loss, and the neighbours. Collective."""
        head = self.head_losses.best()
        clusters = head_clusters(shard, self.n_clusters, int(head))
        neighbors = None if state is None or self.estep.every_epochs is not None else state.neighbors
        if neighbors is None:
            neighbors = mine_neighbors(shard, self.config.n_neighbors)  # (N, k)
            if self.config.include_self:
                itself = torch.arange(len(neighbors), dtype=torch.int32, device=neighbors.device)
                neighbors = torch.cat([itself[:, None], neighbors], 1)
        return ClusterState(clusters.labels, clusters.centers, neighbors=neighbors, extra={"head": head})

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.encoder(images), dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self._logits(self.encoder(images)), dim=2).flatten(1)

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        of_all = self.probabilities(images).unflatten(1, (self.config.n_heads, -1))  # (B, H, K)
        return of_all.index_select(1, state.extra["head"][None]).squeeze(1)

    def classifier(self, state: ClusterState) -> nn.Linear | None:
        head = self.cluster_heads[int(state.extra["head"])]
        assert isinstance(head, nn.Linear)
        return head

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}

    def _logits(self, features: Tensor) -> Tensor:
        """(B, H, K) of all heads, in float32 or wider."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            return torch.stack([head(features) for head in self.cluster_heads], 1)


def neighbor_losses(logits: Tensor, neighbor_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of each head the consistency of neighbours and the entropy of the cluster sizes, (H,) each. Collective.

    Consistency: mean over this rank's rows of -log of the probability that an image and its neighbour, each drawn from
    its own cluster probabilities, fall into one cluster. Entropy: of the images' mean probabilities over all ranks, at
    most log K, equal on every rank. logits, neighbor_logits: (B, H, K) of the images and of one neighbour of each, B
    equal on all ranks; both carry the gradient. In float32 or wider. Van Gansbeke et al. 2020, eq. 2, is consistency -
    weight * entropy.

    >>> even, sure = torch.zeros(2, 1, 2), torch.tensor([[[60.0, 0.0]], [[0.0, 60.0]]])
    >>> neighbor_losses(even, sure)  # log 2, log 2
    (tensor([0.6931]), tensor([0.6931]))
    """
    with torch.autocast(logits.device.type, enabled=False):
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_p, log_q = (F.log_softmax(each.to(wide), dim=2) for each in (logits, neighbor_logits))  # (B, H, K)
        # as a sum of logarithms: where images and neighbours share no cluster, the product would underflow
        consistency = -torch.logsumexp(log_p + log_q, dim=2).mean(0)
        sums = distributed.sum_over_ranks(log_p.exp().sum(0), same_loss=True)  # (H, K)
        sizes = (sums / (len(logits) * distributed.world())).clamp_min(SMALLEST)
        return consistency, -(sizes * sizes.log()).sum(1)
