"""Work done ahead of its consumer: reading the next batches while the present one is computed with."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

J = TypeVar("J")
R = TypeVar("R")
Event = torch.cuda.Event | None


def ahead(jobs: Iterable[J], work: Callable[[J], R], device: torch.device, depth: int) -> Generator[R, None, None]:
    """work(job) for each job, in order, with up to `depth` jobs begun before they are asked for, by one thread.

    Jobs are taken in the consumer's thread, `depth` ahead; depth 0 does everything there, when asked. An exception,
    of `jobs` or of `work`, is raised where the result would have come. Closed early, the generator drops what is not
    begun and waits for what is; no thread is left.

    On CUDA, `work` runs on a stream of its own. It begins after what the consumer's stream had in it when the job was
    taken, and the consumer's stream waits for its end; the consumer must ask for results on the stream it uses them on.
    """
    if depth == 0:
        yield from map(work, jobs)
        return
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    begun: deque[Future[tuple[R, Event]]] = deque()
    later = _begin_each(jobs, lambda job: pool.submit(_make, work, job, stream, _now(device)))
    try:
        begun.extend(islice(later, depth))
        while begun:
            result, made = begun.popleft().result()
            begun.extend(islice(later, 1))
            if made is not None:
                consumer = torch.cuda.current_stream(device)
                consumer.wait_event(made)
                for tensor in tensors_in(result):
                    tensor.record_stream(consumer)  # its memory is not used again before the consumer is done with it
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
        if stream is not None:  # what the dropped jobs read may be overwritten from here on
            torch.cuda.current_stream(device).wait_stream(stream)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in lists, tuples, dicts and dataclasses within each other."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif is_dataclass(value):
        yield from tensors_in([getattr(value, field.name) for field in fields(value)])


def _begin_each(jobs: Iterable[J], begin: Callable[[J], "Future[R]"]) -> Iterator["Future[R]"]:
    """begin(job) for each job; an exception of `jobs` as a future that raises it, behind those of the jobs before."""
    try:
        for job in jobs:
            yield begin(job)
    except Exception as error:
        failed: Future[R] = Future()
        failed.set_exception(error)
        yield failed


def _now(device: torch.device) -> Event:
    """The end of what the current stream of this thread has in it; None on the CPU."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _make(work: Callable[[J], R], job: J, stream: torch.cuda.Stream | None, taken: Event) -> tuple[R, Event]:
    """The job's result and the event of its end on `stream`, which first waits for `taken`."""
    if stream is None or taken is None:
        return work(job), None
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        stream.wait_event(taken)
        return work(job), stream.record_event()
