"""ProPos: prototype scattering and positive sampling (Huang et al., TPAMI 2022, arXiv 2111.11821)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.byol import byol_loss
from models.method import Losses, Method, MethodConfig, forward_views
from models.parts.centers import EStepConfig
from models.parts.ema import ema_update, make_target
from models.parts.heads import online_and_predictor
from models.parts.memory import Queue
from models.state import ClusterState
from utils import distributed, schedules
from utils.clock import Clock


class ProPosConfig(MethodConfig):
    """ProPos: BYOL's alignment on sampled neighbours, and cluster prototypes pushed apart after a warm-up."""

    name: Literal["propos"] = Field("propos", description="the method")
    warmup_epochs: int = Field(50, ge=0, description="epochs of alignment alone, before prototypes are scattered")
    hidden_dim: int = Field(4096, ge=1, description="hidden width of projector and predictor")
    projection_dim: int = Field(256, ge=1, description="width of the projection")
    head_bias: bool = Field(True, description="biases before the heads' BatchNorm")
    ema_momentum: float = Field(0.996, ge=0, le=1, description="momentum of the target network")
    ema_momentum_final: float | None = Field(
        None, ge=0, le=1, description="cosine from ema_momentum to this; null: constant"
    )
    latent_std: float = Field(
        0.001, ge=0, description="noise on the projection: the sampled neighbour; 0 in the warm-up"
    )
    scattering_weight: float = Field(0.1, ge=0, description="weight of prototype scattering")
    temperature: float = Field(0.5, gt=0, description="temperature of prototype scattering")
    queue_size: int = Field(0, ge=0, description="past target projections that join the prototypes; 0: none")
    resample: bool = Field(False, description="draw rows so that every cluster is equally likely")


class ProPos(Method):
    """Online network with predictor, EMA target, and prototypes of the clusters of each batch."""

    Config = ProPosConfig
    own_e_step_every = 1
    exact_under_accumulation = False
    embed_name = "target projection"
    encode_name = "target encoder"

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: ProPosConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config = config
        self.online, self.predictor = online_and_predictor(
            encoder,
            feature_dim,
            hidden_dim=config.hidden_dim,
            projection_dim=config.projection_dim,
            bias=config.head_bias,
        )
        self.target = make_target(self.online)
        self.queue = Queue(config.queue_size, config.projection_dim) if config.queue_size else None

    @property
    def first_e_step_epoch(self) -> int | None:
        return 0 if self.config.resample else self.config.warmup_epochs

    @property
    def resample(self) -> bool:
        return self.config.resample

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        joint = self.config.views_in_one_forward
        scattering = state is not None and clock.whole_epochs >= self.config.warmup_epochs
        projections = forward_views(self.online, batch.views, joint)  # two of (B, D)
        with torch.no_grad():
            target_first, target_second = forward_views(self.target, batch.views, joint)
        samples = self._sample_neighbours(projections, batch) if scattering else projections
        first, second = forward_views(self.predictor, samples, joint)
        alignment = (byol_loss(first, target_second) + byol_loss(second, target_first)) / 2
        carry: dict[str, Tensor] = {"features": torch.stack(projections, 1).detach()}
        if self.queue is not None:
            carry |= {
                "keys": torch.stack([target_first, target_second], 1),
                "rows": batch.rows,
                "positions": batch.positions,
            }
        if not scattering:
            return {"loss": alignment, "alignment": alignment, "carry": carry}
        assert state is not None
        spread = prototype_scattering(
            projections,
            [target_second, target_first],
            self._memberships(batch.rows, state),
            temperature=self.config.temperature,
            queue=None if self.queue is None else (self.queue.features, self._memberships(self.queue.rows, state)),
        )
        loss = alignment + self.config.scattering_weight * spread
        return {"loss": loss, "alignment": alignment, "scattering": spread, "carry": carry}

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        momentum = schedules.ema_momentum(self.config.ema_momentum, self.config.ema_momentum_final, clock)
        ema_update(self.target, self.online, momentum)
        if self.queue is not None:
            self.queue.write_views(carry["keys"], carry["rows"], carry["positions"])

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.target(images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.target[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.online.parameters()), "predictor": list(self.predictor.parameters())}

    def _sample_neighbours(self, projections: list[Tensor], batch: Batch) -> list[Tensor]:
        """Projections plus noise, a positive sampled around each (paper, eq. 4); not yet normalised."""
        noise = batch.draws.normal("latent", (2, projections[0].shape[1])).to(
            projections[0], non_blocking=True
        )  # (B, 2, D)
        return [projection + self.config.latent_std * noise[:, v] for v, projection in enumerate(projections)]

    def _memberships(self, rows: Tensor, state: ClusterState) -> Tensor:
        """(B, K) responsibilities where the E-step gave them, else one-hot labels; zero without a cluster."""
        dtype = next(self.predictor.parameters()).dtype
        known = rows >= 0
        if state.responsibilities is not None:
            return state.responsibilities[rows].to(dtype) * known[:, None]
        assert state.labels is not None
        labels = torch.where(known, state.labels[rows], -1)
        return (labels[:, None] == torch.arange(self.n_clusters, device=rows.device)).to(dtype)


def prototype_scattering(
    online: list[Tensor],
    target: list[Tensor],
    memberships: Tensor,
    *,
    temperature: float,
    queue: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Prototype scattering loss, mean over the pairs (online[i], target[i]) and the present clusters. Collective.

    Prototypes are normalised sums over the global batch, so only K x D sums cross ranks, not rows.

    online: projections (B, D), carry the gradient. target: (B, D) of the other view, detached here.
    memberships: (B, K), one-hot or soft. queue: (Q, D) normalised past target rows and their (Q, K) memberships; they
    join the sums of both sides. A cluster of total membership <= 0.5 is absent: no positive, no negative.
    Huang et al. 2022, eq. 8; 0 with zero gradient where one cluster is present.
    """
    device = memberships.device.type
    with torch.autocast(device, enabled=False):  # sums, logits and log-sum-exp in float32 or wider
        weights = memberships.T  # (K, B)
        online_sums = torch.stack(
            [weights @ F.normalize(rows.to(weights.dtype), dim=1) for rows in online]
        )  # (2, K, D)
        target_sums = torch.stack([weights @ F.normalize(rows.detach().to(weights.dtype), dim=1) for rows in target])
        # one message: every rank computes the same loss from these sums
        packed = torch.cat([online_sums.flatten(), target_sums.flatten(), weights.sum(1)])
        sums = distributed.sum_over_ranks(packed, same_loss=True)
        online_sums, target_sums = sums[: -len(weights)].view(2, *online_sums.shape).unbind(0)
        mass = sums[-len(weights) :].detach()
        target_sums = target_sums.detach()
        if queue is not None:
            past = queue[1].T @ queue[0].to(weights.dtype)  # (K, D), equal on every rank
            online_sums, target_sums, mass = online_sums + past, target_sums + past, mass + queue[1].sum(0)
        present = mass > 0.5  # (K,)
        prototypes, targets = F.normalize(online_sums, dim=2), F.normalize(target_sums, dim=2)
        positive = (prototypes * targets).sum(2) / temperature  # (2, K)
        logits = prototypes @ prototypes.transpose(1, 2) / temperature  # (2, K, K)
        diagonal = torch.eye(len(mass), dtype=torch.bool, device=mass.device)
        logits = torch.where(diagonal, positive[:, :, None], logits)
        # an absent cluster is no negative: -inf, not a small number, which would still count
        logits = logits.masked_fill(~present, -torch.inf)
        per_cluster = torch.where(present, logits.logsumexp(2) - positive, 0)
        return per_cluster.sum(1).mean() / present.sum().clamp_min(1)
