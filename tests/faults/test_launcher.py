"""Under torchrun: ranks are killed, stopped and told to leave; the job goes on, or ends in one readable line."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.launched import DIGITS, TINY, TORCHRUN, TWO_RANKS, end, launch, rank_of, read_until, start
from main import main
from tests.ranks import run_ranks
from training.begin import new_run
from training.log import Log
from training.loop import train
from training.settings import load_settings
from utils.config import compose

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="ranks are found in /proc"),
    pytest.mark.timeout(600),  # several processes that import torch twice
]
WORDS = [*TINY, "method.bn_groups=2", "data.split=test", "optim.epochs=6", "run.checkpoint_minutes=1e-9"]


def undisturbed(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Weights and labels of the run whose ranks nothing kills."""
    run = new_run(load_settings(compose([Path(DIGITS)], WORDS[1:]), world), torch.device("cpu"))
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    assert run.state is not None and run.state.labels is not None
    return {**run.method.state_dict(), "labels": run.state.labels}


def test_a_killed_rank_is_restarted_and_the_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    with start([*TWO_RANKS, "--max-restarts=2"], *WORDS, f"run.folder={tmp_path}") as program:
        read_until(program, "epoch    3")
        os.kill(rank_of(program.pid, 1), signal.SIGKILL)
        done = end(program)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    (run,) = tmp_path.glob("digits_propos-*")  # it has no name: the restart finds it all the same
    assert json.loads((run / "status.json").read_text())["status"] == "completed"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    headers = [row for row in rows if row.get("header")]
    assert len(headers) == 2
    assert headers[1]["resumed_at_step"] > 5
    stored = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for name, value in run_ranks(2, undisturbed)[0].items():
        assert torch.equal(stored["state"]["labels"] if name == "labels" else stored["method"][name], value), name


def test_a_job_that_is_told_to_leave_saves_and_goes_on_on_another_number_of_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, f"run.folder={tmp_path}", "run.name=left", "run.checkpoint_minutes=10"]
    with start(TWO_RANKS, *words) as program:
        read_until(program, "epoch    2")
        program.send_signal(signal.SIGTERM)
        done = end(program)
    assert "told to leave: saved at step " in done.out
    status = json.loads((tmp_path / "left" / "status.json").read_text())
    assert status["status"] == "preempted"
    assert 10 < status["step"] < 30
    assert main(["resume", str(tmp_path / "left")]) == 0
    assert f"going on at step {status['step']}" in capsys.readouterr().out
    assert json.loads((tmp_path / "left" / "status.json").read_text())["status"] == "completed"


def test_a_stopped_rank_is_named_and_the_job_ends(tmp_path: Path) -> None:
    with start(TWO_RANKS, *WORDS, f"run.folder={tmp_path}", "run.name=stopped", "run.timeout_seconds=12") as program:
        read_until(program, "epoch    1")
        stopped = rank_of(program.pid, 1)
        os.kill(stopped, signal.SIGSTOP)
        assert program.stderr is not None
        line = next(line for line in program.stderr if line.startswith("error: "))
        os.kill(stopped, signal.SIGKILL)  # else the launcher waits for it, 30 s
        done = end(program)
    assert done.code == 1
    assert "no sign of life for 9 s from rank 1, last seen at " in line
    assert f"(process {stopped} on " in line
    assert "error: " not in done.err
    status = json.loads((tmp_path / "stopped" / "status.json").read_text())
    assert status["status"] == "failed"
    assert "from rank 1" in status["error"]


def test_an_error_of_the_user_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    done = launch([*TORCHRUN, "--nproc_per_node=1", "--max-restarts=2"], str(tmp_path / "none.yml"))
    assert done.code == 1  # torchrun's own
    assert done.err.count("none.yml: no such file") == 1
