"""SwAV: codes of one view predicted from the others (Caron et al., NeurIPS 2020, arXiv 2006.09882)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import Losses, Method, MethodConfig
from models.parts.centers import EStepConfig
from models.parts.heads import MLP
from models.parts.memory import Queue
from models.parts.multi_crop import N_TARGETS, forward_crops, predict_targets
from models.state import ClusterState
from utils import distributed
from utils.clock import Clock
from utils.errors import UserError


class SwAVConfig(MethodConfig):
    """SwAV: each view's assignment to prototypes, balanced over the batch, is predicted from the other crops."""

    name: Literal["swav"] = Field("swav", description="the method")
    views_in_one_forward: bool = Field(True, description="crops of one size through the encoder at once")
    projection_dim: int = Field(128, ge=1, description="width of the projection")
    hidden_dim: int | None = Field(None, ge=1, description="hidden width of the projector; null: the encoder's width")
    n_prototypes: int = Field(3000, ge=2, description="prototypes that images are assigned to")
    temperature: float = Field(0.1, gt=0, description="temperature of the predictions")
    epsilon: float = Field(0.05, gt=0, description="smoothness of the codes")
    sinkhorn_iterations: int = Field(3, ge=1, description="rounds of balancing the codes")
    freeze_epochs: int = Field(1, ge=0, description="first epochs in which the prototypes stay as they start")
    queue_size: int = Field(
        0, ge=0, description="past projections of each of two views that are balanced with the batch; 0: none"
    )
    queue_start_epoch: int = Field(0, ge=0, description="epoch (from 0) from which on the queue is used, once full")


class SwAV(Method):
    """Encoder, projector and prototypes of unit length; no target network, no negatives."""

    Config = SwAVConfig
    exact_under_accumulation = False

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: SwAVConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder
        self.projector = MLP(feature_dim, config.hidden_dim or feature_dim, config.projection_dim, bias=False)
        directions = torch.randn(config.n_prototypes, config.projection_dim)
        self.prototypes = nn.Parameter(F.normalize(directions, dim=1))
        n_queues = N_TARGETS if config.queue_size else 0
        self.queues = nn.ModuleList(Queue(config.queue_size, config.projection_dim) for _ in range(n_queues))

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        if len(batch.views) < N_TARGETS:
            raise UserError("views.n_views", "1: SwAV predicts one view from another", "use 2")
        crops = forward_crops(self.encoder, self.projector, batch.views, self.config.views_in_one_forward)
        with torch.autocast(self.prototypes.device.type, enabled=False):
            wide = torch.promote_types(crops[0].dtype, torch.float32)
            projections = [F.normalize(crop.to(wide), dim=1) for crop in crops]  # V of (B, D)
            scores = [view @ self.prototypes.T for view in projections]  # V of (B, K)
            past = self._past_scores(clock, batch.draws.total)
            codes = [self._codes(own, view) for own, view in zip(past, scores, strict=False)]  # 2 of (B, K)
        loss = predict_targets(scores, codes, temperature=self.config.temperature)
        features = torch.stack(projections[:N_TARGETS], 1).detach()  # (B, 2, D)
        return {"loss": loss, "carry": {"features": features, "rows": batch.rows, "positions": batch.positions}}

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        if clock.whole_epochs < self.config.freeze_epochs:
            self.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        for view, queue in enumerate(self.queues):
            assert isinstance(queue, Queue)
            queue.write_views(carry["features"][:, view : view + 1], carry["rows"], carry["positions"])

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(images)), dim=1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.parameters())}

    @torch.no_grad()
    def _past_scores(self, clock: Clock, global_batch: int) -> list[Tensor]:
        """(n, K) scores of this rank's part of each view's queue; n is 0 where there is none or it is not in use yet.

        A step writes `global_batch` rows: the clock tells when a queue is full, without a look at the device.
        """
        full = clock.step * global_batch >= self.config.queue_size
        if not self.queues or not full or clock.whole_epochs < self.config.queue_start_epoch:
            return [self.prototypes.new_zeros(0, len(self.prototypes))] * N_TARGETS
        world, rank = distributed.world(), distributed.rank()
        return [queue.features.tensor_split(world)[rank] @ self.prototypes.T for queue in self.queues]  # type: ignore[operator]

    def _codes(self, past: Tensor, scores: Tensor) -> Tensor:
        """(B, K) codes of the rows of `scores`, balanced together with `past`, whose scores came before. Collective."""
        together = torch.cat([past, scores.detach()])
        codes = sinkhorn(together, epsilon=self.config.epsilon, iterations=self.config.sinkhorn_iterations)
        return codes[len(past) :]


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """(n, K) probabilities of the prototypes, which all rows of all ranks fill about equally. Collective.

    scores: (n, K) cosines of this rank's rows, n may differ between ranks. Each round scales every prototype to an
    equal share of the rows, then every row to 1: only prototypes' shares are approximate. In logarithms, since
    e^(1 / epsilon) overflows; in float32 or wider, without gradient. Caron et al. 2020, section 3.1; Cuturi 2013.

    >>> sinkhorn(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), epsilon=0.05, iterations=1)
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    with torch.autocast(scores.device.type, enabled=False):
        logs = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
        for _ in range(iterations):
            shares = distributed.gather(logs.logsumexp(0, keepdim=True)).logsumexp(0)  # (K,) over all ranks' rows
            logs = torch.log_softmax(logs - shares, dim=1)
        return logs.exp()
