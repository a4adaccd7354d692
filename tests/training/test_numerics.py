"""What is not finite stops the run or leaves a step out; it never reaches weights, statistics, queues or a file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.build import Run
from training.log import Log
from training.loop import train
from training.numerics import IN_A_ROW
from training.run_dir import create_run
from training.saver import Saver
from utils import distributed
from utils.errors import UserError

SMALL = {"data__split": "test", "optim__epochs": 3, "log__every_steps": 1}  # 5 steps an epoch


class Heard(Log):
    """A log that keeps its warnings and rows, and looks at the run after chosen steps."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.settings.log, None, {})
        self.run, self.warnings, self.rows = run, [], {}
        self.seen: dict[int, dict[str, Tensor]] = {}

    def warn(self, text: str) -> None:
        """Keep it, unless it speaks of speed."""
        if "waiting for images" not in text:
            self.warnings.append(text)

    def metrics(self, phase: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """Keep it, and what the run is then."""
        if phase == "train":
            self.rows[step] = values
            self.seen[step] = {name: value.clone() for name, value in self.run.method.state_dict().items()}


def go(run: Run) -> Heard:
    with Heard(run) as log:
        for _ in train(run, log):
            pass
    return log


def poison(run: Run, steps: tuple[int, ...], value: float, *, here: bool = True) -> None:
    """The loss is multiplied by `value` in the steps with these numbers, from 0, on ranks that are `here`."""
    loss = run.method.loss

    def poisoned(batch: Any, state: Any, clock: Any) -> dict[str, Tensor]:
        parts = loss(batch, state, clock)
        return parts | {"loss": parts["loss"] * (value if here and clock.step in steps else 1.0)}

    run.method.loss = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_stop_tells_the_step_and_the_norms_in_one_line(value: float) -> None:
    run = tiny_run("byol", **SMALL)
    poison(run, (6,), value)
    with pytest.raises(
        UserError, match=rf"step 7: the loss is not finite \(loss {value}, .*gradient norm nan\)"
    ) as error:
        go(run)
    assert "\n" not in str(error.value)


def left_out(rank: int, world: int, method: str, value: float) -> tuple[list[str], list[str], list[str], Any]:
    """What a poisoned step of the last rank has moved, what the next one has, the warnings, and the last row."""
    run = tiny_run(method, **SMALL, optim__nonfinite="skip")
    poison(run, (6,), value, here=rank == world - 1)
    log = go(run)
    before, at, after = log.seen[6], log.seen[7], log.seen[8]
    moved = [name for name in before if not torch.equal(before[name], at[name])]
    later = [name for name in at if not torch.equal(at[name], after[name])]
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    return moved, later, log.warnings, log.rows[15]


@pytest.mark.parametrize(("method", "value", "world"), [("moco", float("nan"), 1), ("byol", float("inf"), 2)])
def test_skip_leaves_the_step_out_on_every_rank(method: str, value: float, world: int) -> None:
    work = (method, value)
    for moved, later, warnings, row in run_ranks(world, left_out, *work) if world > 1 else [left_out(0, 1, *work)]:
        assert moved == []
        assert len(later) > 10  # the next step moves things again
        assert len(warnings) == 1
        assert warnings[0].startswith("step 7 is not finite and left out (loss ")
        assert "gradient norm nan" in warnings[0]
        assert warnings[0].endswith("; 1 so far")
        assert row["steps_left_out"] == 1


def test_too_many_bad_steps_in_a_row_end_the_run() -> None:
    run = tiny_run("byol", **SMALL | {"optim__epochs": 9}, optim__nonfinite="skip")
    poison(run, tuple(range(3, 99)), float("nan"))
    with pytest.raises(UserError, match=f"step {3 + IN_A_ROW}: {IN_A_ROW} steps in a row are not finite"):
        go(run)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    run = tiny_run("byol")
    run.directory = create_run(tmp_path, "run", "test", run.settings.to_yaml())
    saver = Saver(run, Log(run.settings.log, None, {}))
    saver.save()
    with torch.no_grad():
        next(run.method.parameters())[0] = float("nan")
    with pytest.raises(UserError, match="step 0: the weights are not finite"):
        saver.save()
    saver.finish()
    assert len(list((tmp_path / "run" / "checkpoints").glob("epoch_*"))) == 1


def losses(rank: int, world: int, precision: str) -> tuple[list[float], float, list[str]]:
    run = tiny_run("simclr", **SMALL, optim__precision=precision, method__bn_groups=2)
    log = go(run)
    return [log.rows[step]["loss"] for step in range(1, 16)], run.guard.scaler.get_scale(), log.warnings


@pytest.mark.parametrize("world", [1, 2])
def test_fp16_follows_fp32_with_a_scaled_loss(world: int) -> None:
    fp32 = losses(0, 1, "fp32")[0]
    for fp16, scale, warnings in run_ranks(world, losses, "fp16") if world > 1 else [losses(0, 1, "fp16")]:
        assert fp16[:5] == pytest.approx(fp32[:5], rel=2e-3)
        assert fp16 != fp32
        assert scale >= 1024
        assert warnings == []


def test_fp16_finds_its_scale_without_a_word() -> None:
    run = tiny_run("simclr", **SMALL, optim__precision="fp16")
    run.guard.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    log = go(run)
    assert log.warnings == []
    assert log.rows[15]["steps_left_out"] > 3
    assert run.guard.scaler.get_scale() < 2.0**37
    assert distributed.world() == 1
