"""The EM loop: E-step, an epoch of M-steps, again."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from torch.profiler import profile

from models.state import ClusterState
from training.build import Run, compile_networks
from training.embed import embed_shard
from training.interrupts import Interrupts, Preempted
from training.log import Log
from training.narrator import Narrator
from training.profile import profiled
from training.saver import Saver
from training.step import train_step
from utils import distributed
from utils.clock import Clock
from utils.errors import UserError


@dataclass(frozen=True)
class Epoch:
    """Where the run stands after an epoch: what a caller may look at between two epochs."""

    clock: Clock
    state: ClusterState | None


def train(run: Run, log: Log) -> Iterator[Epoch]:
    """Alternate E-step and M-step; yield after each epoch, on all ranks in step. Collective.

    The last epoch is followed by one more E-step, whose state is scored and saved. `run.clock` and `run.state` move.
    Raises Preempted, after a checkpoint, when a signal told one of the ranks to leave.
    """
    narrator, saver = Narrator(run, log), Saver(run, log)
    with Interrupts(run.settings.run.checkpoint_minutes) as interrupts, profiled(run) as profiler:
        try:
            yield from _epochs(run, narrator, saver, interrupts, profiler)
        except Preempted:
            saver.save()
            saver.finish()
            raise
        except BaseException:
            saver.wait()
            raise
        saver.finish()


def _epochs(
    run: Run, narrator: Narrator, saver: Saver, interrupts: Interrupts, profiler: profile | None
) -> Iterator[Epoch]:
    method, keep_every = run.method, run.settings.run.keep_every_epochs
    compile_networks(run)
    parallel = distributed.parallel(method)

    def pause() -> None:
        if interrupts.pause():
            saver.save()

    while not run.done:
        if e_step_is_due(run):
            run.state = e_step(run, narrator, pause)
        method.train()
        with closing(run.feed.rest_of_epoch(run.clock, run.state)) as batches:
            for _ in range(run.clock.steps_left_in_epoch):
                losses, carry = train_step(
                    parallel, method, run.optimizer, batches, run.state, run.clock, run.settings.optim, run.guard
                )
                if carry is not None:
                    method.after_step(carry, run.clock)
                run.clock = run.clock.tick()
                narrator.step(losses, carry, run.clock)
                if profiler is not None:
                    profiler.step()
                pause()
        if run.clock.finished:
            run.before_end, run.state, run.done = run.state, e_step(run, narrator, pause), True
        kept = keep_every is not None and run.clock.whole_epochs % keep_every == 0
        if interrupts.epoch_ends() or run.done or kept:
            saver.save()
            interrupts.has_saved()
        narrator.epoch(run.clock)
        yield Epoch(run.clock, run.state)
    del parallel


def e_step_is_due(run: Run) -> bool:
    """Whether an E-step stands before the coming step: never inside an epoch, whose labels are in the checkpoint."""
    first = run.method.first_e_step_epoch
    every = run.settings.estep.every_epochs or run.method.own_e_step_every
    if first is None or run.clock.step_in_epoch or run.clock.whole_epochs < first or run.clock.finished:
        return False
    past = run.clock.whole_epochs - first
    return past == 0 if every is None else past % every == 0


def e_step(run: Run, narrator: Narrator, pause: Callable[[], None]) -> ClusterState:
    """Embed every row once, cluster, tell. Collective. pause: called between chunks of rows, when nothing has moved."""
    started = time.monotonic()
    settings = run.settings
    shard = embed_shard(
        run.method,
        run.feed.store,
        run.feed.views,
        run.clock,
        seed=settings.run.seed,
        precision=settings.optim.precision,
        pause=pause,
    )
    if distributed.any_rank(not bool(shard.features.isfinite().all())):
        place, problem = "optim.learning_rate", f"step {run.clock.step}: the features are not finite"
        raise UserError(place, problem, "lower it, or use optim.precision=fp32")
    state = run.method.e_step(shard, run.state, run.clock)
    narrator.e_step(state, run.state, shard.features, run.clock, time.monotonic() - started)
    return state
