"""A signal makes all ranks leave together with a checkpoint, at any moment; the run then goes on to the same end."""

import os
import signal
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.runs import tiny_settings
from training import interrupts
from training.begin import continued_run, new_run
from training.build import Run
from training.interrupts import Interrupts, Preempted
from training.log import Log
from training.loop import train
from training.run_dir import create_run
from training.settings import Settings
from utils import distributed

STEPS = 22  # an epoch of the 1,437 training rows
INSIDE, END = 30, 2 * STEPS


def settings() -> Settings:
    return tiny_settings(
        "propos", data__split="train", optim__epochs=2, estep__every_epochs=1, log__every_steps=1,
        run__checkpoint_minutes=10, method__bn_groups=2,
    )  # fmt: skip


class Told(Log):
    """A log that sends a signal to this process when it is told of a step."""

    def __init__(self, when: int | None) -> None:
        super().__init__(settings().log, None, {})
        self.when = when

    def metrics(self, phase: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """Send it."""
        if phase == "train" and step == self.when:
            os.kill(os.getpid(), signal.SIGTERM)


def ends(run: Run, when: int | None) -> dict[str, Tensor]:
    """Train on; what the run has then."""
    with Told(when) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None and run.state.labels is not None and run.state.centers is not None
    return {**run.method.state_dict(), "labels": run.state.labels, "centers": run.state.centers}


@cache
def whole() -> dict[str, Tensor]:
    """The end of the run that nothing disturbs; the same for all moments, so each rank keeps it."""
    return ends(new_run(settings(), torch.device("cpu")), None)


def left_and_gone_on(rank: int, world: int, when: int, folder: str) -> tuple[int, int, list[str]]:
    """Steps done when it left, steps in the checkpoint, and what differs at the end. The last rank gets the signal."""
    run = new_run(settings(), torch.device("cpu"))
    run.directory = create_run(Path(folder), "run", "test", run.settings.to_yaml())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        ends(run, when if rank == world - 1 else None)
    assert signal.getsignal(signal.SIGTERM) is before
    distributed.barrier()
    again = continued_run(settings(), run.directory, torch.device("cpu"))
    left, stored, end = run.clock.step, again.clock.step, ends(again, None)
    return left, stored, [name for name, value in whole().items() if not torch.equal(end[name], value)]


@pytest.mark.parametrize(
    ("when", "world"), [(1, 1), (INSIDE, 1), (STEPS, 1), (END, 1), (INSIDE, 2), (STEPS, 2), (END, 2)]
)
def test_a_signal_to_one_rank_saves_the_run_which_goes_on_bit_for_bit(when: int, world: int, tmp_path: Path) -> None:
    """Two ranks answer one pause later, so that a signal in an epoch's last step is answered inside the E-step."""
    work = (when, str(tmp_path))
    answered = when + 1 if world == 2 and when == INSIDE else when
    for result in run_ranks(world, left_and_gone_on, *work) if world > 1 else [left_and_gone_on(0, 1, *work)]:
        assert result == (answered, answered, [])


def test_a_second_press_of_ctrl_c_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with pytest.raises(KeyboardInterrupt), Interrupts(0):
        os.kill(os.getpid(), signal.SIGINT)
        now += interrupts.SAME_PRESS / 2
        os.kill(os.getpid(), signal.SIGINT)  # the launcher's copy of the first
        now += interrupts.SAME_PRESS
        os.kill(os.getpid(), signal.SIGINT)


def test_a_checkpoint_is_due_when_the_last_is_old_and_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Interrupts(1) as asked:
        assert not asked.pause()
        now += 61
        assert [asked.pause(), asked.pause()] == [True, False]
        assert not asked.epoch_ends()
        now += 61
        assert asked.epoch_ends()
    with Interrupts(0) as after_each_epoch:
        now += 1000
        assert not after_each_epoch.pause()
        assert after_each_epoch.epoch_ends()
