"""Optimisers, parameter groups and learning rates as functions of the clock."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from utils import schedules
from utils.clock import Clock
from utils.config import Section

Schedule = Literal["warmup_cosine", "epoch_cosine", "step", "constant", "propos_cosine", "propos_cifar20_r34"]


class OptimConfig(Section):
    """Batches, optimiser, learning rate, precision. Batch sizes are global: all ranks together."""

    name: Literal["sgd", "lars", "adam", "adamw"] = Field("sgd", description="optimiser; adam: decay in the gradient")
    epochs: int = Field(100, ge=1, description="passes over the data")
    global_batch: int = Field(256, ge=2, description="rows of one optimiser step, over all ranks")
    accumulation: int = Field(1, ge=1, description="micro-batches that one optimiser step is cut into")
    learning_rate: float = Field(0.05, gt=0, description="per 256 rows: peak = learning_rate * global_batch / 256")
    schedule: Schedule = Field(
        "warmup_cosine", description="learning rate over the run; propos_*: the released curves, for parity"
    )
    milestones: tuple[int, ...] = Field((), description="step: the epochs from which on a further step_factor counts")
    restart_epochs: int | None = Field(None, ge=1, description="step: the milestones count anew every so many epochs")
    step_factor: float = Field(0.1, gt=0, lt=1, description="step: what the learning rate is multiplied by")
    warmup_epochs: float = Field(0, ge=0, description="epochs of linear warm-up of the learning rate")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="lowest learning rate as a fraction of the peak")
    predictor_lr_scale: float = Field(10.0, gt=0, description="the predictor's learning rate over the others'")
    fixed_predictor_lr: bool = Field(False, description="the predictor's learning rate stays at its peak")
    sgd_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and lars")
    nesterov: bool = Field(False, description="Nesterov's momentum in sgd")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay")
    weight_decay_final: float | None = Field(
        None, ge=0, description="weight decay along a cosine to this at the end; null: constant"
    )
    decay_norm_and_bias: bool = Field(False, description="decay (and, in lars, adapt) tensors of one dimension too")
    lars_trust: float = Field(1e-3, gt=0, description="trust coefficient of lars")
    lars_variant: Literal["you2017", "mocov3", "larc"] = Field(
        "mocov3", description="you2017: learning rate inside the momentum buffer; mocov3, larc: outside"
    )
    lars_clip: bool = Field(False, description="larc: no step of a tensor is larger than that of sgd")
    clip_norm: float | None = Field(None, gt=0, description="largest global gradient norm; null: no clipping")
    clip_per_tensor: bool = Field(False, description="clip_norm is of each tensor's gradient alone, as DINO has it")
    precision: Literal["fp64", "fp32", "bf16", "fp16"] = Field(
        "fp32", description="fp64: for proofs on the CPU; bf16: autocast; fp16: autocast with a scaled loss"
    )
    compile: bool = Field(
        False, description="torch.compile of the networks, for a GPU; on a CPU it takes a minute and gains nothing"
    )
    nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="a loss or gradient that is no number: end the run, or leave the step out"
    )

    @model_validator(mode="after")
    def _belong_together(self) -> "OptimConfig":
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("milestones and schedule: step belong together")
        if self.nesterov and (self.name != "sgd" or not self.sgd_momentum):
            raise ValueError("nesterov is of sgd with sgd_momentum")
        if self.weight_decay_final is not None and not self.weight_decay:
            raise ValueError("weight_decay_final goes on from a weight_decay above 0")
        return self

    @property
    def peak_learning_rate(self) -> float:
        """Linear rule (Goyal et al. 2017): learning_rate * global_batch / 256."""
        return self.learning_rate * self.global_batch / 256


def build_optimizer(config: OptimConfig, parts: dict[str, list[nn.Parameter]]) -> Optimizer:
    """The optimiser over the parts of a method, each learnable parameter exactly once, split by shape: ndim <= 1 apart.

    Groups carry `part`, `weight_decay` and `adapt` (whether lars rescales them).
    """
    parameters = [p for part in parts.values() for p in part if p.requires_grad]
    assert len({id(p) for p in parameters}) == len(parameters), "a parameter stands in two groups"
    groups: list[dict[str, Any]] = []
    for part, members in parts.items():
        for one_dimensional in (False, True):
            chosen = [p for p in members if p.requires_grad and (p.ndim <= 1) == one_dimensional]
            plain = one_dimensional and not config.decay_norm_and_bias
            if chosen:
                decay = 0.0 if plain else config.weight_decay
                groups.append({"params": chosen, "part": part, "weight_decay": decay, "adapt": not plain})
    rate = config.peak_learning_rate
    if config.name == "lars":
        return LARS(groups, rate, config.sgd_momentum, config.lars_trust, config.lars_variant, config.lars_clip)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=rate, fused=True)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    sgd = torch.optim.SGD(groups, lr=rate, momentum=config.sgd_momentum, nesterov=config.nesterov, fused=True)
    if config.sgd_momentum:  # of zero, as at a first step: fused SGD cannot begin it later, after an idle phase
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def clip(parameters: list[nn.Parameter], config: OptimConfig) -> None:
    """Shorten the gradients as `optim.clip_norm` says: all together, or each tensor's alone."""
    if config.clip_norm is None:
        return
    groups = [[p] for p in parameters if p.grad is not None] if config.clip_per_tensor else [parameters]
    for group in groups:
        nn.utils.clip_grad_norm_(group, config.clip_norm)


def set_schedules(optimizer: Optimizer, config: OptimConfig, clock: Clock) -> float:
    """Write each group's learning rate and weight decay for the coming step; returns the online network's rate."""
    options: dict[str, Any] = {"warmup_epochs": config.warmup_epochs, "min_ratio": config.min_lr_ratio}
    if config.schedule == "step":
        options |= {"milestones": config.milestones, "factor": config.step_factor, "restart": config.restart_epochs}
    rate = schedules.LEARNING_RATES[config.schedule](config.peak_learning_rate, clock, **options)
    for group in optimizer.param_groups:
        own = rate
        if group["part"] == "predictor":
            own = config.predictor_lr_scale * (config.peak_learning_rate if config.fixed_predictor_lr else rate)
        group["lr"] = own
        if config.weight_decay_final is not None and group["weight_decay"]:
            group["weight_decay"] = schedules.cosine(config.weight_decay, config.weight_decay_final, clock)
    return rate


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling over SGD with momentum, without a host sync.

    trust ratio q = trust |w| / (|g| + decay |w| + 1e-8) in you2017 (You et al. 2017, algorithm 1) and larc (apex), and
    trust |w| / |g + decay w| in mocov3; 1 where |w| or |g| is 0 and in groups with `adapt` False. you2017 keeps the
    learning rate inside the momentum buffer, so that a falling rate acts late; the others outside. clip: q / rate, at
    most 1, in its place, as apex's LARC and solo-learn have it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        trust: float,
        variant: str,
        clip: bool = False,
        eps: float = 1e-8,
    ) -> None:
        self.momentum, self.trust, self.variant, self.clip, self.eps = momentum, trust, variant, clip, eps
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        weights: list[Tensor] = list(parameters)
        decayed = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            ratios = self._trust_ratios(weights, gradients, decayed, group["weight_decay"], group["lr"])
            torch._foreach_mul_(decayed, ratios)
        inside = self.variant == "you2017"
        if inside:
            torch._foreach_mul_(decayed, group["lr"])
        fresh = [p for p in parameters if "momentum_buffer" not in self.state[p]]
        for p in fresh:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, decayed)
        torch._foreach_add_(weights, buffers, alpha=-1.0 if inside else -group["lr"])

    def _trust_ratios(
        self, weights: list[Tensor], gradients: list[Tensor], decayed: list[Tensor], decay: float, rate: float
    ) -> list[Tensor]:
        weight_norms = torch.stack(torch._foreach_norm(weights))
        gradient_norms = torch.stack(torch._foreach_norm(gradients))
        if self.variant == "mocov3":
            below = torch.stack(torch._foreach_norm(decayed))
        else:
            below = gradient_norms + decay * weight_norms + self.eps
        usable = (weight_norms > 0) & (gradient_norms > 0)
        ratios = self.trust * weight_norms / below
        if self.clip:
            ratios = (ratios / rate).clamp_max(1)
        return list(torch.where(usable, ratios, 1.0))
