"""Which of several cluster heads learns best, by its training loss: no label is asked."""

import torch
from torch import Tensor, nn

from utils import distributed
from utils.clock import Clock


class HeadLosses(nn.Module):
    """The summed loss of each of H heads over the steps of this epoch; equal on every rank, in the checkpoint."""

    sums: Tensor

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(n_heads, dtype=torch.float64))

    @torch.no_grad()
    def write(self, losses: Tensor, clock: Clock) -> None:
        """Add the losses of a step, (micro-batches, H) of this rank; an epoch's first step starts anew. Collective."""
        if clock.step_in_epoch == 0:
            self.sums.zero_()
        self.sums += distributed.mean_over_ranks_(losses.double().mean(0))

    def best(self) -> Tensor:
        """() int64: the head of least loss; the first before any step."""
        return self.sums.argmin()
