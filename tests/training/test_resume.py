"""Promise 3: killed after an epoch and resumed equals uninterrupted, bit for bit, on 1, 2 and 4 ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.build import Run, resume_run
from training.log import Log
from training.loop import train
from training.run_dir import RunDirectory, create_run

CHANGES = {
    "propos": {
        "optim__global_batch": 256, "method__bn_groups": 2, "method__queue_size": 96, "method__resample": True,
        "estep__every_epochs": 2,
    },
    "byol": {"optim__global_batch": 256, "optim__accumulation": 2},
}  # fmt: skip


def advance(run: Run, epochs: int | None) -> None:
    """Train for some epochs (to the end for None) and drop everything, as a kill after the save would."""
    with Log(run.settings.log, None, {}) as log:
        for done, _ in enumerate(train(run, log), 1):
            if done == epochs:
                return


def everything(run: Run) -> dict[str, Tensor]:
    """Weights, buffers, queue, optimiser, cluster state."""
    tensors = dict(run.method.state_dict())
    for index, slots in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items() if isinstance(value, Tensor)}
    assert run.state is not None
    tensors |= {f"state.{name}": value for name, value in run.state.to_dict().items() if isinstance(value, Tensor)}
    return tensors


def uninterrupted(rank: int, world: int, method: str) -> dict[str, Tensor]:
    run = tiny_run(method, optim__epochs=4, **CHANGES[method])
    advance(run, None)
    return everything(run)


def killed_and_resumed(rank: int, world: int, method: str, folder: str, after: int) -> dict[str, Tensor]:
    run = tiny_run(method, optim__epochs=4, **CHANGES[method])
    run.directory = create_run(Path(folder), "run", "test", run.settings.to_yaml())
    advance(run, after)
    again = tiny_run(method, optim__epochs=4, **CHANGES[method])
    resume_run(again, RunDirectory(Path(folder) / "run"))
    assert again.clock.whole_epochs == after
    advance(again, None)
    return everything(again)


def call(work: Any, world: int, *args: Any) -> list[dict[str, Tensor]]:
    return run_ranks(world, work, *args) if world > 1 else [work(0, 1, *args)]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("method", "after"), [("propos", 1), ("propos", 3), ("byol", 2)])
def test_resumed_equals_uninterrupted_bit_for_bit(world: int, method: str, after: int, tmp_path: Path) -> None:
    whole = call(uninterrupted, world, method)
    resumed = call(killed_and_resumed, world, method, str(tmp_path), after)
    for expected, found in zip(whole, resumed, strict=True):
        assert expected.keys() == found.keys()
        different = [name for name in expected if not torch.equal(expected[name], found[name])]
        assert different == []
