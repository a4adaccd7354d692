"""Random numbers as pure functions of (seed, purpose, step, global position): equal at any number of ranks.

Every number is drawn on the CPU for the whole global batch, and each rank keeps its slice.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def seeded(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone, for instance `seeded(seed, "order", epoch)`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def derived_seed(*key: int | str) -> int:
    """A non-negative 31-bit seed that is a function of `key` alone, for libraries that want a number."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 33


@dataclass(frozen=True)
class Draws:
    """Random numbers of one step for the global positions [start, stop) of a batch of `total` rows."""

    seed: int
    step: int
    start: int
    stop: int
    total: int

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32 on the CPU, N(0, 1): this rank's slice of the global draw."""
        return torch.randn((self.total, *shape), generator=self._generator(purpose))[self.start : self.stop]

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float64 on the CPU, U[0, 1): this rank's slice of the global draw."""
        numbers = torch.rand((self.total, *shape), generator=self._generator(purpose), dtype=torch.float64)
        return numbers[self.start : self.stop]

    def uniform_of_all(self, purpose: str, shape: tuple[int, ...], size: int) -> Tensor:
        """(size, *shape) float64 on the CPU, U[0, 1), of the micro-batch of `size` positions that holds this rank's.

        Equal on all ranks; this rank's part of it is what `uniform` gives.
        """
        numbers = torch.rand((self.total, *shape), generator=self._generator(purpose), dtype=torch.float64)
        return numbers[self.start // size * size :][:size]

    def permutation(self, purpose: str, size: int) -> Tensor:
        """(size,) int64 on the CPU: a permutation of the micro-batch of `size` positions that holds this rank's.

        Equal on all ranks.
        """
        return torch.randperm(size, generator=seeded(self.seed, purpose, self.step, self.start // size))

    def _generator(self, purpose: str) -> torch.Generator:
        return seeded(self.seed, purpose, self.step)
