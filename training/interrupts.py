"""What comes from outside while a run goes on: a signal to leave, and the time to save. Ranks answer it together."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from utils import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME_PRESS = 1.0  # seconds: a launcher passes on the Ctrl-C that its ranks have had from the terminal, too


class Preempted(Exception):  # noqa: N818
    """The run was told to leave: what it has learnt is to be saved, and it can go on later."""


class Interrupts:
    """Within the `with` block a first signal asks the run to leave at its next pause; a second Ctrl-C ends it at once.

    checkpoint_minutes: rank 0 asks for a checkpoint when the last is this old; 0 never asks.
    """

    def __init__(self, checkpoint_minutes: float) -> None:
        self.every = 60 * checkpoint_minutes
        self.saved = time.monotonic()
        self.told: float | None = None  # when the first signal came
        self._answers = distributed.start_any(False, False)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self._answers()  # a message under way ends before others begin

    def pause(self) -> bool:
        """Whether it is time to save. Collective, and nobody waits: a call gives what was asked at the call before it.

        Raises Preempted, on all ranks in the same call, when one of them was told to leave.
        """
        due = distributed.is_main() and 0 < self.every <= time.monotonic() - self.saved
        if due:
            self.has_saved()  # as good as: it is asked for once
        asked = distributed.start_any(self.told is not None, due)
        leave, save = (asked if distributed.world() == 1 else self._answers)()
        self._answers = asked
        if leave:
            raise Preempted
        return save

    def epoch_ends(self) -> bool:
        """Whether it is time to save after an epoch; with 0 minutes it is after each. Collective."""
        return distributed.broadcast_object(time.monotonic() - self.saved >= self.every)

    def has_saved(self) -> None:
        """The time of `checkpoint_minutes` begins anew."""
        self.saved = time.monotonic()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.told is None:
            self.told = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.told > SAME_PRESS:
            raise KeyboardInterrupt
