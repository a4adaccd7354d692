"""Batches made ahead of their consumer, by one thread that is never left behind."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from data.loader import ahead, tensors_in

CPU = torch.device("cpu")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("depth", [0, 1, 3, 11])
def test_results_come_in_the_order_of_their_jobs(depth: int) -> None:
    assert list(ahead(range(7), lambda job: job * job, CPU, depth)) == [0, 1, 4, 9, 16, 25, 36]
    assert threads() == []


@pytest.mark.parametrize("depth", [0, 2])
def test_no_jobs_give_no_results(depth: int) -> None:
    assert list(ahead([], lambda job: job, CPU, depth)) == []


def test_depth_zero_works_in_the_consumers_thread_when_asked() -> None:
    taken: list[int] = []
    results = ahead((taken.append(job) or job for job in range(5)), lambda job: threading.current_thread(), CPU, 0)
    assert next(results) is threading.main_thread()
    assert taken == [0]


def test_so_many_jobs_are_begun_before_they_are_asked_for() -> None:
    taken: list[int] = []
    results = ahead((taken.append(job) or job for job in range(11)), lambda job: job, CPU, 3)
    assert taken == []
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert next(results) == 1
    assert taken == [0, 1, 2, 3, 4]
    results.close()


def test_the_next_result_is_made_while_the_consumer_holds_the_present_one() -> None:
    made = threading.Event()

    def work(job: int) -> int:
        if job == 1:
            made.set()
        return job

    results = ahead(range(3), work, CPU, 1)
    next(results)
    assert made.wait(60)
    results.close()


def failing(job: int) -> int:
    if job == 2:
        raise ValueError("job 2")
    return job


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_an_exception_in_the_work_is_raised_in_its_place_and_ends_the_thread(depth: int) -> None:
    results, seen = ahead(range(5), failing, CPU, depth), []
    with pytest.raises(ValueError, match="job 2"):
        for result in results:
            seen.append(result)
    assert seen == [0, 1]
    assert threads() == []


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_an_exception_of_the_jobs_comes_behind_the_jobs_before_it(depth: int) -> None:
    def jobs() -> Iterator[int]:
        yield from range(2)
        raise KeyError("no third")

    results, seen = ahead(jobs(), lambda job: job, CPU, depth), []
    with pytest.raises(KeyError, match="no third"):
        for result in results:
            seen.append(result)
    assert seen == [0, 1]
    assert threads() == []


def test_closing_early_begins_no_further_job_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    first, go = threading.Event(), threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def shutdown_then_go(pool: ThreadPoolExecutor, wait: bool = True, **words: bool) -> None:
        shutdown(pool, wait=False, **words)
        go.set()
        shutdown(pool, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown_then_go)

    def work(job: int) -> int:
        begun.append(job)
        if job == 1:
            first.set()
            go.wait(60)
        return job

    results = ahead(range(1000), work, CPU, 5)
    next(results)
    assert first.wait(60)
    results.close()
    assert begun == [0, 1]
    assert threads() == []


def test_a_generator_never_asked_takes_no_job_and_starts_no_thread() -> None:
    taken: list[int] = []
    ahead((taken.append(job) or job for job in range(3)), lambda job: job, CPU, 2)
    assert (taken, threads()) == ([], [])


@dataclass(frozen=True)
class Nested:
    views: list[torch.Tensor]
    named: dict[str, tuple[torch.Tensor, int]]
    inner: object = None


def test_tensors_are_found_in_whatever_a_batch_is_made_of() -> None:
    a, b, c = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    found = tensors_in((Nested([a], {"b": (b, 3)}, Nested([], {}, c)), "text", None))
    assert [tensor.item() for tensor in found] == [0, 1, 2]


@pytest.mark.gpu
def test_on_a_gpu_results_made_on_a_side_stream_are_whole_when_they_come() -> None:
    device = torch.device("cuda")
    blocks = [torch.full((1009, 1013), number, dtype=torch.float64, device=device) for number in range(3)]

    def work(job: int) -> dict[str, torch.Tensor]:
        assert torch.cuda.current_stream(device) != torch.cuda.default_stream(device)
        value = blocks[job % 3]
        for _ in range(50):  # long enough to be seen unfinished, were nobody waiting
            value = value + 1
        return {"value": value - 50 + job}

    for job, result in enumerate(ahead(range(97), work, device, 2)):
        busy = torch.randn(701, 701, device=device) @ torch.randn(701, 701, device=device)
        total = result["value"].sum()
        del result, busy  # its memory goes back while the consumer's stream may still be reading it
        assert total.item() == 1009 * 1013 * (job % 3 + job)
    assert threads() == []
