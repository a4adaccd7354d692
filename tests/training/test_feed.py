"""Micro-batches: their passes, rows and views, made at once or ahead, from squares or from originals."""

import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.batch import UNLABELLED, Batch
from data.sources.base import Cut
from data.sources.digits import Digits
from data.store import Store
from models import METHODS
from models.state import ClusterState
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.build import Run
from training.embed import embed_shard
from training.log import Log
from training.loop import train
from training.step import train_step
from utils.errors import UserError


def rows_of(run: Run) -> list[tuple[str, list[int]]]:
    return [(batch.phase, batch.rows.tolist()) for batch in run.feed.rest_of_epoch(run.clock, run.state)]


class HalfUnlabelled(Digits):
    """The first 997 digits are clustered, the other 800 only train."""

    def __init__(self, config: object) -> None:
        super().__init__(config)  # type: ignore[arg-type]
        self.n_rows, self.n_extra = 997, 800

    def read_truth(self, rows: Tensor | None = None) -> Tensor:
        return super().read_truth(torch.arange(997) if rows is None else rows)


@pytest.fixture
def half_unlabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.store.SOURCES", {"digits": HalfUnlabelled})


def test_partners_join_the_batch_with_one_view_each(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run("byol")

    def first() -> Batch:
        return next(run.feed.rest_of_epoch(run.clock, None))

    alone = first()
    monkeypatch.setattr(run.method, "partners", lambda rows, *_: torch.stack([rows, (rows + 1) % 1797], 1))
    joined = first()
    assert len(joined.views) == 4
    assert all(torch.equal(a, b) for a, b in zip(alone.views, joined.views[:2], strict=True))
    monkeypatch.setattr(run.method, "partners", lambda rows, *_: ((rows + 1) % 1797)[:, None])
    other = first().views[2]
    assert torch.equal(other, run.views.partner(run.store.images((alone.rows + 1) % 1797), alone.draws, 0))
    assert not torch.equal(other, joined.views[2])


def test_phases_are_passes_over_all_rows_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["byol"], "phases", ("first", "second"))
    run = tiny_run("byol")
    assert run.clock.steps_per_epoch == 56
    whole = rows_of(run)
    assert [phase for phase, _ in whole] == ["first"] * 28 + ["second"] * 28
    assert whole[0][1] != whole[28][1]
    run.clock = dataclasses.replace(run.clock, step=31)
    assert rows_of(run) == whole[31:]
    run.clock = dataclasses.replace(run.clock, step=56)
    assert rows_of(run)[0][1] not in (whole[0][1], whole[28][1])


def test_each_step_has_its_own_draws_and_its_micro_batches_share_them() -> None:
    run = tiny_run("byol", optim__accumulation=2)
    run.clock = dataclasses.replace(run.clock, step=30)
    batches = run.feed.rest_of_epoch(run.clock, None)
    assert [next(batches).draws.step for _ in range(6)] == [30, 30, 31, 31, 32, 32]


def test_rows_without_a_place_in_the_clusters_train_first_and_see_no_state(half_unlabelled: None) -> None:
    run = tiny_run("propos", method__warmup_epochs=0)
    assert [(each.phase, each.sampler.steps_per_epoch) for each in run.feed.passes] == [(UNLABELLED, 12), ("train", 15)]
    whole = rows_of(run)
    assert len(whole) == run.clock.steps_per_epoch == 27
    assert all(min(rows) >= 997 for phase, rows in whole if phase == UNLABELLED)
    assert all(max(rows) < 997 for phase, rows in whole if phase == "train")
    assert embed_shard(run.method, run.store, run.views, run.clock, seed=0, precision="fp32").n_rows == 997
    state = ClusterState(labels=torch.zeros(997, dtype=torch.int64), centers=torch.ones(10, 7))
    batches = run.feed.rest_of_epoch(run.clock, state)
    run.method.train()
    for phase in [UNLABELLED] * 12 + ["train"]:
        losses, _ = train_step(
            run.method, run.method, run.optimizer, batches, state, run.clock, run.settings.optim, run.guard
        )
        assert ("scattering" in losses) == (phase == "train")


def test_clusters_and_scores_leave_out_rows_that_only_train(half_unlabelled: None) -> None:
    run = tiny_run("propos", method__warmup_epochs=0, optim__epochs=1, method__resample=True)
    with Log(run.settings.log, None, {}) as log:
        for epoch in train(run, log):
            assert epoch.state is not None and epoch.state.labels is not None
            assert epoch.state.labels.shape == (997,)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_made_ahead_are_those_made_at_once(accumulation: int) -> None:
    at_once, ahead = (tiny_run("byol", optim__accumulation=accumulation) for _ in range(2))
    settings = ahead.settings.data.model_copy(update={"memory_gib": 0.0})
    ahead.feed.store = ahead.store = Store(ahead.source, ahead.device, settings)
    assert at_once.store.resident and not ahead.store.resident
    threads = {"at once": set(), "ahead": set()}  # type: dict[str, set[str]]
    for name, store in (("at once", at_once.store), ("ahead", ahead.store)):
        store.images = partial(_noted, store.images, threads[name])  # type: ignore[method-assign]
    pairs = zip(*(run.feed.rest_of_epoch(run.clock, None) for run in (at_once, ahead)), strict=True)
    n_batches = 0
    for ours, theirs in pairs:
        n_batches += 1
        assert torch.equal(ours.rows, theirs.rows) and torch.equal(ours.positions, theirs.positions)
        assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))
    assert n_batches == 28 * accumulation
    assert ahead.feed.waited > 0
    assert threads == {"at once": {"MainThread"}, "ahead": {"ahead_0"}}


def _noted(images: Callable[[Tensor], Tensor], threads: set[str], rows: Tensor) -> Tensor:
    threads.add(threading.current_thread().name)
    return images(rows)


def test_each_epoch_tells_its_own_share_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run("byol", optim__epochs=3)
    seconds = itertools.count()  # a clock of the test's own: a second passes with each look at it
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    with Log(run.settings.log, tmp_path, {}) as log:
        assert len(list(train(run, log))) == 3
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shares = [row["waited_for_data"] for row in rows if row.get("phase") == "epoch"]
    assert len(shares) == 3
    assert all(0 < share < 1 for share in shares)
    assert shares[1] == pytest.approx(shares[0], rel=0.2)


class Originals(Digits):
    """Digits as a stream: an original is the image itself."""

    streams = True

    def sizes(self, rows: Tensor) -> Tensor:
        return torch.full((len(rows), 2), 8)

    def crops(self, rows: Tensor, cuts: list[Cut]) -> list[Tensor]:
        self.n_cuts = getattr(self, "n_cuts", 0) + len(cuts)
        images = self.read(rows)
        whole = torch.tensor([0, 0, 8, 8])
        assert all(torch.equal(box, whole) for cut in cuts for box in cut.boxes)  # the recipe has no crop
        return [torch.where(flipped[:, None, None, None], images.flip(3), images) for _, flipped, _ in cuts]


def test_streamed_originals_give_the_views_of_stored_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tiny_run("byol", views__flip=0.5)
    monkeypatch.setattr("data.store.SOURCES", {"digits": Originals})
    streamed = tiny_run("byol", views__flip=0.5)
    assert streamed.store.streams and not streamed.store.resident
    for ours, theirs in zip(*(first_three(run) for run in (stored, streamed)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))
    assert isinstance(streamed.source, Originals) and streamed.source.n_cuts >= 3 * 2


def first_three(run: Run) -> Iterator[Batch]:
    batches = run.feed.rest_of_epoch(run.clock, None)
    yield from (next(batches) for _ in range(3))
    batches.close()  # type: ignore[attr-defined]


def positions_and_rows(rank: int, world: int) -> list[tuple[list[int], list[int], float]]:
    run = tiny_run("byol", optim__accumulation=2)
    batches = run.feed.rest_of_epoch(run.clock, None)
    some = [next(batches) for _ in range(4)]
    return [(each.positions.tolist(), each.rows.tolist(), float(each.views[0].double().sum())) for each in some]


def test_two_ranks_hold_the_parts_of_one_ranks_batches() -> None:
    alone = run_ranks(1, positions_and_rows)[0]
    first, second = run_ranks(2, positions_and_rows)
    for whole, left, right in zip(alone, first, second, strict=True):
        assert left[0] + right[0] == whole[0] and left[1] + right[1] == whole[1]
        assert left[2] + right[2] == pytest.approx(whole[2], rel=1e-5)


def test_the_first_epochs_have_smaller_views_of_the_same_rows() -> None:
    early, plain = tiny_run(views__early="{epochs: 2, size: 4}"), tiny_run()
    for step, side in ((0, 4), (28 + 3, 4), (2 * 28, 8)):
        clock = dataclasses.replace(early.clock, step=step)
        batch, usual = (next(run.feed.rest_of_epoch(clock, None)) for run in (early, plain))
        assert [tuple(view.shape[1:]) for view in batch.views] == [(1, side, side)] * 2
        assert torch.equal(batch.rows, usual.rows)
        assert torch.equal(batch.views[0], usual.views[0]) == (side == 8)
    assert early.views.output_shape == (1, 8, 8)  # what is embedded and scored


def test_early_views_that_the_encoder_cannot_take_are_refused() -> None:
    with pytest.raises(UserError, match=r"views.early.size: timm:test_vit cannot take images of 1 x 5 x 5"):
        tiny_run(encoder__name="timm:test_vit", views__size=16, views__early="{epochs: 1, size: 5}")
