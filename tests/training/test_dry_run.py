"""What a dry run tells, against counts made otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data.sources.base import DataConfig
from data.sources.remembered import facts_of
from tests.runs import METHODS, tiny_run, tiny_settings
from tests.training.test_invariance import Recorder
from training.build import Run
from training.checkpoint import snapshot, write_checkpoint
from training.dry_run import describe, look
from training.dry_run_meters import Saved
from training.dry_run_sizes import Sizes, tensors_of
from training.dry_run_step import Stage, line_through
from training.loop import train
from utils import distributed
from utils.errors import UserError

CPU = torch.device("cpu")


def trained(method: str, **changes: Any) -> Run:
    """Seven steps, E-steps before and after."""
    run = tiny_run(method, data__split="test", run__max_steps=7, **changes)
    with Recorder(run) as log:
        for _ in train(run, log):
            pass
    return run


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("propos", {"method__queue_size": 96, "method__warmup_epochs": 0}),
        ("gcc", {"optim__name": "adamw", "method__warmup_epochs": 0}),
        ("simclr", {"optim__name": "lars"}),
    ],
)
def test_the_optimiser_and_the_checkpoint_are_as_large_as_foretold(
    method: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    run = trained(method, **changes)
    assert run.state is not None
    stage = Stage(run.settings, run.source, 10, CPU)
    sizes = Sizes(run, 1, stage.state, stage.width)
    kept = [value for state in run.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert sizes.optimizer == sum(value.nbytes for value in kept)
    config = run.settings.to_yaml()
    written = write_checkpoint(tmp_path, snapshot(run.method, run.optimizer, run.state, run.clock, config))
    assert sizes.checkpoint == pytest.approx(written.stat().st_size, rel=0.03)
    assert sizes.clusters[0] == sum(value.nbytes for value in tensors_of(run.state))


def test_a_run_is_told_in_lines() -> None:
    told = describe(tiny_settings("byol", method__bn_groups=1), 4)
    run = tiny_run("byol")
    learnt = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    copies = sum(p.numel() for p in run.method.parameters()) - learnt
    assert "byol on digits (train+test, 1,797 rows), 4 ranks; nothing is trained" in told
    assert f"{1797 // 64} x 3 epochs = {1797 // 64 * 3}" in told
    assert "64 rows, 16 a rank" in told and "1 of 1,797 rows, 450 a rank" in told
    assert f"{learnt:,} learnt (encoder 1,272, heads {learnt - 1272:,}), {copies:,} not" in told
    gradients = 2 * 3 / 4 * 4 * learnt / 1024
    assert f"{gradients:.3g} KiB  gradients" in told
    # 4 + 7 bytes ahead and 4 back a channel: BatchNorms of the online network, its predictor, and the target's
    widths, forward_only = [8, 16, 11, 11], [8, 16, 11]
    floats = sum(1 + 2 * width for width in widths + forward_only) + sum(2 * width for width in widths)
    assert f"{3 * 4 * floats / 1024:.3g} KiB  BatchNorm, {2 * len(widths) + len(forward_only)} messages" in told


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_tried_out_as_one_of_several_ranks(method: str) -> None:
    settings = tiny_settings(method)
    stage = Stage(settings, tiny_run(method).source, 10, CPU)
    steps = [stage.step(4, rows) for rows in (2, 4)]
    assert distributed.world() == 1  # nobody is left pretended
    assert all(step.seconds > 0 and step.saved_bytes > 0 for step in steps)
    assert steps[1].saved_bytes > steps[0].saved_bytes
    if method != "temi":  # it trains heads without BatchNorm
        assert steps[0].sent["BatchNorm"] == steps[1].sent["BatchNorm"] > 0


def test_what_backward_needs_is_counted_once_and_given_back() -> None:
    weight, x = torch.randn(100, 100, requires_grad=True), torch.randn(50, 100)
    saved = Saved(iter([weight]))
    for _ in range(2):
        with saved.hooks():
            activation = (x @ weight).exp()
            loss = (
                activation * activation
            ).sum()  # of x 20,000 bytes and of the exponential, which three times is kept
        loss.backward()
        assert saved.most == 2 * 50 * 100 * 4
        assert saved.now == 0


def test_e_steps_are_counted_as_the_loop_makes_them() -> None:
    run = tiny_run("propos", optim__epochs=9, method__warmup_epochs=2, estep__every_epochs=3)
    assert Sizes(run, 1, None, 7).e_steps == 4  # before epochs 2, 5 and 8, and at the end
    short = tiny_run("propos", optim__epochs=9, method__warmup_epochs=2, run__max_steps=28)
    assert Sizes(short, 1, None, 7).e_steps == 1


def test_own_images_are_counted_but_not_decoded(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"no image")
    cache = tmp_path / "cache"
    config = DataConfig(name="folder", root=tmp_path, image_size=16, cache=cache, store="stream")
    source = look(config)
    assert (source.n_rows, source.image_shape, source.streams) == (3, (3, 16, 16), True)
    assert facts_of(source)["n_classes"] is None and not cache.exists()


def test_a_set_that_is_not_there_costs_one_line_and_no_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.root"):
        describe(tiny_settings("byol", data__name="cifar10", data__root=tmp_path), 2)
    assert not list(tmp_path.iterdir())


def test_two_points_make_a_line_and_one_with_zero() -> None:
    assert line_through([(2, 10.0), (4, 14.0)], 8) == 22
    assert line_through([(2, 10.0)], 8) == 40
