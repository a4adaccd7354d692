"""What a method sees of one micro-batch."""

from dataclasses import dataclass

from torch import Tensor

from utils.draws import Draws

UNLABELLED = "unlabelled"  # the phase of rows that train but are never clustered: a method's loss sees no state there


@dataclass(frozen=True)
class Batch:
    """This rank's part of one micro-batch.

    views: each (B, C, H, W), normalised, on the device. rows: (B,) int64 global row ids, on the device.
    positions: (B,) int64 places in the global batch. draws: random numbers bound to seed, step and positions.
    """

    views: list[Tensor]
    rows: Tensor
    positions: Tensor
    draws: Draws
    phase: str = "train"
