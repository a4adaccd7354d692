"""TEMI: cluster heads on frozen features by mutual information of neighbours (Adaloglou et al., BMVC 2023)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from data.batch import Batch
from models.method import Losses, Method, MethodConfig
from models.parts.centers import EStepConfig, head_clusters
from models.parts.ema import ema_update, make_target
from models.parts.graph import check_neighbors, draw_neighbors, mine_neighbors
from models.parts.head_losses import HeadLosses
from models.state import ClusterState, FeatureShard
from utils import distributed
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

CHUNK = 1024  # rows that are read out together


class TEMIConfig(MethodConfig):
    """TEMI: neighbours among frozen features get the same cluster, several heads at once, each with its own teacher."""

    name: Literal["temi"] = Field("temi", description="the method")
    n_heads: int = Field(16, ge=1, description="cluster heads; the one of least loss in the last epoch is read out")
    n_neighbors: int = Field(50, ge=1, description="nearest neighbours of an image, one of which is drawn each time")
    hidden_dim: int = Field(512, ge=1, description="hidden width of a head")
    bottleneck_dim: int = Field(256, ge=1, description="width before a head's last layer")
    temperature: float = Field(0.1, gt=0, description="temperature of the outputs of student and teacher")
    beta: float = Field(0.6, gt=0, le=1, description="power of the probabilities; below 1 small ones count more")
    prior_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the clusters' shares of all images")
    ema_momentum: float = Field(0.996, ge=0, le=1, description="momentum of the teacher")
    freeze_epochs: int = Field(1, ge=0, description="first epochs in which the heads' last layers stay as they start")
    standardize: bool = Field(False, description="features with mean 0 and deviation 1 over all images")


class TEMI(Method):
    """A frozen encoder, and on its features H student heads and their EMA, the teachers, one of which is read out.

    It is fed with features, (B, feature_dim); where it is given images, it encodes them first.
    """

    Config = TEMIConfig
    input = "features"
    starts_from = "encoder"
    exact_under_accumulation = False
    embed_name = "frozen encoder"
    encode_name = "frozen encoder"
    prior: Tensor

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: TEMIConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config, self.encoder = config, encoder.requires_grad_(False).eval()
        self.student = nn.ModuleList(Head(feature_dim, config, n_clusters) for _ in range(config.n_heads))
        self.teacher = make_target(self.student)
        self.register_buffer("prior", torch.full((config.n_heads, n_clusters), 1 / n_clusters))
        self.head_losses = HeadLosses(config.n_heads)

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.n_clusters,)  # the one of least loss: all would be H times as much for every image

    @property
    def first_e_step_epoch(self) -> int | None:
        return 0  # neighbours are found once before training

    def prepare(self, n_rows: int, n_extra: int) -> None:
        check_neighbors("method.n_neighbors", self.config.n_neighbors, n_rows)
        if n_extra:
            problem = f"{n_extra} of its images only train, and TEMI has no use for images that are not clustered"
            raise UserError("data.split", problem, "choose a split without unlabelled images")

    def train(self, mode: bool = True) -> Self:
        """As for every module, but the encoder stays in eval mode: dropout off, BatchNorm by running statistics."""
        super().train(mode)
        self.encoder.eval()
        return self

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        # the image and its neighbour, which comes last; without neighbours an image is its own
        views = [self.encode(view) for view in (batch.views[0], batch.views[-1])]  # two of (B, feature_dim)
        features = _standardized(torch.cat(views), state)
        student = self._log_probabilities(self.student, features).unflatten(1, (2, -1))  # (H, 2, B, K)
        with torch.no_grad():
            teacher = self._log_probabilities(self.teacher, features).unflatten(1, (2, -1))
            prior = class_prior(self.prior, teacher, momentum=self.config.prior_momentum)  # (H, K)
        losses = temi_losses(student, teacher, prior, beta=self.config.beta)  # (H,)
        entropy = torch.special.entr(prior).sum(1).mean()  # log K where a head's clusters are equally large
        carry = {"features": torch.stack(views, 1), "prior": prior[None], "head losses": losses[None].detach()}
        return {"loss": losses.mean(), "entropy": entropy, "carry": carry}

    def partners(self, rows: Tensor, draws: Draws, state: ClusterState | None, clock: Clock) -> Tensor | None:
        if state is None or state.neighbors is None:
            return None
        return draw_neighbors(state.neighbors, rows, draws, "temi/neighbor")

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        if clock.whole_epochs < self.config.freeze_epochs:
            for name, parameter in self.student.named_parameters():
                if ".last." in name:
                    parameter.grad = None

    @torch.no_grad()
    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        self.prior.copy_(carry["prior"].mean(0))  # over micro-batches: each began with the same prior
        self.head_losses.write(carry["head losses"], clock)
        ema_update(self.teacher, self.student, self.config.ema_momentum)

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        """Labels of the teacher of least loss; the first one also finds the neighbours, which stay. Collective."""
        if state is None:
            neighbors = mine_neighbors(shard, self.config.n_neighbors)  # (N, k)
            extra = dict(zip(("mean", "std"), moments(shard.features), strict=True)) if self.config.standardize else {}
        else:
            assert state.neighbors is not None
            neighbors, extra = state.neighbors, state.extra
        extra = {**extra, "head": self.head_losses.best()}
        found = ClusterState(neighbors=neighbors, extra=extra)
        probabilities = torch.cat([self.assign(rows, found) for rows in shard.features.split(CHUNK)])  # (n, K)
        clusters = head_clusters(replace(shard, probabilities=[probabilities]), self.n_clusters)
        return replace(found, labels=clusters.labels, centers=clusters.centers)

    def embed(self, images: Tensor) -> Tensor:
        return self.encode(images)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return images if images.ndim == 2 else self.encoder(images)

    @torch.no_grad()
    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        head = self.teacher[int(state.extra["head"])]
        return self._log_probabilities([head], _standardized(self.encode(images), state))[0].exp()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": list(self.student.parameters())}

    def _log_probabilities(self, heads: Iterable[nn.Module], features: Tensor) -> Tensor:
        """(H, B, K) of each head, in float32 or wider."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            logits = torch.stack([head(features) for head in heads])
            return F.log_softmax(logits / self.config.temperature, dim=2)


class Head(nn.Module):
    """Two layers, the result of length 1, and cosines with K directions times a learnt gain each: (B, D) to (B, K)."""

    def __init__(self, feature_dim: int, config: TEMIConfig, n_clusters: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.Linear(feature_dim, config.hidden_dim), nn.GELU(), nn.Linear(config.hidden_dim, config.bottleneck_dim)
        )
        for layer in (self.bottleneck[0], self.bottleneck[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.last = weight_norm(nn.Linear(config.bottleneck_dim, n_clusters, bias=False))
        nn.init.ones_(self.last.parametrizations.weight.original0)  # the gains

    def forward(self, features: Tensor) -> Tensor:
        return self.last(F.normalize(self.bottleneck(features), dim=1))


def temi_losses(student: Tensor, teacher: Tensor, prior: Tensor, *, beta: float) -> Tensor:
    """(H,) loss of each head: minus the pointwise mutual information of neighbours, weighted, mean over rows and views.

    -w log sum_k (p_k q_k)^beta / prior_k, p the student's probabilities of one view and q the teacher's of the other.
    w: how often the teachers of all heads put an image and its neighbour into one cluster. It may be negative. Local:
    no other row is read. Adaloglou et al. 2023.

    Args:
        student, teacher: (H, 2, B, K) log-probabilities of images and their neighbours. The student's carry the
            gradient. prior: (H, K) the clusters' shares of all images. Neither it nor the teacher receive one.

    >>> even = torch.full((1, 2, 3, 2), 0.5).log()
    >>> temi_losses(even, even, torch.tensor([[0.25, 0.75]]), beta=1.0)  # -0.5 log(1 + 1 / 3)
    tensor([-0.1438])
    """
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        student, teacher, prior = student.to(wide), teacher.detach().to(wide), prior.detach().to(wide)
        logs = prior.clamp_min(torch.finfo(wide).tiny).log()  # (H, K)
        crossed = student + teacher.flip(1)  # no student meets the teacher of its own view
        information = torch.logsumexp(beta * crossed - logs[:, None, None], dim=3)  # (H, 2, B)
        return -(agreement(teacher) * information).mean((1, 2))


def agreement(teacher: Tensor) -> Tensor:
    """(B,) in [0, 1]: the probability that an image and its neighbour fall into one cluster, mean over heads.

    teacher: (H, 2, B, K) log-probabilities.

    >>> agreement(torch.tensor([[[[0.5, 0.5]], [[0.2, 0.8]]]]).log())
    tensor([0.5000])
    """
    return teacher.sum(1).exp().sum(2).mean(0)


def class_prior(prior: Tensor, teacher: Tensor, *, momentum: float) -> Tensor:
    """(H, K) moving average of the teacher's mean probabilities over both views and all ranks. Collective.

    prior: (H, K) as it was. teacher: (H, 2, B, K) log-probabilities, B equal on all ranks. Without gradient.
    """
    mean = distributed.mean_over_ranks_(teacher.detach().exp().mean((1, 2)))  # (H, K)
    return momentum * prior + (1 - momentum) * mean


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of the rows of all ranks, (n, D) of this one. Collective.

    The deviation of a constant column counts as 1.
    """
    rows = features.double()
    count = distributed.reduce_sum_(rows.new_tensor(len(rows)))
    mean = distributed.reduce_sum_(rows.sum(0)) / count
    deviation = (distributed.reduce_sum_((rows - mean).square().sum(0)) / count).sqrt()
    varies = deviation > torch.finfo(features.dtype).eps * mean.abs()  # else it is what rounding left
    return mean.to(features.dtype), torch.where(varies, deviation, 1.0).to(features.dtype)


def _standardized(features: Tensor, state: ClusterState | None) -> Tensor:
    if state is None or "mean" not in state.extra:
        return features
    return (features - state.extra["mean"]) / state.extra["std"]
