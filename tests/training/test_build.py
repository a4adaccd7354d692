"""What a run is built of: weights to start from, frozen stages, a user's own parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import training.begin
from models.parts.encoders import ENCODERS
from tests.runs import tiny_run, tiny_settings
from training.begin import open_run
from training.build import Run, build_run, restore_run
from training.checkpoint import snapshot, write_checkpoint
from training.run_dir import RunDirectory
from utils.clock import Clock
from utils.errors import UserError

PLUGIN = """
from torch import nn

def flat(config, image_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

ENCODERS = {"flat": flat}
"""


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a plugin brings is taken away after the test."""
    yield
    ENCODERS.pop("flat", None)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    encoder = ENCODERS["tiny"](tiny_settings("byol").encoder, (1, 8, 8))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in encoder.state_dict().items()}}, tmp_path / "w.pt"
    )
    return tmp_path / "w.pt"


def test_a_run_starts_from_given_weights_in_both_its_networks_and_says_so(weights: Path) -> None:
    given = torch.load(weights, weights_only=True)["state_dict"]["module.0.weight"]
    run, plain = tiny_run("byol", encoder__checkpoint=weights), tiny_run("byol")
    for network in (run.method.online, run.method.target):
        assert torch.equal(network[0][0].weight, given)
    assert f"tensors loaded from {weights}" in run.introduction()
    assert torch.equal(run.method.online[1][0].weight, plain.method.online[1][0].weight)  # heads start as ever


def test_a_run_that_goes_on_does_not_ask_for_its_starting_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tiny_settings("byol", encoder__checkpoint=weights)
    weights.unlink()
    with pytest.raises(UserError, match="does not exist"):
        build_run(settings, torch.device("cpu"))
    resumed: list[Run] = []
    monkeypatch.setattr(training.begin, "restore_run", lambda run, directory: resumed.append(run))
    assert open_run(settings, RunDirectory(tmp_path), torch.device("cpu")).told == []
    assert len(resumed) == 1


def test_frozen_stages_are_not_given_to_the_optimizer() -> None:
    run = tiny_run("byol", encoder__freeze="all")
    learnt = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert learnt and not learnt & {id(p) for p in run.method.online[0].parameters()}


def test_a_plugin_of_the_config_brings_an_encoder(tmp_path: Path, forgotten: None) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    run = tiny_run("byol", run__plugins=f"['{tmp_path / 'mine.py'}']", encoder__name="flat")
    assert run.method.encode(run.views.clean(run.store.images(torch.arange(3)))).shape == (3, 5)


@pytest.mark.parametrize("value", ["3", "[nowhere.py]"])
def test_plugins_that_are_not_there_are_named(value: str) -> None:
    with pytest.raises(UserError, match=r"run\.plugins"):
        tiny_settings("byol", run__plugins=value)


def test_a_method_that_needs_more_rows_than_there_are_says_so_before_it_trains() -> None:
    with pytest.raises(UserError, match="method.n_prototypes: 1798 prototypes of 1797 images; use 1797 or fewer"):
        tiny_run("pcl", method__n_prototypes=[10, 1798])


def test_a_checkpoint_with_another_optimiser_is_refused_to_go_on_with_and_read_otherwise(tmp_path: Path) -> None:
    run = tiny_run("byol")
    run.directory = RunDirectory(tmp_path)
    other = torch.optim.SGD(run.method.parameters(), lr=1.0)
    write_checkpoint(
        tmp_path / "checkpoints", snapshot(run.method, other, None, Clock(5, 5, 1), run.settings.to_yaml())
    )
    with pytest.raises(UserError, match="its optimiser is that of another version"):
        restore_run(run, run.directory)
    restore_run(run, run.directory, goes_on=False)
    assert run.clock.step == 5
