"""The notebook runs from top to bottom on a run of the digits; it is shipped small, whole and without private paths."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.evaluate import evaluate
from tests.runs import ROOT, tiny_run
from training.log import Log
from training.loop import train
from training.run_dir import create_run

SHIPPED = ROOT / "notebook" / "feature_visualization.ipynb"
ROOMS = ("main.py", "torch_clustering", "utils", "data", "models", "training", "evaluation")
PRIVATE = re.compile(r"(?<![\w.\-])/(home|root|tmp|work|Users|opt|usr|var|mnt|srv|private|workspace)/|[A-Z]:\\\\?Users")
Cells = list[dict[str, Any]]


def train_into(runs: Path, name: str, *, seed: int) -> None:
    """runs/NAME, a run of an epoch on the 360 test rows of the digits."""
    run = tiny_run("propos", optim__epochs=1, method__warmup_epochs=0, data__split="test", run__seed=seed)
    run.directory = create_run(runs, name, "test", run.settings.to_yaml())
    run.directory.describe_images(run.source)
    with Log(run.settings.log, run.directory.path, run.facts()) as log:
        for _ in train(run, log):
            pass
    evaluate(run)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A checkout without runs, and the notebook's folder in it."""
    (tmp_path / "house" / "notebook").mkdir(parents=True)
    for room in ROOMS:
        (tmp_path / "house" / room).symlink_to(ROOT / room)
    return tmp_path / "house"


@pytest.fixture
def execute(house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Cells], Cells]:
    """A function: cells in, the same cells with their outputs out; an error is an output."""
    reason = "needs what requirements.in has for the notebook"
    nbclient, nbformat = (pytest.importorskip(name, reason=reason) for name in ("nbclient", "nbformat"))
    pytest.importorskip("ipykernel", reason=reason)
    pytest.importorskip("matplotlib", reason=reason)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))

    def execute(cells: Cells) -> Cells:
        book = nbformat.from_dict({**json.loads(SHIPPED.read_text(encoding="utf-8")), "cells": cells})
        place = {"metadata": {"path": str(house / "notebook")}}
        client = nbclient.NotebookClient(book, timeout=120, resources=place, allow_errors=True)
        return client.execute()["cells"]

    return execute


def shipped_cells() -> Cells:
    """With the lines of each source joined, as nbformat has them."""
    cells = json.loads(SHIPPED.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def code_of(cells: Cells) -> Cells:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def text_of(cell: dict[str, Any]) -> str:
    """What a cell printed, or the error it ended with."""
    found = [output.get("text", "") or "\n".join(output.get("traceback", [])) for output in cell["outputs"]]
    return "".join("".join(part) for part in found)


def pictures_of(cells: Cells) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


def cell_with(cells: Cells, words: str) -> dict[str, Any]:
    (found,) = (cell for cell in code_of(cells) if words in cell["source"])
    return found


def test_it_says_which_runs_are_missing_and_with_two_executes_from_top_to_bottom(
    house: Path, execute: Callable[[Cells], Cells]
) -> None:
    train_into(house / "elsewhere", "first", seed=0)
    train_into(house / "elsewhere", "second", seed=1)
    old = json.loads((house / "elsewhere" / "first" / "evaluation.json").read_text())
    (house / "elsewhere" / "first" / "evaluation.json").write_text(json.dumps({"acc": old["scores"]["acc"]}))
    cells = shipped_cells()
    few = cell_with(cells, "MOST = 2_000")
    few["source"] = few["source"].replace("2_000", "120")
    load, compare = cell_with(cells, "there = sorted"), cell_with(cells, "OTHER)")
    give_one = {**load, "source": "os.mkdir('runs'); os.rename('elsewhere/first', 'runs/first')"}
    give_two = {**load, "source": "os.rename('elsewhere/second', 'runs/second')"}
    before = [*code_of(cells)[:2], load, give_one, load, compare, give_two]
    asked = [{**cell, "id": f"{place}"} for place, cell in enumerate([*before, *cells])]  # one kernel for all of it
    _, _, none, _, loaded, alone, _, *whole = execute(asked)
    assert text_of(none).startswith("error: runs/: no run yet; `make demo` makes one") and "\n" not in text_of(none)
    assert text_of(loaded).startswith("first\n") and "first: its evaluation.json has an older" in text_of(loaded)
    assert text_of(alone).startswith("one run only: train another")
    assert not [output for cell in code_of(whole) for output in cell["outputs"] if output["output_type"] == "error"]
    assert pictures_of(code_of(whole)) == pictures_of(code_of(cells))
    assert text_of(cell_with(whole, "there = sorted")).startswith("second\npropos on digits (test, 360 rows)")
    compared, last = text_of(cell_with(whole, "OTHER)")), text_of(code_of(whole)[-1])
    assert re.search(r"second +first\n", compared) and "agreement of their clusters (ARI)" in compared
    assert "first: its evaluation.json has an older" in compared
    assert "before training" in last and "after training" in last


def test_what_is_shipped_was_executed_once_from_top_to_bottom_without_errors() -> None:
    cells = code_of(shipped_cells())
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"stream", "display_data", "execute_result"}
    assert not [cell for cell in cells for output in cell["outputs"] if output.get("name") == "stderr"]
    assert pictures_of(cells) >= 8


def test_what_is_shipped_is_small_and_holds_no_path_of_a_machine() -> None:
    assert SHIPPED.stat().st_size < 1_000_000
    words = [output.get("text", "") for cell in code_of(shipped_cells()) for output in cell["outputs"]]
    words += [output.get("data", {}).get("text/plain", "") for c in code_of(shipped_cells()) for output in c["outputs"]]
    assert "ACC" in (text := "\n".join("".join(part) for part in words))
    found = PRIVATE.search(text) or PRIVATE.search(json.dumps(json.loads(SHIPPED.read_text())["metadata"]))
    assert found is None
    assert PRIVATE.search("wrote /tmp/runs/a.png") and PRIVATE.search("from /home/me/photos")
