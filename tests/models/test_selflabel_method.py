"""Self-labelling as a method: which view teaches which, what is no teacher, its read-out, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.batch import UNLABELLED, Batch
from data.sources import SOURCES
from evaluation.scores import external_scores
from models.parts.centers import EStepConfig
from models.selflabel import SelfLabel, SelfLabelConfig
from models.state import FeatureShard
from tests.oracles.selflabel_loop import confident_cross_entropy_loop, confident_labels_loop
from tests.runs import tiny_run
from tests.textures import textures
from tests.training.test_learns import OWN, SETTINGS
from training.build import Run
from training.log import Log
from training.loop import train
from training.run_dir import create_run
from utils.clock import Clock
from utils.draws import Draws


def tiny_selflabel(**changes: Any) -> SelfLabel:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5))
    return SelfLabel(encoder, 5, SelfLabelConfig(**{"threshold": 0.4, **changes}), EStepConfig(), 4).double()


def tiny_batch(phase: str = "train") -> Batch:
    views = [torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return Batch(views, torch.arange(7), torch.arange(7), Draws(0, 0, 0, 7, 7), phase)


@pytest.mark.parametrize("balanced", [True, False])
def test_the_weak_view_teaches_the_strong_one_alone_each_with_its_own_statistics(balanced: bool) -> None:
    method, batch = tiny_selflabel(balanced=balanced), tiny_batch()
    found = method.loss(batch, None, Clock(0, 1, 1))
    with torch.no_grad():
        weak, strong = (method.cluster_head(method.encoder(view)).numpy() for view in batch.views)
    expected = confident_cross_entropy_loop(weak, strong, 0.4, balanced)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-12)
    assert 0 < found["selected"].item() == pytest.approx(len(confident_labels_loop(weak, 0.4)) / 7)
    assert not found["carry"]["features"].requires_grad and found["carry"]["features"].shape == (7, 2, 5)
    found["loss"].backward()
    assert batch.views[0].grad is None
    assert batch.views[1].grad is not None and batch.views[1].grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_running_statistics_see_the_weak_view_then_the_strong_one() -> None:
    method, batch = tiny_selflabel(), tiny_batch()
    linear, norm = method.encoder[1], method.encoder[2]
    method.loss(batch, None, Clock(0, 1, 1))
    with torch.no_grad():
        weak, strong = (linear(view.flatten(1)).mean(0) for view in batch.views)
    torch.testing.assert_close(norm.running_mean, 0.9 * (0.1 * weak) + 0.1 * strong)


def test_rows_that_are_not_clustered_teach_nothing() -> None:
    method = tiny_selflabel()
    found = method.loss(tiny_batch(UNLABELLED), None, Clock(0, 1, 1))
    assert found["loss"].item() == 0 and set(found) == {"loss"}
    found["loss"].backward()
    assert all(p.grad.abs().sum() == 0 for p in method.parameters())  # there, but zero
    method.before_optimizer("train", Clock(0, 1, 1))
    assert all(p.grad is not None for p in method.parameters())
    method.before_optimizer(UNLABELLED, Clock(0, 1, 1))
    assert all(p.grad is None for p in method.parameters())


def test_clusters_are_read_off_the_head() -> None:
    method, images = tiny_selflabel().eval(), torch.randn(7, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        probabilities, features = method.probabilities(images), method.encode(images)
        torch.testing.assert_close(probabilities, method.cluster_head(features).softmax(1))
        torch.testing.assert_close(method.embed(images), nn.functional.normalize(features, dim=1))
    state = method.e_step(FeatureShard(torch.arange(7), features, 7, 0, [probabilities]), None, Clock(0, 1, 1))
    assert state.labels is not None and torch.equal(state.labels, probabilities.argmax(1))
    assert torch.equal(method.assign(images, state), probabilities)
    assert method.classifier(state) is method.cluster_head
    assert method.first_e_step_epoch is None


def test_sure_images_teach_the_others_what_clusters_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "textures", textures)
    first = tiny_run("scan", **{**SETTINGS, **OWN["scan"], "run__seed": 1, "optim__epochs": 25})
    first.directory = create_run(tmp_path, "first", "test", first.settings.to_yaml())
    before = accuracy_at_the_end(first)
    changes = {"method__threshold": 0.5, "optim__epochs": 40, "optim__learning_rate": 0.005}
    second = tiny_run("selflabel", **{**SETTINGS, **changes}, run__seed=1, run__init_from=tmp_path / "first")
    assert before < accuracy_at_the_end(second) >= 0.95


def accuracy_at_the_end(run: Run) -> float:
    """ACC of the clusters after training."""
    with Log(run.settings.log, None, {}) as log:
        for _ in train(run, log):
            pass
    truth = run.source.read_truth(None)
    assert run.state is not None and run.state.labels is not None and truth is not None
    return external_scores(run.state.labels, truth)["acc"]


def test_defaults_are_the_papers() -> None:
    config = SelfLabelConfig()
    assert (config.threshold, config.balanced, SelfLabel.starts_from) == (0.99, True, "clusters")
    with pytest.raises(ValueError, match="views_in_one_forward"):
        SelfLabelConfig(views_in_one_forward=True)  # type: ignore[arg-type]
