"""The contract of a method: one `nn.Module` that computes its loss and updates what is not learnt by gradient."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.parts.centers import EStepConfig, cluster, memberships
from models.state import ClusterState, FeatureShard
from utils.clock import Clock
from utils.config import Section
from utils.draws import Draws

Losses = dict[str, Any]  # "loss" and parts: scalar tensors; "carry": dict of tensors


class MethodConfig(Section):
    """What every method's section has."""

    name: str = Field(description="the method")
    bn_groups: int = Field(1, ge=1, description="BatchNorm statistics over this many groups of the global batch")
    views_in_one_forward: bool = Field(
        False, description="both views through the network at once: statistics over both"
    )
    warmup_epochs: int = Field(0, ge=0, description="epochs before the method uses cluster labels")


class Method(nn.Module, ABC):
    """A self-supervised method. A new one is one file, one line in `METHODS` and one config.

    Args of every method: encoder (B, C, H, W) to (B, feature_dim); its own config section; the E-step's section; K.
    """

    Config: ClassVar[type[MethodConfig]]
    phases: tuple[str, ...] = ("train",)  # passes over all rows an epoch; `batch.phase` names the present one
    input: ClassVar[Literal["images", "features"]] = "images"  # features: a view is the `encode` of the clean image
    starts_from: ClassVar[Literal["scratch", "encoder", "clusters"]] = "scratch"  # what `run.init_from` is to bring
    own_e_step_every: ClassVar[int | None] = None  # epochs between the E-steps that its loss needs; None: it needs none
    exact_under_accumulation: ClassVar[bool] = True  # the mean over micro-batches is the loss over the whole
    encoder: nn.Module
    embed_name: ClassVar[str] = "projection"
    encode_name: ClassVar[str] = "encoder"

    def __init__(self, estep: EStepConfig, n_clusters: int) -> None:
        super().__init__()
        self.estep, self.n_clusters = estep, n_clusters

    def forward(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        """`loss`, under the name that DistributedDataParallel calls."""
        return self.loss(batch, state, clock)

    @abstractmethod
    def loss(self, batch: Batch, state: ClusterState | None, clock: Clock) -> Losses:
        """`{"loss": scalar, parts to log..., "carry": {name: detached (B, ...)}}`. Collective.

        The mean over ranks of the ranks' losses is the global loss.
        """

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """(B, D) what the E-step clusters, in eval mode."""

    @property
    def final_encoder(self) -> nn.Module:
        """The network, (B, C, H, W) to (B, feature_dim), that is judged, exported and gone on from."""
        return self.encoder

    def encode(self, images: Tensor) -> Tensor:
        """(B, feature_dim) output of the final encoder: kNN, linear probe."""
        return self.final_encoder(images)

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Learnable parameters by part; the part "predictor" has its own learning rate."""

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of clusters of each cluster head; () for a method without one."""
        return ()

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, sum of `heads`) cluster probabilities of all heads side by side, in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} has no cluster head")

    def prepare(self, n_rows: int, n_extra: int) -> None:
        """Make what has one row an image, such as a bank; called once, before the first step, within the seeded start.

        n_rows: rows that are clustered; n_extra: rows after those, for training alone. Raises UserError when the data
        set is too small for this method.
        """

    def classifier(self, state: ClusterState) -> nn.Linear | None:
        """The linear map of `encode` whose softmax is the cluster probabilities; None where they come otherwise."""
        return None

    def adopt(self, other: "Method", state: ClusterState, shard: FeatureShard) -> str:
        """Go on from the clusters of another method, trained; the encoder's weights are there already. Collective.

        For methods that start from clusters. other, state: as its run left them; shard: this rank's rows, with `encode`
        of this method as features and the probabilities (n, K) of the other's clusters. Returns what to tell the user.
        """
        raise NotImplementedError(f"{type(self).__name__} does not start from clusters")

    @property
    def first_e_step_epoch(self) -> int | None:
        """The epoch (from 0) before which the first E-step stands; None where neither config nor loss asks for one."""
        if self.own_e_step_every is None:
            return None if self.estep.every_epochs is None else 0
        return 0

    @property
    def resample(self) -> bool:
        """Whether rows are drawn so that every cluster is equally likely."""
        return False

    def before_optimizer(self, phase: str, clock: Clock) -> None:
        """After backward and all-reduce, before clipping: may set `.grad = None`. phase: that of the step's batches."""

    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        """EMA, queues, banks: once per optimiser step, no gradient; `clock` is that of the step. Collective."""

    def partners(self, rows: Tensor, draws: Draws, state: ClusterState | None, clock: Clock) -> Tensor | None:
        """(n, m) rows whose images are added after the own views, one view each; None: no such rows.

        rows: (n,) int64 on the CPU, the micro-batch of all ranks; each rank gets its part of the answer, which must be
        equal on all of them. Called ahead of the step, in a thread: nothing collective.
        """
        return None

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        """The clusters of all ranks' rows. The last E-step of a run has `estep.final_n_init` restarts. Collective."""
        n_init = self.estep.final_n_init if clock.finished else self.estep.n_init
        return cluster(shard, self.estep, self.n_clusters, n_init, state)

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        """(B, K) cluster probabilities; argmax over the final state equals its labels."""
        return memberships(self.embed(images), state, self.estep)


def forward_views(network: nn.Module, views: list[Tensor], joint: bool) -> list[Tensor]:
    """`network` on each view, or on all in one forward, interleaved so that a BatchNorm group stays one block.

    views: each (B, ...). Position p's views stand side by side in the joint forward, view fastest.
    """
    if not joint:
        return [network(view) for view in views]
    if views[0].ndim == 4:  # stacked in channels_last memory, so that the joint batch is channels_last without a copy
        stacked = torch.stack([view.permute(0, 2, 3, 1) for view in views], 1).flatten(0, 1).permute(0, 3, 1, 2)
    else:
        stacked = torch.stack(views, 1).flatten(0, 1)
    return list(network(stacked).unflatten(0, (-1, len(views))).unbind(1))
