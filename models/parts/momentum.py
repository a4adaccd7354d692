"""Momentum contrast, which MoCo and PCL share: an online network, its moving average, and a queue of past keys."""

from collections import OrderedDict
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.batch import Batch
from models.method import MethodConfig, forward_views
from models.parts.contrastive import info_nce
from models.parts.ema import ema_update, make_target
from models.parts.heads import MLP
from models.parts.memory import Queue
from utils import distributed, schedules
from utils.clock import Clock
from utils.draws import Draws

SHUFFLE = "key shuffle"  # the purpose of the permutation that keys are computed in


class MomentumConfig(MethodConfig):
    """What methods with momentum contrast have."""

    projection_dim: int = Field(128, ge=1, description="width of the projection")
    hidden_dim: int | None = Field(None, ge=1, description="hidden width of the projector; null: the encoder's width")
    head_layers: Literal[1, 2] = Field(2, description="layers of the projector: 1 as in MoCo v1, 2 as in MoCo v2")
    ema_momentum: float = Field(0.999, ge=0, le=1, description="momentum of the target network")
    ema_momentum_final: float | None = Field(
        None, ge=0, le=1, description="cosine from ema_momentum to this; null: constant"
    )
    queue_size: int = Field(65536, ge=1, description="past keys that are the negatives")
    temperature: float = Field(0.2, gt=0, description="temperature of the instance loss")
    symmetric: Literal["none", "sum", "mean"] = Field(
        "none", description="none: view 1 looks for view 2 (the papers); sum, mean: view 2 for view 1 too"
    )


class MomentumContrast(nn.Module):
    """Queries of the online network find their keys, of the target network, among past keys.

    He et al., CVPR 2020, arXiv 1911.05722; heads of Chen et al., arXiv 2003.04297, without BatchNorm. The queue starts
    empty and is equal on all ranks. With `bn_groups` > 1 keys are computed in a permuted order, so that the statistics
    of a group do not tell which key belongs to a query.
    """

    def __init__(self, encoder: nn.Module, feature_dim: int, config: MomentumConfig) -> None:
        super().__init__()
        self.config = config
        self.n_directions = 1 if config.symmetric == "none" else 2
        projector = MLP(
            feature_dim,
            config.hidden_dim or feature_dim,
            config.projection_dim,
            n_layers=config.head_layers,
            norm=False,
        )
        self.online = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))
        self.target = make_target(self.online)
        self.queue = Queue(config.queue_size, config.projection_dim)

    def forward(self, batch: Batch) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """Queries, one (B, D) a direction, with gradient; the instance loss; the carry of `after_step`. Collective."""
        queries = forward_views(self.online, batch.views[: self.n_directions], self.config.views_in_one_forward)
        keys = self._keys(batch)  # (B, 1 or 2, D)
        written = self.queue.rows >= 0
        loss = self.combine(
            [
                info_nce(query, key, self.queue.features, written, temperature=self.config.temperature)
                for query, key in zip(queries, reversed(keys.unbind(1)), strict=True)
            ]
        )
        other = queries[1].detach() if self.n_directions == 2 else keys[:, 0]
        carry = {
            "features": torch.stack([queries[0].detach(), other], 1),  # (B, 2, D)
            "keys": keys,
            "rows": batch.rows,
            "positions": batch.positions,
        }
        return queries, loss, carry

    def combine(self, losses: list[Tensor]) -> Tensor:
        """The loss of all directions, from one a direction."""
        total = torch.stack(losses).sum()
        return total / len(losses) if self.config.symmetric == "mean" else total

    def partners(self, rows: Tensor, draws: Draws) -> Tensor | None:
        """(n, 1 or 2) rows whose views become keys, in permuted order; None where the own views do."""
        if self.config.bn_groups == 1:
            return None
        return rows[draws.permutation(SHUFFLE, len(rows))][:, None].expand(-1, self.n_directions)

    @torch.no_grad()
    def after_step(self, carry: dict[str, Tensor], clock: Clock) -> None:
        """Move the target, then write the keys of the step. Collective."""
        momentum = schedules.ema_momentum(self.config.ema_momentum, self.config.ema_momentum_final, clock)
        ema_update(self.target, self.online, momentum)
        self.queue.write_views(carry["keys"], carry["rows"], carry["positions"])

    @torch.no_grad()
    def _keys(self, batch: Batch) -> Tensor:
        """(B, 1 or 2, D) keys of own rows, of view 2 or of views 1 and 2. Collective."""
        shuffled = self.config.bn_groups > 1
        views = batch.views[2:] if shuffled else batch.views[2 - self.n_directions : 2]
        keys = torch.stack(forward_views(self.target, views, self.config.views_in_one_forward), 1)
        if not shuffled:
            return keys
        everyones = distributed.gather(keys)  # (n, ...): place j holds the key of the row at place permutation[j]
        places = batch.draws.permutation(SHUFFLE, len(everyones)).argsort().to(keys.device, non_blocking=True)
        return everyones[places[batch.positions % len(everyones)]]
