"""Signs of life: every rank says every few seconds that it is there; who falls silent is named, and the job ends.

A collective that waits for a stopped or lost rank tells nobody whom it waits for. A thread of each rank does: it needs
no message between ranks, but a key-value store that all reach, so it works on every backend and beside any work.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PERIOD = 3.0  # seconds between two signs
ENDED = "ended"


class Heartbeat:
    """A thread that gives signs and looks for those of others: rank 0 watches all ranks, the others watch rank 0.

    store: of torch.distributed, with a time-out of about `silence_seconds`; own, as a waiting call would block others.
    lost: called with one line when a rank has given no sign for `silence_seconds`, with "" when another rank found one.
    """

    def __init__(self, store: Any, rank: int, world: int, silence_seconds: float, lost: Callable[[str], None]) -> None:
        self.store, self.rank, self.silence_seconds, self.lost = store, rank, silence_seconds, lost
        self.watched = list(range(1, world)) if rank == 0 else [0]
        self.last: dict[int, tuple[str, float]] = {}  # rank: its last sign and when that was new
        self.signs, self.answered = 0, time.monotonic()
        self.stopped = threading.Event()
        self.period = min(PERIOD, silence_seconds / 4)
        self.thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to give signs and to look for those of others."""
        self.look(time.monotonic())
        self.thread.start()

    def stop(self) -> None:
        """End it: from now on this rank misses nobody."""
        self.stopped.set()

    def whereabouts(self) -> str:
        """'rank 1 seen 2 s ago at training/step.py:53 (process 4711 on host)', of each watched rank."""
        now = time.monotonic()
        seen = sorted(self.last.items())
        return ", ".join(f"rank {who} seen {now - when:.0f} s ago {_told(sign)}" for who, (sign, when) in seen)

    def look(self, now: float) -> None:
        """Give a sign and look for those of others; a rank that has never given one is not missed."""
        try:
            self._sign()
            ended = self.store.check([ENDED])
            known = [who for who in self.watched if self.store.check([str(who)])]
            signs = [self.store.get(str(who)).decode() for who in known]
        except Exception:  # whoever keeps the store is gone or stopped
            if now - self.answered >= self.silence_seconds:
                self._end(f"no sign of life for {self.silence_seconds:.0f} s from rank 0 or the launcher")
            return
        self.answered = now
        for who, sign in zip(known, signs, strict=True):
            if self.last.get(who, ("", now))[0] != sign:
                self.last[who] = (sign, now)
        silent = [who for who, (_, when) in sorted(self.last.items()) if now - when >= self.silence_seconds]
        if silent:
            told = ", ".join(f"rank {who}, last seen {_told(self.last[who][0])}" for who in silent)
            text = f"no sign of life for {self.silence_seconds:.0f} s from {told}: stopped, dead or cut off"
            self.store.set(ENDED, text)
            self._end(text)
        elif ended:
            self._end("")

    def _end(self, text: str) -> None:
        if not self.stopped.is_set():
            self.lost(text)

    def _sign(self) -> None:
        self.signs += 1
        self.store.set(str(self.rank), f"{self.signs} at {_place()} (process {os.getpid()} on {socket.gethostname()})")

    def _watch(self) -> None:
        while not self.stopped.wait(self.period):
            self.look(time.monotonic())


def _told(sign: str) -> str:
    return sign.partition(" ")[2]


def _place() -> str:
    """Where in this project the main thread is: 'training/step.py:53'."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "its end"
