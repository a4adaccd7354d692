"""How far long work has come: a line now and then, from rank 0 alone."""

import time

from utils import distributed
from utils.duration import duration

TELL_SECONDS = 10


class Progress:
    """Counts what is done and says now and then how much that is and how long the rest will take."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.done, self.total = what, 0, total
        self.started = self.told = time.monotonic()

    def add(self, number: int = 1) -> None:
        """Count `number` more as done; say so where nothing has been said for `TELL_SECONDS`."""
        self.done, now = self.done + number, time.monotonic()
        if now - self.told >= TELL_SECONDS and distributed.is_main():
            left = (now - self.started) / self.done * (self.total - self.done)
            print(f"{self.what}: {self.done:,} of {self.total:,}  left {duration(left)}", flush=True)
            self.told = now
