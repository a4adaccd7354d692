"""Cached features: encoded once, fed in place of images, asked by every score."""

import contextlib
import io
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluation.evaluate import evaluate
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training import features
from training.begin import open_run
from training.build import Run
from training.log import Log
from training.loop import train
from training.run_dir import create_run

FEW = {"data__split": "test", "optim__epochs": 2, "run__checkpoint_minutes": 0}


def forbid_encoding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(images: Tensor) -> Tensor:
        raise AssertionError("the encoder was asked again")

    monkeypatch.setattr(run.method.encoder, "forward", encode)


def test_features_are_the_encoders_output_of_every_clean_image() -> None:
    run = tiny_run("temi")
    rows = torch.tensor([1796, 0, 41])
    with torch.no_grad():
        expected = run.method.encoder(run.views.clean(run.store.images(rows)))
    torch.testing.assert_close(run.feed.store.images(rows), expected)
    assert (run.feed.store.n_rows, run.feed.views) == (1797, None)
    assert torch.equal(run.feed.store.shard(1, 4), run.store.shard(1, 4))
    assert any("features of 1,797 images, 16 wide, encoded once" in line for line in run.told)


def test_a_batch_has_the_features_of_its_rows_and_of_their_neighbours() -> None:
    run = tiny_run("temi")
    neighbors = (torch.arange(1797)[:, None] + torch.tensor([3, 5])).remainder(1797)
    run.method.partners = lambda rows, *_: neighbors[rows]  # type: ignore[method-assign]
    batch = next(run.feed.rest_of_epoch(run.clock, None))
    expected = [batch.rows, *neighbors[batch.rows].unbind(1)]
    assert len(batch.views) == 3 and batch.views[0].shape == (64, 16)
    for view, rows in zip(batch.views, expected, strict=True):
        assert torch.equal(view, run.feed.store.images(rows))


def test_features_are_no_stream_of_originals() -> None:
    store = features.FeatureStore(torch.ones(5, 3))
    assert store.resident and not store.streams
    for asked in (lambda: store.sizes(torch.arange(2)), lambda: store.crops(torch.arange(2), [])):
        with pytest.raises(TypeError, match="not streamed"):
            asked()


def test_training_and_every_score_ask_the_encoder_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run("temi", **FEW)
    run.directory = create_run(tmp_path, "run", "test", run.settings.to_yaml())
    own = run.store.images(torch.arange(360)).clone()
    forbid_encoding(run, monkeypatch)
    with Log(run.settings.log, None, {}) as log, contextlib.redirect_stdout(io.StringIO()) as printed:
        for _ in train(run, log):
            pass
        result = evaluate(run)
    assert torch.equal(run.store.images(torch.arange(360)), own)  # pixels are still there, for what shows them
    assert (result["features"], result["embedding"]["name"]) == ("cluster head", "KMeans")
    assert {result[what]["features"] for what in ("embedding", "knn", "linear")} == {"frozen encoder"}
    assert result["baselines"][0]["features"].startswith("pixels")
    assert "KMeans  frozen encoder" in printed.getvalue()
    assert len((tmp_path / "run" / "assignments.csv").read_text().splitlines()) == 361
    assert (tmp_path / "run" / "clusters.png").exists()
    again = open_run(run.settings, run.directory, run.device)  # as `evaluate RUN` does: encoded once more
    assert torch.equal(again.feed.store.images(torch.arange(360)), run.feed.store.images(torch.arange(360)))
    with contextlib.redirect_stdout(io.StringIO()):
        second = evaluate(again)
    assert {**second, "command": ""} == {**result, "command": ""}


def all_features(rank: int, world: int) -> Tensor:
    run = tiny_run("temi", **FEW, optim__precision="fp64")
    return run.feed.store.images(torch.arange(360))


def test_every_rank_holds_the_features_of_all_rows() -> None:
    alone = all_features(0, 1)
    assert alone.dtype == torch.float64
    for found in run_ranks(4, all_features):
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-14)


def test_long_encoding_tells_how_long_it_still_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = features.Progress(1000)
    for _ in range(5):
        now[0] += 20
        progress.add(100)
    assert capsys.readouterr().out.splitlines() == [
        "encoded 20% of the images  left 2:40",
        "encoded 40% of the images  left 2:00",
    ]
