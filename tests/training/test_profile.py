"""A profile of some steps lies in the run's folder."""

import json
from pathlib import Path

from tests.runs import tiny_run
from training.log import Log
from training.loop import train
from training.run_dir import create_run


def test_ten_steps_are_profiled_where_it_is_asked_for(tmp_path: Path) -> None:
    run = tiny_run("byol", run__profile=True, optim__epochs=1, run__checkpoint_minutes=9)
    run.directory = create_run(tmp_path, "run", "test", run.settings.to_yaml())
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    told = (tmp_path / "run" / "profile.txt").read_text()
    assert told.startswith("10 steps of rank 0\n")
    assert "aten::mkldnn_convolution" in told or "conv" in told
    events = json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "ProfilerStep#15" for event in events) >= 1


def test_no_profile_is_made_unasked(tmp_path: Path) -> None:
    run = tiny_run("byol", optim__epochs=1, run__max_steps=2)
    run.directory = create_run(tmp_path, "run", "test", run.settings.to_yaml())
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    assert not list(tmp_path.rglob("profile.*"))
