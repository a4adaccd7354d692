"""The method that docs/architecture.md writes out runs as it stands there, equally on one rank and on two."""

from pathlib import Path

import pytest

from models import METHODS
from models.method import Method
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.log import Log
from training.loop import train
from training.step import train_step
from utils import distributed

PAGE = Path(__file__).parent.parent.parent / "docs" / "architecture.md"


def settings_of(folder: Path) -> dict[str, object]:
    text = PAGE.read_text().split("## Add a method")[1]
    (folder / "barlow.py").write_text(text.split("```python\n")[1].split("```")[0])
    return {"run__plugins": f"[{folder / 'barlow.py'}]", "method__width": 7, "optim__precision": "fp64"}


def two_losses(rank: int, world: int, changes: dict[str, object]) -> list[float]:
    run = tiny_run("barlow", **changes)
    run.method.train()
    parallel = distributed.parallel(run.method)
    batches, losses = run.feed.rest_of_epoch(run.clock, None), []
    for _ in range(2):
        parts, _ = train_step(
            parallel, run.method, run.optimizer, batches, None, run.clock, run.settings.optim, run.guard
        )
        losses.append(float(distributed.mean_over_ranks_(parts["loss"])))
    return losses


def test_the_written_out_method_trains_on_any_number_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "barlow", Method)
    del METHODS["barlow"]  # and again once this test, which loads a plugin, is over
    changes = settings_of(tmp_path)
    run = tiny_run("barlow", **changes, run__max_steps=3)
    with Log(run.settings.log, None, {}) as log:
        *_, last = train(run, log)
    assert last.state is not None
    assert last.state.labels is not None
    assert len(last.state.labels) == 1797
    alone = two_losses(0, 1, changes)
    for losses in run_ranks(2, two_losses, changes):
        assert losses == pytest.approx(alone, rel=1e-9)
