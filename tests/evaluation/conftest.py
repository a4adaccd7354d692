"""One run that the tests of the page share."""

import pytest

from evaluation.evaluate import evaluate
from tests.runs import tiny_run
from training.build import Run
from training.log import Log
from training.loop import train
from training.run_dir import create_run


@pytest.fixture(scope="session")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of an epoch on the 360 test rows of the digits, at its end and evaluated, with its folder `propos`."""
    run = tiny_run("propos", optim__epochs=1, data__split="test")
    run.directory = create_run(tmp_path_factory.mktemp("runs"), "propos", "test", run.settings.to_yaml())
    with Log(run.settings.log, run.directory.path, run.facts()) as log:
        for _ in train(run, log):
            pass
    evaluate(run)
    return run
