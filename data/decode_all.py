"""All images of a listing through several threads: in order, with a line of progress, the unreadable ones named."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from data.decode import Unreadable
from data.listing import Listing
from utils import distributed
from utils.errors import UserError

T = TypeVar("T")
AT_ONCE = 16  # images a thread takes together: handing over a single small one costs as much as decoding it


class Fault(NamedTuple):
    """An item of a listing that is no row, with the reason. `missing`: its bytes could not be had, perhaps for now."""

    number: int
    reason: str
    missing: bool


def n_threads(wanted: int | None, *, alone: bool) -> int:
    """Threads to decode with: `wanted`, or the cores of the machine over its ranks; all of them `alone`."""
    ranks = 1 if alone else distributed.local_world()
    cores = os.cpu_count() or 1
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return wanted or max(1, min(own, cores // ranks))


def attempt(listing: Listing, number: int, make: Callable[[bytes], T]) -> T | Fault:
    """`make` of the bytes of one item, or why there is none."""
    try:
        return make(listing.read(number))
    except OSError as error:
        return Fault(number, f"cannot be read: {error.strerror or error}", missing=True)
    except Unreadable as error:
        return Fault(number, str(error), missing=False)


def each_readable(
    listing: Listing, make: Callable[[bytes], np.ndarray], threads: int, faults: list[Fault], *, shown: bool
) -> Iterator[np.ndarray]:
    """`make` of each item's bytes, in the order of the listing; one that fails is left out and added to `faults`.

    shown: with a line of progress and of the time left, often on a terminal, every 30 s in a log.

    Raises:
        UserError: not one item can be read.
    """
    outcomes = _in_order(lambda number: attempt(listing, number, make), len(listing), threads)
    try:
        for outcome in tqdm(
            outcomes,
            desc=f"reading {listing.where}",
            total=len(listing),
            unit=" images",
            delay=2,
            mininterval=0.2 if sys.stderr.isatty() else 30,
            disable=not shown,
        ):
            if isinstance(outcome, Fault):
                faults.append(outcome)
            else:
                yield outcome
    finally:
        outcomes.close()
    if len(faults) == len(listing):
        first = f" ({listing.names[0]}: {faults[0].reason}, ...)" if faults else ""
        raise UserError(listing.where, f"none of its {len(listing)} image files can be read{first}")


def _in_order(work: Callable[[int], T], count: int, threads: int) -> Generator[T, None, None]:
    """work(0) to work(count - 1), a few of them made ahead."""

    def several(start: int) -> list[T]:
        return [work(number) for number in range(start, min(start + AT_ONCE, count))]

    begun: deque[Future[list[T]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for start in range(0, count, AT_ONCE):
            begun.append(pool.submit(several, start))
            if len(begun) > 2 * threads:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
