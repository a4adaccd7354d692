"""AND: anchor neighbourhood discovery (Huang et al., ICML 2019, arXiv 1904.11567)."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method, MethodConfig
from models.parts.bank import Bank
from models.parts.centers import EStepConfig
from models.parts.graph import check_neighbors, mine_neighbors
from models.parts.heads import MLP
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock

ROUND_EPOCHS = 200  # of the paper
BLOCK = 2048  # rows on either side of a block of similarities


class ANDConfig(MethodConfig):
    """AND: an image is to be found in a memory bank; one in a dense place may be taken for its nearest neighbour."""

    name: Literal["and"] = Field("and", description="the method")
    projection_dim: int = Field(128, ge=1, description="width of the projection")
    temperature: float = Field(0.1, gt=0, description="temperature of the similarities")
    bank_momentum: float = Field(0.5, ge=0, lt=1, description="momentum of the memory bank's entries")
    select_rate: float = Field(0.25, gt=0, le=1, description="share of the images that become anchors with each round")
    n_neighbors: int = Field(1, ge=1, description="neighbours of an anchor in its neighbourhood")
    source: Literal["embedding", "bank"] = Field(
        "embedding", description="where anchors are sought: all images embedded anew, or the memory bank (the paper)"
    )


class AND(Method):
    """Encoder, a linear projection, a memory bank; a round's anchors and their neighbours come from its E-step.

    A round is as long as the E-steps lie apart. Round 0 has no anchors, and so no E-step before it.
    """

    Config = ANDConfig
    own_e_step_every = ROUND_EPOCHS
    bank: Bank

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: ANDConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        self.round_epochs = estep.every_epochs or ROUND_EPOCHS
        self.projector = MLP(feature_dim, config.projection_dim, config.projection_dim, n_layers=1)

    @property
    def first_e_step_epoch(self) -> int | None:
        return self.round_epochs

    def prepare(self, n_rows: int, n_extra: int) -> None:
        check_neighbors("method.n_neighbors", self.config.n_neighbors, n_rows)
        self.bank = Bank(n_rows + n_extra, self.config.projection_dim)

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        features = self.embed(batch.views[0])  # (B, D)
        neighbors = None if state is None or state.neighbors is None else state.neighbors[batch.rows]  # (B, k)
        loss = neighborhood_loss(
            features, self.bank.features, batch.rows, neighbors, temperature=self.config.temperature
        )
        carry = {"features": features.detach()[:, None], "rows": batch.rows, "positions": batch.positions}
        return {"loss": loss, "carry": carry}

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        self.bank.write(carry["features"][:, 0], carry["rows"], carry["positions"], self.config.bank_momentum)

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        """Clusters, which only are scored, and the coming round's anchors with their neighbours. Collective.

        Entropies, anchors and neighbours are of the rows that are clustered; rows that only train have no part in them.
        """
        clusters = super().e_step(shard, state, clock)
        device, n_rows = shard.features.device, shard.n_rows
        anchors = torch.zeros(n_rows, dtype=torch.bool, device=device)
        neighbors = torch.full((n_rows, self.config.n_neighbors), -1, dtype=torch.int32, device=device)
        n_anchors = anchor_count(n_rows, self.config.select_rate, clock.whole_epochs // self.round_epochs)
        if n_anchors:
            if self.config.source == "bank":
                shard = replace(shard, features=self.bank.features[shard.rows.to(device)])
            # in float32: equal images have equal entropies, on any number of ranks, and the lowest row goes first
            everyones = distributed.gather_rows(entropies(shard, self.config.temperature).float())  # (N,)
            anchors[everyones.argsort(stable=True)[:n_anchors]] = True
            mined = mine_neighbors(shard, self.config.n_neighbors)
            neighbors = torch.where(anchors[:, None], mined, neighbors)
        return replace(clusters, anchors=anchors, neighbors=neighbors)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(images)), dim=1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}


def neighborhood_loss(
    features: Tensor, bank: Tensor, rows: Tensor, neighbors: Tensor | None, *, temperature: float
) -> Tensor:
    """Mean over rows of -log of the probability to be taken for an image of the own neighbourhood.

    features: (B, D) normalised, carry the gradient. bank: (M, D), detached here. rows: (B,) own places in the bank.
    neighbors: (B, k) further places of each neighbourhood, -1 = none; None: the image alone, which is instance
    discrimination. The probabilities are a softmax over the bank. Local: the mean over ranks is the loss of the whole
    batch. Computed in float32 or wider. Huang et al. 2019, section 3.

    >>> x, rows = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    >>> neighborhood_loss(x, torch.eye(2), rows, None, temperature=1.0)  # log(e + 1) - 1
    tensor(0.3133)
    >>> neighborhood_loss(x, torch.eye(2), rows, torch.tensor([[1]]), temperature=1.0)
    tensor(0.)
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        logits = features @ bank.detach().to(features.dtype).T / temperature  # (B, M)
        inside = logits.gather(1, rows[:, None])
        if neighbors is not None:
            near = logits.gather(1, neighbors.clamp_min(0).long()).masked_fill(neighbors < 0, -torch.inf)
            inside = torch.cat([inside, near], 1)  # (B, 1 + k)
        # a difference of logarithms: the probabilities themselves underflow
        return (logits.logsumexp(1) - inside.logsumexp(1)).mean()


def anchor_count(n_rows: int, rate: float, number: int) -> int:
    """How many rows are anchors in round `number`: a further share `rate` with each, at most all.

    >>> [anchor_count(11, 0.25, number) for number in range(6)]
    [0, 2, 5, 8, 11, 11]
    """
    return min(n_rows, int(n_rows * rate * number))


@torch.no_grad()
def entropies(shard: FeatureShard, temperature: float) -> Tensor:
    """(n,) float64 entropy of each own row's similarities to the normalised rows of all ranks, itself among them.

    Low where few rows are near: softmax(cos / temperature). Collective. No N x N matrix is made: all rows pass every
    rank, in blocks that are the same on any number of ranks. Huang et al. 2019, section 3.
    """
    own = F.normalize(shard.features.double(), dim=1)  # (n, D)
    rows = shard.rows.to(own.device)
    mass, weighted = own.new_zeros(len(own)), own.new_zeros(len(own))
    for start in range(0, shard.n_rows, BLOCK):
        block = distributed.gather_rows(own[(rows >= start) & (rows < start + BLOCK)])  # (b, D)
        for first in range(0, len(own), BLOCK):
            part = slice(first, first + BLOCK)
            scores = (own[part] @ block.T - 1) / temperature  # (q, b) from the largest, which is a row's own
            weights = scores.exp()
            mass[part] += weights.sum(1)
            weighted[part] += (weights * scores).sum(1)
    return mass.log() - weighted / mass
