"""Linear classifiers trained at once on the same features: the sum of their losses gives each its own gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.optim import OptimConfig, build_optimizer, clip, set_schedules
from utils import distributed
from utils.clock import Clock
from utils.draws import seeded


class Heads:
    """H = slices x rates classifiers of C classes, slice by slice; each is what it would be if it were trained alone.

    Args:
        slices: columns of the features (B, width) that a classifier sees.
        rates: learning rates per 256 rows, a classifier for each and each slice.
        config: optimiser and schedule; `learning_rate` is replaced by the rates.
        seed: of the weights, N(0, 0.01^2), alike for classifiers of one slice; biases are 0.
        like: a tensor of the dtype and device of features.
    """

    def __init__(
        self,
        slices: list[slice],
        rates: tuple[float, ...],
        width: int,
        n_classes: int,
        config: OptimConfig,
        *,
        seed: int,
        like: Tensor,
    ) -> None:
        self.slices, self.rates, self.n_classes, self.config = slices, rates, n_classes, config
        start = torch.randn(n_classes, width, generator=seeded(seed, "linear", "weights"), dtype=torch.float64) * 0.01
        # the classifiers of a slice lie in one block (R C, columns): one product forward, one backward
        self.weights = [start[:, columns].repeat(len(rates), 1).to(like).requires_grad_() for columns in slices]
        self.biases = [like.new_zeros(len(rates) * n_classes, requires_grad=True) for _ in slices]
        self.heads = [
            [nn.Parameter(weight), nn.Parameter(bias)]
            for block, offsets in zip(self.weights, self.biases, strict=True)
            for weight, bias in zip(block.detach().split(n_classes), offsets.detach().split(n_classes), strict=True)
        ]  # views of the blocks: what moves a head moves its rows
        self.optimizer = build_optimizer(config, {str(number): head for number, head in enumerate(self.heads)})

    def __len__(self) -> int:
        return len(self.heads)

    def logits(self, features: Tensor) -> Tensor:
        """(B, H, C) from (B, width)."""
        found = [
            F.linear(features[:, columns], weight, bias).unflatten(1, (-1, self.n_classes))
            for columns, weight, bias in zip(self.slices, self.weights, self.biases, strict=True)
        ]
        return torch.cat(found, dim=1)

    def step(self, features: Tensor, classes: Tensor, total: int, clock: Clock) -> Tensor:
        """One update from the global batch of `total` rows, of which this rank has (B, width). Collective.

        classes: (B,) int64; B may differ between ranks and be 0. Returns the loss of this rank's rows, over `total`.
        """
        logits = self.logits(features)  # (B, H, C)
        loss = F.cross_entropy(logits.flatten(0, 1), classes.repeat_interleave(len(self)), reduction="sum") / total
        blocks = [*self.weights, *self.biases]
        gradients = torch.autograd.grad(loss, blocks)
        summed = distributed.reduce_sum_(torch.cat([gradient.flatten() for gradient in gradients]))
        summed_blocks = [
            part.view_as(block)
            for part, block in zip(summed.split([block.numel() for block in blocks]), blocks, strict=True)
        ]
        n_slices = len(self.slices)
        parts = [[each for block in half for each in block.split(self.n_classes)]
                 for half in (summed_blocks[:n_slices], summed_blocks[n_slices:])]  # fmt: skip
        for head, weight, bias in zip(self.heads, *parts, strict=True):
            head[0].grad, head[1].grad = weight, bias
            clip(head, self.config)
        set_schedules(self.optimizer, self.config, clock)
        for group in self.optimizer.param_groups:
            group["lr"] *= self.rates[int(group["part"]) % len(self.rates)] / self.config.learning_rate
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def hits(self, features: Tensor, classes: Tensor, top: int, chunk: int = 4096) -> Tensor:
        """(H,) float64 share of all ranks' rows whose class is among the `top` largest logits. Collective."""
        counts = torch.zeros(len(self) + 1, dtype=torch.float64, device=features.device)
        for rows, own in zip(features.split(chunk), classes.split(chunk), strict=True):
            best = self.logits(rows).topk(min(top, self.n_classes), dim=2).indices  # (B, H, top)
            counts[:-1] += (best == own[:, None, None]).any(2).sum(0)
        counts[-1] += len(classes)
        distributed.reduce_sum_(counts)
        return counts[:-1] / counts[-1]

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {
            "weights": [block.detach() for block in self.weights],
            "biases": [block.detach() for block in self.biases],
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name in ("weights", "biases"):
            for block, stored in zip(getattr(self, name), state[name], strict=True):
                block.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])
