"""The EM loop: E-step, an epoch of M-steps, again."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from models.state import ClusterState
from training.build import Run
from training.checkpoint import save_checkpoint
from training.embed import embed_shard
from training.log import Log
from training.narrator import Narrator
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
    """
    settings, method, optimizer = run.settings, run.method, run.optimizer
    parallel = distributed.parallel(method)
    narrator = Narrator(run, log)
    saved = time.monotonic()
    while not run.clock.finished:
        if e_step_is_due(run):
            run.state = e_step(run, narrator)
        method.train()
        with closing(run.feed.rest_of_epoch(run.clock, run.state)) as batches:
            for _ in range(run.clock.steps_left_in_epoch):
                losses, carry = train_step(parallel, method, optimizer, batches, run.state, run.clock, settings.optim)
                method.after_step(carry, run.clock)
                run.clock = run.clock.tick()
                narrator.step(losses, carry, run.clock)
        if run.clock.finished:
            run.state = e_step(run, narrator)
        due = time.monotonic() - saved >= 60 * settings.run.checkpoint_minutes
        if run.clock.finished or distributed.broadcast_object(due):
            save(run)
            saved = time.monotonic()
        narrator.epoch(run.clock)
        yield Epoch(run.clock, run.state)
    del parallel


def e_step_is_due(run: Run) -> bool:
    """Whether an E-step stands before the coming step: never inside an epoch, whose labels are in the checkpoint."""
    first = run.method.first_e_step_epoch
    every = run.settings.estep.every_epochs or run.method.own_e_step_every
    if first is None or run.clock.step_in_epoch or run.clock.whole_epochs < first:
        return False
    past = run.clock.whole_epochs - first
    return past == 0 if every is None else past % every == 0


def e_step(run: Run, narrator: Narrator) -> ClusterState:
    """Embed every row once, cluster, tell. Collective."""
    started = time.monotonic()
    settings = run.settings
    shard = embed_shard(
        run.method,
        run.feed.store,
        run.feed.views,
        run.clock,
        seed=settings.run.seed,
        precision=settings.optim.precision,
    )
    if distributed.any_rank(not bool(shard.features.isfinite().all())):
        place, problem = "optim.learning_rate", f"step {run.clock.step}: the features are not finite"
        raise UserError(place, problem, "lower it, or use optim.precision=fp32")
    state = run.method.e_step(shard, run.state, run.clock)
    narrator.e_step(state, run.state, shard.features, run.clock, time.monotonic() - started)
    return state


def save(run: Run) -> None:
    """Write a checkpoint of the run as it stands. Collective: no rank goes on before it is on disk."""
    if run.directory is not None and distributed.is_main():
        save_checkpoint(
            run.directory.checkpoints, run.method, run.optimizer, run.state, run.clock.step, run.clock.whole_epochs,
            run.settings.to_yaml(),
        )  # fmt: skip
        run.directory.set_status("running", run.clock.step)
    distributed.barrier()
