"""GCC: graph contrastive clustering (Zhong et al., ICCV 2021, arXiv 2104.01429)."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig, head_clusters
from models.parts.graph import check_neighbors, draw_neighbors, mine_neighbors
from models.parts.heads import MLP
from models.parts.partition import partition_confidence
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

Variant = Literal["prob", "fix", "ref"]


class GCCConfig(MethodConfig):
    """GCC: images contrasted together with their neighbours in a graph, clusters with those of a neighbour."""

    name: Literal["gcc"] = Field("gcc", description="the method")
    views_in_one_forward: bool = Field(
        True, description="both views through the network at once: statistics over both; each neighbour has its own"
    )
    warmup_epochs: int = Field(51, ge=0, description="epochs that contrast views alone, without graph and clusters")
    projection_dim: int = Field(128, ge=1, description="width of the projection")
    hidden_dim: int | None = Field(None, ge=1, description="hidden width of the projector; null: the encoder's width")
    n_neighbors: int = Field(5, ge=1, description="neighbours of an image in the graph; clusters contrast one, drawn")
    loss_neighbors: int = Field(3, ge=1, description="the nearest of them, which images are contrasted with")
    temperature: float = Field(0.1, gt=0, description="temperature of the similarities of images")
    rgc: Variant = Field(
        "prob", description="loss of images: prob, a probability; fix, positives over negatives; ref, as published"
    )
    instance_weight: float = Field(2.0, ge=0, description="weight of the loss of images")
    balance_weight: float = Field(2.0, ge=0, description="weight of the negative entropy of the cluster sizes")

    @model_validator(mode="after")
    def _of_the_graph(self) -> "GCCConfig":
        if self.loss_neighbors > self.n_neighbors:
            raise ValueError(f"loss_neighbors {self.loss_neighbors} of n_neighbors {self.n_neighbors}")
        return self


class GCC(Method):
    """Encoder with a projector and a linear cluster head; an image's cluster is the cluster head's most probable.

    After a warm-up each image brings its nearest neighbours of the last E-step and one drawn among all its neighbours.
    """

    Config = GCCConfig
    own_e_step_every = 5
    exact_under_accumulation = False

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: GCCConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        self.projector = MLP(feature_dim, config.hidden_dim or feature_dim, config.projection_dim, norm=False)
        self.cluster_head = MLP(feature_dim, n_clusters, n_clusters, n_layers=1)

    @property
    def first_e_step_epoch(self) -> int | None:
        return self.config.warmup_epochs

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.n_clusters,)

    def prepare(self, n_rows: int, n_extra: int) -> None:
        check_neighbors("method.n_neighbors", self.config.n_neighbors, n_rows)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        if len(batch.views) < 2:
            raise UserError("views.n_views", "1: GCC contrasts two views", "use 2")
        own, config = batch.views[:2], self.config
        features = forward_views(self.encoder, own, config.views_in_one_forward)  # two of (B, feature_dim)
        projections = [self.projector(view) for view in features]  # two of (B, D)
        carry = {"features": torch.stack(projections, 1).detach()}
        graph = self._graph(state, clock)
        if graph is None:
            instance = self._instance(projections, [], None)
            # every learnable parameter takes part in every step, which is what DistributedDataParallel expects
            idle = 0 * sum(p.sum() for p in self.cluster_head.parameters())
            return {"loss": config.instance_weight * instance + idle, "instance": instance, "carry": carry}
        assert state is not None and state.node_weights is not None
        *neighbors, drawn = [self.encoder(view) for view in batch.views[-(config.loss_neighbors + 1) :]]
        nearest = graph[batch.rows, : config.loss_neighbors].long()  # (B, m)
        near = [self.projector(view) for view in neighbors]  # m of (B, D)
        instance = self._instance(projections, near, state.node_weights[nearest])
        probabilities = [torch.softmax(self.cluster_head(view), dim=1) for view in (features[0], drawn)]  # (B, K) each
        confidence, entropy = partition_confidence(probabilities[0], probabilities[1:])
        loss = config.instance_weight * instance + confidence + config.balance_weight * entropy
        return {"loss": loss, "instance": instance, "cluster": confidence, "negative_entropy": entropy, "carry": carry}

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        """The idle cluster head has no gradient, not one of zero, with which momentum and decay would still move it."""
        if phase == UNLABELLED or clock.whole_epochs < self.config.warmup_epochs:
            for parameter in self.cluster_head.parameters():
                parameter.grad = None

    def partners(self, rows: Tensor, draws: Draws, state: ClusterState | None, clock: Clock) -> Tensor | None:
        """(n, m + 1) the m nearest neighbours of each row, and one of all its neighbours."""
        graph = self._graph(state, clock)
        if graph is None:
            return None
        nearest = graph.cpu()[rows, : self.config.loss_neighbors].long()
        return torch.cat([nearest, draw_neighbors(graph, rows, draws, "gcc")], 1)

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        """The cluster head's clusters, the graph and its weights. Collective."""
        neighbors = mine_neighbors(shard, self.config.n_neighbors)
        weights = node_weights(neighbors, self.config.loss_neighbors).to(shard.features.dtype)
        return replace(head_clusters(shard, self.n_clusters), neighbors=neighbors, node_weights=weights)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(images)), dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self.cluster_head(self.encoder(images)), dim=1)

    def classifier(self, state: ClusterState) -> nn.Linear:
        return self.cluster_head[0]  # type: ignore[return-value]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        return self.probabilities(images)

    def _instance(self, projections: list[Tensor], neighbors: list[Tensor], weights: Tensor | None) -> Tensor:
        (first, second), config = projections, self.config
        return graph_contrast(first, second, neighbors, weights, temperature=config.temperature, variant=config.rgc)

    def _graph(self, state: ClusterState | None, clock: Clock) -> Tensor | None:
        """(N, k) the graph that this step learns from; None in the warm-up and for rows that are not in it."""
        return None if state is None or clock.whole_epochs < self.config.warmup_epochs else state.neighbors


def graph_contrast(
    first: Tensor,
    second: Tensor,
    neighbors: list[Tensor],
    weights: Tensor | None,
    *,
    temperature: float,
    variant: Variant,
) -> Tensor:
    """Mean over this rank's rows of -log of what lies near the own images over what lies near those of others.

    RGC of Zhong et al. 2021. The anchors are the B rows of `first`, the columns both views and the m neighbours of all
    ranks' N rows. An anchor's positives are its own second view and its own neighbours, the latter times their weight.
    Its negatives are the columns of the other N - 1 rows. The mean over ranks is the loss of the whole batch.
    Collective.

    first, second: (B, D) both views of this rank's rows, of any length, B equal on all ranks. neighbors: m of (B, D),
    row i of each is a neighbour of row i. weights: (B, m) of these; None without any. All but the weights carry the
    gradient; computed in float32 or wider.
    variant: "fix", positives over negatives; "prob", over negatives and positives, so that it is a probability; "ref",
    as published: "fix", but the anchor is a negative of its own, and a neighbour is also as long as its weight. Without
    neighbours the second view is in the denominator, too, in all of them.

    >>> graph_contrast(torch.eye(2), torch.eye(2), [], None, temperature=1.0, variant="prob")  # log(e + 2) - 1
    tensor(0.5514)
    """
    with torch.autocast(first.device.type, enabled=False):
        wide = torch.promote_types(first.dtype, torch.float32)
        own = F.normalize(torch.stack([first, second, *neighbors]).to(wide), dim=2)  # (2 + m, B, D)
        anchors, factors = own[0], own.new_zeros(len(own) - 1, len(first))
        if weights is not None:
            factors[1:] = weights.to(wide).T.log()
            if variant == "ref":
                own = torch.cat([own[:2], own[2:] * weights.to(wide).T[:, :, None]])
        positive = ((anchors * own[1:]).sum(2) / temperature + factors).logsumexp(0)  # (B,)
        # the columns' kinds are a dimension of the message: all rows in rank order would mix them
        columns = distributed.gather(own.transpose(0, 1)).transpose(0, 1)  # (2 + m, N, D)
        logits = (anchors @ columns.flatten(0, 1).T / temperature).view(len(anchors), len(columns), -1)  # (B, 2 + m, N)
        place = distributed.rank() * len(anchors) + torch.arange(len(anchors), device=logits.device)  # among the N
        kept = 1 if variant == "ref" else 0  # of the own columns, as negatives
        others = logits[:, kept:]
        others.scatter_(2, place[:, None, None].expand(-1, others.shape[1], 1), -torch.inf)
        below = logits.flatten(1).logsumexp(1)  # (B,)
        if variant == "prob" or not neighbors:
            below = torch.logaddexp(below, positive)
        return (below - positive).mean()


def node_weights(neighbors: Tensor, scale: int) -> Tensor:
    """(N,) float64 sqrt(scale / degree) of each row in the graph without directions that `neighbors` (N, k) are.

    The degree counts distinct neighbours: a row's own and those whose neighbour it is. The same on every rank that has
    the same neighbours. Zhong et al. 2021, with a scale of 3.

    >>> node_weights(torch.tensor([[1], [2], [1]]), 2)  # degrees 1, 2, 1
    tensor([1.4142, 1.0000, 1.4142], dtype=torch.float64)
    """
    n_rows, ends = len(neighbors), neighbors.long()
    rows = torch.arange(n_rows, device=ends.device)[:, None].expand_as(ends)
    both_ways = torch.cat([rows * n_rows + ends, ends * n_rows + rows]).unique()
    return (scale / torch.bincount(both_ways // n_rows, minlength=n_rows).double()).sqrt()
