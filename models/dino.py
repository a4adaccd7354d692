"""DINO: self-distillation with centring and sharpening (Caron et al., ICCV 2021, arXiv 2104.14294)."""

from collections import OrderedDict
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from data.batch import Batch
from models.method import Losses, Method, MethodConfig
from models.parts.centers import EStepConfig
from models.parts.ema import ema_update, make_target
from models.parts.heads import NARROW
from models.parts.multi_crop import N_TARGETS, forward_crops, predict_targets
from models.state import ClusterState
from utils import distributed, schedules
from utils.clock import Clock
from utils.errors import UserError


class DINOConfig(MethodConfig):
    """DINO: the student predicts the teacher's output of another crop; the teacher is its moving average."""

    name: Literal["dino"] = Field("dino", description="the method")
    views_in_one_forward: bool = Field(True, description="crops of one size through the encoder at once")
    hidden_dim: int = Field(2048, ge=1, description="hidden width of the head")
    bottleneck_dim: int = Field(256, ge=1, description="width before the last layer")
    head_layers: int = Field(3, ge=1, description="layers of the head up to the bottleneck")
    head_norm: bool = Field(False, description="BatchNorm in the head")
    out_dim: int = Field(4096, ge=2, description="outputs that teacher and student are compared in")
    student_temperature: float = Field(0.1, gt=0, description="temperature of the student's output")
    teacher_temperature: float = Field(0.07, gt=0, description="temperature of the teacher's output")
    teacher_warmup_temperature: float = Field(0.04, gt=0, description="the teacher's temperature in the first epoch")
    teacher_warmup_epochs: int = Field(0, ge=0, description="epochs from that to teacher_temperature; 0: at once")
    center_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the center of the teacher's outputs")
    ema_momentum: float = Field(0.9995, ge=0, le=1, description="momentum of the teacher")
    ema_momentum_final: float | None = Field(
        1.0, ge=0, le=1, description="cosine from ema_momentum to this; null: constant"
    )
    freeze_epochs: int = Field(1, ge=0, description="first epochs in which the last layer stays as it starts")


class DINO(Method):
    """Student and its EMA, the teacher, each encoder, bottleneck and last layer; the center of the teacher's output."""

    Config = DINOConfig
    embed_name = "teacher encoder"
    encode_name = "teacher encoder"
    center: Tensor

    def __init__(
        self, encoder: nn.Module, feature_dim: int, config: DINOConfig, estep: EStepConfig, n_clusters: int
    ) -> None:
        super().__init__(estep, n_clusters)
        self.config = config
        bottleneck, last = Bottleneck(feature_dim, config), unit_linear(config.bottleneck_dim, config.out_dim)
        self.student = nn.Sequential(OrderedDict(encoder=encoder, bottleneck=bottleneck, last=last))
        self.teacher = make_target(self.student)
        self.register_buffer("center", torch.zeros(config.out_dim))

    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        if len(batch.views) < N_TARGETS:
            raise UserError("views.n_views", "1: DINO predicts one view from another", "use 2")
        features, logits = self._outputs(self.student, batch.views)
        with torch.no_grad():
            targets = torch.stack(self._outputs(self.teacher, batch.views[:N_TARGETS])[1])  # (2, B, out_dim)
            probabilities = torch.softmax((targets - self.center) / self._teacher_temperature(clock), dim=2)
            entropy = torch.special.entr(probabilities).sum(2).mean()
            rows = targets.flatten(0, 1)
            total = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])  # (out_dim + 1,)
        loss = predict_targets(logits, list(probabilities), temperature=self.config.student_temperature)
        carry = {"features": torch.stack(features[:N_TARGETS], 1).detach(), "total": total[None]}
        # the log of out_dim where all outputs are equally likely, 0 where it is always one: both are collapse
        return {"loss": loss, "teacher_entropy": entropy, "divergence": loss.detach() - entropy, "carry": carry}

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        if clock.whole_epochs < self.config.freeze_epochs:
            for parameter in self.student[-1].parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        total = distributed.reduce_sum_(carry["total"].sum(0))  # sums and count over micro-batches, views and ranks
        self.center.lerp_(total[:-1] / total[-1], 1 - self.config.center_momentum)
        momentum = schedules.ema_momentum(self.config.ema_momentum, self.config.ema_momentum_final, clock)
        ema_update(self.teacher, self.student, momentum)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.teacher[0](images), dim=1)

    @property
    def final_encoder(self) -> nn.Module:
        return self.teacher[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"online": [p for p in self.student.parameters() if p.requires_grad]}

    def _outputs(self, network: nn.Sequential, crops: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each crop the bottleneck (B, bottleneck_dim) of length 1, and the logits (B, out_dim), in float32."""
        encoder, bottleneck, last = network
        features = forward_crops(encoder, bottleneck, crops, self.config.views_in_one_forward)
        with torch.autocast(features[0].device.type, enabled=False):
            return features, list(last(torch.cat(features)).chunk(len(crops)))

    def _teacher_temperature(self, clock: Clock) -> float:
        first, last = self.config.teacher_warmup_temperature, self.config.teacher_temperature
        return schedules.linear_by_epoch(first, last, clock, epochs=self.config.teacher_warmup_epochs)


class Bottleneck(nn.Sequential):
    """Linear layers with GELU between them, the result of length 1: (B, feature_dim) to (B, bottleneck_dim).

    As `MLP`: a narrow one computes in float32, a wide one gives it.
    """

    def __init__(self, feature_dim: int, config: DINOConfig) -> None:
        layers: list[nn.Module] = []
        width = feature_dim
        for _ in range(config.head_layers - 1):
            layers.append(nn.Linear(width, config.hidden_dim, bias=not config.head_norm))
            layers += [nn.BatchNorm1d(config.hidden_dim)] if config.head_norm else []
            layers.append(nn.GELU())
            width = config.hidden_dim
        super().__init__(*layers, nn.Linear(width, config.bottleneck_dim))
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.narrow = config.hidden_dim < NARROW

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False) if self.narrow else nullcontext():
            rows = super().forward(x.to(wide))
        return F.normalize(rows.to(wide), dim=1)


def unit_linear(in_dim: int, out_dim: int) -> nn.Module:
    """A linear map without bias whose rows have length 1: their directions are learnt, their gain is fixed."""
    layer = weight_norm(nn.Linear(in_dim, out_dim, bias=False))
    gain = layer.parametrizations.weight.original0
    with torch.no_grad():
        gain.fill_(1)
    gain.requires_grad_(False)
    return layer
