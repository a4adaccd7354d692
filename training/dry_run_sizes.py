"""Bytes of what a run holds, counted on its networks without their numbers."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from data.sources.base import GIB
from models.state import ClusterState
from training.build import Run
from training.loop import e_step_is_due

COPIES = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}  # numbers that an optimiser keeps for each learnt one
RECORD_BYTES, FILE_BYTES = 250, 4200  # of a checkpoint beside its numbers, for each tensor and in all (the config)


@dataclass(frozen=True)
class Sizes:
    """Of one of `world` ranks of `run`, whose tensors may be on the device "meta".

    state: clusters of fewer rows, of noise; None where there are none. width: columns of what is clustered.
    """

    run: Run
    world: int
    state: ClusterState | None
    width: int

    @property
    def rows(self) -> int:
        """Rows of a rank in a micro-batch."""
        optim = self.run.settings.optim
        return optim.global_batch // optim.accumulation // self.world

    @property
    def e_steps(self) -> int:
        """E-steps of the run, the one after its last epoch included."""
        clock = self.run.clock
        starts = [replace(clock, step=step) for step in range(0, clock.last_step, clock.steps_per_epoch)]
        return 1 + sum(e_step_is_due(replace(self.run, clock=start)) for start in starts)

    @property
    def learnt(self) -> int:
        """Parameters that are learnt."""
        return n_bytes(p for p in self.run.method.parameters() if p.requires_grad)

    @property
    def optimizer(self) -> int:
        """What the optimiser keeps once each learnt parameter has had its first gradient."""
        return self._copies * self.learnt + (4 * self._n_learnt if self._counts else 0)

    @property
    def clusters(self) -> tuple[int, int]:
        """The clusters of all rows, and of these what has one entry a row. Without `state` labels and centers."""
        many = self.run.source.n_rows
        if self.state is None or self.state.labels is None:
            return 8 * many + self.run.method.n_clusters * self.width * self._number, 8 * many
        few, tensors = len(self.state.labels), list(tensors_of(self.state))
        by_row = [t for t in tensors if t.ndim and len(t) == few]
        grown = sum(math.ceil(t.nbytes * many / few) for t in by_row)
        return grown + n_bytes(tensors) - n_bytes(by_row), grown

    @property
    def checkpoint(self) -> int:
        """One file: weights, buffers, optimiser, clusters."""
        tensors = list(self.run.method.state_dict().values())
        n_tensors = len(tensors) + (self._copies + self._counts) * self._n_learnt + len(list(tensors_of(self.state)))
        return n_bytes(tensors) + self.optimizer + self.clusters[0] + RECORD_BYTES * n_tensors + FILE_BYTES

    @property
    def images(self) -> int:
        """All images, a byte for each channel of a pixel."""
        source = self.run.source
        return (source.n_rows + source.n_extra) * math.prod(source.image_shape)

    @property
    def resident(self) -> bool:
        """Whether all images lie on the device, as far as `data.memory_gib` decides it."""
        return not self.run.source.streams and self.images <= self.run.settings.data.memory_gib * GIB

    def memory(self, saved: float) -> dict[str, float]:
        """What a rank holds, by what it is. saved: bytes that backward needs of a micro-batch."""
        run, weights, own = self.run, n_bytes(self.run.method.parameters()), self.run.source.n_rows / self.world
        parts = {
            "weights that are learnt": self.learnt,
            "weights that are not (moving averages, frozen)": weights - self.learnt,
            "buffers of the method (BatchNorm, queue, bank)": n_bytes(run.method.buffers()),
            "gradients": self.learnt,
            f"optimiser ({run.settings.optim.name})": self.optimizer,
            "clusters of all rows" + (" (labels and centers alone)" if self.state is None else ""): self.clusters[0],
            "E-step: features of own rows, and normalised": 2 * own * self.width * self._number,
            "order of the rows in an epoch": 8 * max(run.source.n_rows, run.source.n_extra),
            "images, all of them": self.images if self.resident else 0,
            "features of all rows": run.source.n_rows * self.width * self._number * (run.method.input == "features"),
            "~ kept for backward, of a micro-batch": saved,
        }
        return {name: size for name, size in parts.items() if size}

    @property
    def _number(self) -> int:
        """Bytes of a number of the weights."""
        return next(self.run.method.parameters()).element_size()

    @property
    def _n_learnt(self) -> int:
        return sum(p.requires_grad for p in self.run.method.parameters())

    @property
    def _copies(self) -> int:
        optim = self.run.settings.optim
        return 0 if optim.name == "sgd" and not optim.sgd_momentum else COPIES[optim.name]

    @property
    def _counts(self) -> bool:
        """Whether the optimiser counts the steps of each parameter."""
        return self.run.settings.optim.name in ("adam", "adamw")


def n_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all their numbers."""
    return sum(tensor.nbytes for tensor in tensors)


def tensors_of(state: ClusterState | None) -> Iterator[Tensor]:
    """All tensors of a state and of its levels."""
    if state is not None:
        yield from (value for value in vars(state).values() if isinstance(value, Tensor))
        yield from state.extra.values()
        for level in state.levels:
            yield from tensors_of(level)
