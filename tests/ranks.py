"""One gloo pool per world size, kept for the whole test session.

`run_ranks(2, work, *args)` runs `work(rank, world, *args)` on each of two ranks. `work` is a module-level function of a
test file. A failing or hanging rank fails the test with its traceback, and the pool is made anew.
"""

import atexit
import multiprocessing
import multiprocessing.context
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 240
POOLS: dict[int, "Pool"] = {}


def run_ranks(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """The results of `work(rank, world, *args)` on ranks 0 to world - 1, in rank order."""
    if world not in POOLS:
        POOLS[world] = Pool(world)
    try:
        return POOLS[world].run(work, args)
    except BaseException:
        POOLS.pop(world).stop()
        raise


class Pool:
    """`world` spawned processes in one gloo group, each addressed by its rank."""

    def __init__(self, world: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        rendezvous = (Path(self.folder.name) / "rendezvous").as_uri()
        made = context()
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world):
            here, there = made.Pipe()
            process = made.Process(target=_serve, args=(rank, world, rendezvous, there), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def run(self, work: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        message = pickle.dumps((work, args))
        for pipe in self.pipes:
            pipe.send_bytes(message)
        results = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(TIMEOUT_SECONDS):
                raise TimeoutError(f"rank {rank} gave no answer within {TIMEOUT_SECONDS} s")
            done, value = pickle.loads(pipe.recv_bytes())
            if not done:
                raise AssertionError(f"rank {rank} failed:\n{value}")
            results.append(value)
        return results

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def context() -> multiprocessing.context.BaseContext:
    """Where that is sound, ranks are forked from one process that has done their imports; else each does its own."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(
        ["torch.distributed", "training.begin", "training.loop", "torch._dynamo", "sklearn.datasets", "pytest"]
    )
    return forking


def _serve(rank: int, world: int, rendezvous: str, pipe: Connection) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            os._exit(0)
        try:
            work, args = pickle.loads(message)
            answer = (True, work(rank, world, *args))
        except BaseException:
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))


@atexit.register
def _stop_all() -> None:
    for pool in POOLS.values():
        pool.stop()
