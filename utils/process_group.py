"""The life of the process group: how ranks find each other, miss each other, and part."""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from utils.distributed import launched_world
from utils.heartbeat import Heartbeat

SILENCE_SECONDS = 45.0  # a rank without a sign of life for this long is named, and the job ends
_heartbeat: Heartbeat | None = None


class MissingRanks(Exception):  # noqa: N818
    """Ranks that were launched did not come."""


def join(device: torch.device, timeout_seconds: float = 600, lost: Callable[[str], None] = lambda text: None) -> None:
    """Join the launcher's process group: nccl beside gloo on CUDA, gloo on the CPU. Collective.

    timeout_seconds: how long a collective waits for the slowest rank. lost: called with one line, in another thread,
    when a rank is stopped, dead or cut off; this process ends right after.
    Raises MissingRanks, with their numbers, when ranks do not come in time.
    """
    global _heartbeat
    if launched_world() == 1:
        return
    timeout, rank = timedelta(seconds=timeout_seconds), int(os.environ["RANK"])
    kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    server = dist.TCPStore(*address, None, rank == 0 and not kept_by_launcher, timeout, wait_for_workers=False)
    store = dist.PrefixStore(_attempt(), server)
    _wait_for_all(store, rank, timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=launched_world(), timeout=timeout)
    silence = min(SILENCE_SECONDS, 0.75 * timeout_seconds)  # before a collective gives up, which names nobody
    own = dist.TCPStore(*address, None, False, timedelta(seconds=silence))

    def leave(text: str) -> None:
        if text:
            _speak(f"{text}; the job ends")
            lost(text)
        os._exit(1)

    _heartbeat = Heartbeat(dist.PrefixStore(f"{_attempt()}/signs", own), rank, launched_world(), silence, leave)
    _heartbeat.start()


def part(code: int) -> None:
    """End this process in order, with `code`. The caller has dropped its DDP wrappers.

    A live process group lets gloo's threads abort the interpreter after all work is done: it is destroyed first, and
    the interpreter left without its own teardown. After a failure nobody is waited for.
    """
    gc.collect()
    if dist.is_initialized() and code == 0:
        dist.barrier()
        if _heartbeat is not None:
            _heartbeat.stop()
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lost_another(error: Exception) -> str | None:
    """A line on an error that means that another rank does not answer; None for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingRanks):
        return text
    if launched_world() == 1 or not (isinstance(error, dist.DistError) or "gloo" in text.lower() or "NCCL" in text):
        return None
    where = f"; {_heartbeat.whereabouts()}" if _heartbeat is not None and _heartbeat.last else ""
    return f"another rank has left or does not answer{where} ({text[:120]})"


def restart_is_safe() -> bool:
    """Whether ranks that the launcher starts again find each other: with several launchers torch needs a variable."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    return not (restarts and several and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _attempt() -> str:
    """Where this attempt's keys lie in the store: one launcher's store still holds the addresses of dead ranks.

    With several launchers the count is each one's own and may differ, so all use one place.
    """
    one = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"emblem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if one else 'all'}"


def _wait_for_all(store: dist.Store, rank: int, timeout: timedelta) -> None:
    """Wait until every rank has come; names those that have not."""
    store.set(f"here/{rank}", "1")
    names = [f"here/{other}" for other in range(launched_world())]
    with contextlib.suppress(dist.DistError, RuntimeError):
        store.wait(names, timeout)
    missing = [other for other, name in enumerate(names) if not store.check([name])]
    if missing:
        told = ", ".join(map(str, missing))
        raise MissingRanks(f"of {launched_world()} ranks no sign of {told} in {timeout.total_seconds():.0f} s")


def _speak(text: str) -> None:
    """Say it as rank 0; the others give rank 0 or their launcher 10 s to speak or to end them."""
    if dist.get_rank() > 1:
        time.sleep(10)
    print(f"error: {text}", file=sys.stderr, flush=True)
