"""A plugin that kills its own process at a named place, for benchmarks/faults.py: EMBLEM_KILL=RANK:PLACE:NUMBER.

PLACE is step, estep-start, estep-inside or saving; NUMBER counts its visits from 1. Only a first attempt is killed.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

import training.checkpoint
import training.embed
import training.loop

METHODS: dict[str, Any] = {}
PLACES = {
    "step": (training.loop, "train_step"),
    "estep-start": (training.loop, "e_step"),
    "estep-inside": (training.embed, "derived_seed"),  # after all rows are embedded, before they are clustered
    "saving": (training.checkpoint, "sha256_of"),  # the file is written, but not yet in its place
}


def kill_at(visit: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, before whose given visit the process ends without a word."""
    visits = 0

    def watched(*args: Any, **named: Any) -> Any:
        nonlocal visits
        visits += 1
        if visits == visit:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)

    return watched


if (asked := os.environ.get("EMBLEM_KILL")) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
    _rank, _place, _visit = asked.split(":")
    if os.environ.get("RANK", "0") == _rank:
        _module, _name = PLACES[_place]
        setattr(_module, _name, kill_at(int(_visit), getattr(_module, _name)))
