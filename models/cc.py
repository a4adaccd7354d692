"""CC: contrastive clustering (Li et al., AAAI 2021, arXiv 2009.09687)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig, head_clusters
from models.parts.contrastive import nt_xent
from models.parts.heads import MLP
from models.parts.partition import negative_entropy
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock

SHORTEST = 1e-8  # a cluster's column counts as at least this long


class CCConfig(MethodConfig):
    """CC: images contrasted as rows, clusters as columns of the matrix of cluster probabilities."""

    name: Literal["cc"] = Field("cc", description="the method")
    projection_dim: int = Field(128, ge=1, description="width of the instance projection")
    hidden_dim: int | None = Field(None, ge=1, description="hidden width of both heads; null: the encoder's width")
    temperature: float = Field(0.5, gt=0, description="temperature of the similarities of images")
    cluster_temperature: float = Field(1.0, gt=0, description="temperature of the similarities of clusters")


class CC(Method):
    """Encoder with an instance head and a cluster head; an image's cluster is the cluster head's most probable."""

    Config = CCConfig
    exact_under_accumulation = False

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: CCConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        hidden_dim = config.hidden_dim or feature_dim
        self.projector = MLP(feature_dim, hidden_dim, config.projection_dim, norm=False)
        self.cluster_head = MLP(feature_dim, hidden_dim, n_clusters, norm=False)

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.n_clusters,)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        features = forward_views(self.encoder, batch.views, self.config.views_in_one_forward)  # two of (B, feature_dim)
        projections = [self.projector(view) for view in features]  # two of (B, D)
        probabilities = [torch.softmax(self.cluster_head(view), dim=1) for view in features]  # two of (B, K)
        instance = nt_xent(*projections, temperature=self.config.temperature)
        carry = {"features": torch.stack(projections, 1).detach()}
        if batch.phase == UNLABELLED:  # images of other classes too: none of these clusters need be theirs
            # every learnable parameter takes part in every step, which is what DistributedDataParallel expects
            return {"loss": instance + 0 * torch.stack(probabilities).sum(), "instance": instance, "carry": carry}
        cluster, entropy = cluster_contrast(*probabilities, temperature=self.config.cluster_temperature)
        loss = instance + cluster + entropy
        return {"loss": loss, "instance": instance, "cluster": cluster, "negative_entropy": entropy, "carry": carry}

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        """The idle cluster head has no gradient, not one of zero, with which momentum and decay would still move it."""
        if phase == UNLABELLED:
            for parameter in self.cluster_head.parameters():
                parameter.grad = None

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(images)), dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self.cluster_head(self.encoder(images)), dim=1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        return head_clusters(shard, self.n_clusters)

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        return self.probabilities(images)


def cluster_contrast(first: Tensor, second: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """The cluster loss and the negative entropy of the cluster sizes, of the global batch. Collective.

    Each cluster is the column of its probabilities over all N rows; it is to be told, by cosine, from the 2K - 2 other
    clusters of both views as its own column in the other view. first, second: (B, K) probabilities of both views of
    this rank's rows, B equal on all ranks; both carry the gradient. Only 2K x 2K products and 2K sums cross ranks, and
    both results are equal on every rank; computed in float32 or wider. Li et al. 2021, eq. 4 to 6.
    """
    with torch.autocast(first.device.type, enabled=False):
        columns = torch.cat([first, second], 1)  # (B, 2K)
        columns = columns.to(torch.promote_types(columns.dtype, torch.float32))
        # one message: every rank computes the same losses from these sums
        packed = torch.cat([columns.T @ columns, columns.sum(0, keepdim=True)])  # (2K + 1, 2K)
        sums = distributed.sum_over_ranks(packed, same_loss=True)
        products, sizes = sums[:-1], sums[-1].view(2, -1)  # (2K, 2K), (2, K)
        # clamped before the root, whose gradient at 0 is infinite: a cluster may underflow in every row
        lengths = products.diagonal().clamp_min(SHORTEST**2).sqrt()
        logits = products / torch.outer(lengths, lengths) / temperature  # (2K, 2K)
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        other_view = torch.arange(len(logits), device=logits.device).roll(first.shape[1])
        loss = F.cross_entropy(logits.masked_fill(itself, -torch.inf), other_view)
        return loss, negative_entropy(sizes / (len(first) * distributed.world()))
