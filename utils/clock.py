"""The clock of a run: optimiser steps done. Every schedule is a pure function of it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Clock:
    """Optimiser steps done and what they add up to.

    step: optimiser steps done, 0 before the first. stop_step: the step after which the run ends although its schedules
    go on to `total_steps` (`run.max_steps`); None means at the end.
    """

    step: int
    steps_per_epoch: int
    epochs: int
    stop_step: int | None = None

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the current one."""
        return self.step / self.steps_per_epoch

    @property
    def whole_epochs(self) -> int:
        """Whole epochs done: the 0-based number of the epoch that the next step belongs to."""
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """Steps of the current epoch already done."""
        return self.step % self.steps_per_epoch

    @property
    def steps_left_in_epoch(self) -> int:
        """Steps that the current epoch still has, fewer where the run ends inside it."""
        return min(self.steps_per_epoch - self.step_in_epoch, self.last_step - self.step)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole schedule."""
        return self.steps_per_epoch * self.epochs

    @property
    def last_step(self) -> int:
        """The step at which this run ends."""
        return self.total_steps if self.stop_step is None else min(self.stop_step, self.total_steps)

    @property
    def finished(self) -> bool:
        """Whether the run has done its last step."""
        return self.step >= self.last_step

    def tick(self) -> "Clock":
        """The clock after one more optimiser step."""
        return replace(self, step=self.step + 1)
