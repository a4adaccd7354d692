"""Saves a run beside its training: a copy is taken at once, and written by a thread of rank 0."""

import errno
import shutil
from concurrent.futures import Future, ThreadPoolExecutor

from training.build import Run
from training.checkpoint import Snapshot, snapshot, write_checkpoint
from training.log import Log
from training.run_dir import RunDirectory
from utils import distributed
from utils.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Saver:
    """Checkpoints of a run with a folder, one at a time. On ranks but 0, and without a folder, it does nothing.

    A checkpoint that cannot be written costs a warning: training goes on, and the one before it stands.
    """

    def __init__(self, run: Run, log: Log) -> None:
        self.run, self.log = run, log
        self.directory = run.directory if distributed.is_main() else None
        self.thread = ThreadPoolExecutor(1, "checkpoint") if self.directory is not None else None
        self.writing: Future[None] | None = None

    def save(self) -> None:
        """Copy the run as it stands and let it be written; waits for the one before it, where that is not done yet.

        Raises UserError, on all ranks, where its weights are not finite.
        """
        run = self.run
        if run.directory is not None:
            run.guard.check_weights(run.clock.step)
        if self.thread is None or self.directory is None:
            return
        if (problem := self._problem()) is not None:
            self.log.warn(f"{self.directory.checkpoints}: {problem}; training goes on, earlier checkpoints stand")
        taken = snapshot(
            run.method, run.optimizer, run.state, run.clock, run.settings.to_yaml(),
            before_end=run.before_end, done=run.done, loss_scale=run.guard.state_dict(),
        )  # fmt: skip
        self.writing = self.thread.submit(_write, self.directory, taken, run.settings.run.keep_every_epochs)

    def finish(self) -> None:
        """Wait for what is being written. Collective. Raises UserError where the newest could not be written."""
        problem = distributed.broadcast_object(self._problem())
        if problem is not None:
            assert self.run.directory is not None
            path = self.run.directory.path
            raise UserError(str(self.run.directory.checkpoints), problem, f"make room, then: main.py resume {path}")

    def wait(self) -> None:
        """Wait for what is being written, whatever becomes of it."""
        if self.thread is not None:
            self.thread.shutdown()

    def _problem(self) -> str | None:
        """Waits for the writer; what has kept it from writing."""
        writing, self.writing = self.writing, None
        error = None if writing is None else writing.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        return None if error is None else f"a checkpoint cannot be written: {_reason(error, self.run)}"


def _write(directory: RunDirectory, taken: Snapshot, keep_every: int | None) -> None:
    write_checkpoint(directory.checkpoints, taken, keep_every)
    directory.set_status("running", taken.step)


def _reason(error: OSError, run: Run) -> str:
    if error.errno not in NO_ROOM or run.directory is None:
        return error.strerror or str(error)
    return f"no space left on the disk ({shutil.disk_usage(run.directory.path).free / 2**20:.0f} MiB free)"
