"""What is not finite never reaches the weights: loss scaling of fp16, and what becomes of a bad step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.optim import OptimConfig
from utils.clock import Clock
from utils.errors import UserError

IN_A_ROW = 25  # bad steps; fp16 needs up to 16 to find its scale
REMEDY = "lower it, or use optim.precision=fp32"


class Guard:
    """Leaves out optimiser steps whose gradient is not finite, where `optim.nonfinite` is skip, and in fp16.

    A step left out leaves weights, running statistics and queues as they were. The gradient is equal on all ranks, and
    so is the decision. Looking at it waits for the device, so with `stop` in other precisions nothing is asked of a
    step: what is logged, and weights before they are saved, are looked at instead.
    """

    def __init__(self, config: OptimConfig, method: nn.Module, device: torch.device) -> None:
        self.method, self.fp16 = method, config.precision == "fp16"
        self.looks = self.fp16 or config.nonfinite == "skip"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.fp16)
        self.skipped = self.in_a_row = 0
        self.news: list[str] = []  # for the log, which empties it
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Before the first forward of a step, which moves the running statistics."""
        if self.looks:
            self._before = [buffer.clone() for buffer in self._statistics()]

    def scaled(self, loss: Tensor) -> Tensor:
        """What to go backward from."""
        return self.scaler.scale(loss)

    def sound(self, optimizer: Optimizer, losses: dict[str, Tensor], clock: Clock) -> bool:
        """Whether the step may be taken; its gradients are scaled back. losses: to be told of when it may not.

        Raises UserError after too many bad steps in a row.
        """
        if self.fp16:
            self.scaler.unscale_(optimizer)
        if not self.looks:
            return True
        gradient = norm(p.grad for p in self.method.parameters())
        if gradient.isfinite():
            self.in_a_row = 0
            return True
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        told = ", ".join(f"{name} {float(value):.4g}" for name, value in losses.items())
        told = f"{told}, gradient norm {float(gradient):.4g}, weight norm {float(norm(self.method.parameters())):.4g}"
        if self.in_a_row >= IN_A_ROW:
            problem = f"step {clock.step + 1}: {IN_A_ROW} steps in a row are not finite ({told})"
            raise UserError("optim.learning_rate", problem, REMEDY)
        if not self.fp16 or not losses["loss"].isfinite():  # else the search for a scale
            self.news.append(f"step {clock.step + 1} is not finite and left out ({told}); {self.skipped} so far")
        return False

    def end(self, *, taken: bool) -> None:
        """After the step and its running statistics, which go back where it was not taken."""
        if self.looks and not taken:
            torch._foreach_copy_(self._statistics(), self._before)
        if self.fp16:
            self.scaler.update()

    def check(self, losses: dict[str, float], step: int) -> None:
        """Raise UserError where a logged loss is not finite and such steps are not left out."""
        bad = [name for name, value in losses.items() if value != value or abs(value) == float("inf")]
        if bad and not self.looks:
            told = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            gradient = float(norm(p.grad for p in self.method.parameters()))
            problem = f"step {step}: the loss is not finite ({told}, gradient norm {gradient:.4g})"
            raise UserError("optim.learning_rate", problem, f"{REMEDY}; optim.nonfinite=skip leaves such steps out")

    def check_weights(self, step: int) -> None:
        """Raise UserError where a weight is not finite: such a run is not saved."""
        if not norm(self.method.parameters()).isfinite():
            problem = f"step {step}: the weights are not finite"
            raise UserError("optim.learning_rate", problem, f"{REMEDY}; the checkpoint before stands")

    def state_dict(self) -> dict[str, Any] | None:
        """The loss scale, for a checkpoint."""
        return self.scaler.state_dict() if self.fp16 else None

    def load_state_dict(self, stored: dict[str, Any] | None) -> None:
        """What `state_dict` gave."""
        if stored and self.fp16:
            self.scaler.load_state_dict(stored)

    def _statistics(self) -> list[Tensor]:
        named = self.method.named_buffers()
        return [buffer for name, buffer in named if name.rpartition(".")[2].startswith("running_")]


def norm(tensors: Iterable[Tensor | None]) -> Tensor:
    """The norm () of all given tensors together, on their device."""
    given = [tensor.detach() for tensor in tensors if tensor is not None]
    return torch.stack([part.float() for part in torch._foreach_norm(given)]).norm() if given else torch.zeros(())
