"""TEMI's method: frozen encoder, heads and their teachers, neighbours, read-out."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch
from models.parts.centers import EStepConfig
from models.state import ClusterState, FeatureShard
from models.temi import TEMI, TEMIConfig, moments
from tests.oracles.temi_loop import prior_loop, softmax_loop, temi_loop
from tests.ranks import run_ranks
from tests.runs import tiny_run
from tests.vectors import z
from torch_clustering import clustering_accuracy
from training.features import FeatureStore
from training.log import Log
from training.loop import train
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError


def tiny_temi(**changes: Any) -> TEMI:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 11), nn.BatchNorm1d(11), nn.Dropout(0.5))
    config = TEMIConfig(n_heads=3, n_neighbors=5, hidden_dim=13, bottleneck_dim=7, **changes)
    return TEMI(encoder, 11, config, EStepConfig(), 4).double()


def shard_of(features: Tensor) -> FeatureShard:
    return FeatureShard(torch.arange(len(features)), features, len(features), 0)


def batch_of(*views: Tensor) -> Batch:
    rows = torch.arange(len(views[0]))
    return Batch(list(views), rows, rows, Draws(0, 0, 0, len(rows), len(rows)))


FEATURES = z(17, 11, 0)
START = Clock(0, 2, 4)


@pytest.mark.parametrize("standardize", [False, True])
def test_students_learn_from_the_teachers_of_the_neighbours(standardize: bool) -> None:
    method = tiny_temi(standardize=standardize)
    state = method.e_step(shard_of(FEATURES), None, START)
    for parameter in method.teacher.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    first, second = FEATURES[:8], FEATURES[8:16]
    found = method.loss(batch_of(first, second), state, START)
    seen = [(each - FEATURES.mean(0)) / FEATURES.std(0, unbiased=False) for each in (first, second)]
    seen = seen if standardize else [first, second]
    with torch.no_grad():
        logits = [torch.stack([torch.stack([head(each) for each in seen]) for head in heads]).numpy()
                  for heads in (method.student, method.teacher)]  # fmt: skip
    p, q = (softmax_loop(each, 0.1) for each in logits)
    prior = prior_loop(np.full((3, 4), 0.25), q, 0.9)
    assert found["carry"]["prior"][0].flatten().tolist() == pytest.approx(prior.flatten().tolist(), abs=1e-12)
    expected = temi_loop(p, q, prior, 0.6)
    assert found["carry"]["head losses"][0].tolist() == pytest.approx(expected, abs=1e-12)
    assert found["loss"].item() == pytest.approx(sum(expected) / 3, abs=1e-12)
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None for p in [*method.teacher.parameters(), *method.encoder.parameters()])
    assert not any(value.requires_grad for value in found["carry"].values())


def test_before_neighbours_are_known_an_image_is_its_own() -> None:
    method = tiny_temi()
    alone, paired = (method.loss(batch_of(*views), None, START) for views in ([FEATURES], [FEATURES, FEATURES]))
    assert torch.equal(alone["loss"], paired["loss"])
    assert method.partners(torch.arange(17), batch_of(FEATURES).draws, None, START) is None


def test_a_step_writes_the_prior_of_all_micro_batches_and_moves_the_teachers() -> None:
    method = tiny_temi(ema_momentum=0.75)
    prior, teacher = method.prior.clone(), copy.deepcopy(method.teacher)
    carries = [method.loss(batch_of(FEATURES[own]), None, START)["carry"] for own in (slice(8), slice(8, 16))]
    assert torch.equal(method.prior, prior)
    whole = method.loss(batch_of(FEATURES[:16]), None, START)["carry"]["prior"][0]
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1)
    method.after_step({name: torch.cat([carry[name] for carry in carries]) for name in carries[0]}, START)
    torch.testing.assert_close(method.prior, whole)
    for old, new, student in zip(*(net.parameters() for net in (teacher, method.teacher, method.student)), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * student)
    losses = torch.cat([carry["head losses"] for carry in carries]).mean(0)
    assert method.head_losses.best() == losses.argmin()


def test_the_encoder_is_frozen_and_in_eval_mode_whatever_is_asked_for() -> None:
    method = tiny_temi().train()
    assert method.student.training and not any(module.training for module in method.encoder.modules())
    assert not any(parameter.requires_grad for parameter in method.encoder.parameters())
    before = copy.deepcopy(method.encoder.state_dict())
    images = torch.randn(7, 3, 3, 3, dtype=torch.float64)
    assert torch.equal(method.encode(images), method.encode(images))  # else dropout would show
    assert all(torch.equal(value, before[name]) for name, value in method.encoder.state_dict().items())


def test_images_are_encoded_first_and_features_taken_as_they_are() -> None:
    method, images = tiny_temi().eval(), torch.randn(7, 3, 3, 3, dtype=torch.float64)
    features = method.encoder(images)
    assert torch.equal(method.encode(images), features) and torch.equal(method.encode(features), features)
    state = method.e_step(shard_of(FEATURES), None, START)
    for what in (method.embed, lambda given: method.assign(given, state)):
        assert torch.equal(what(images), what(features))


def test_last_layers_stay_as_they_start_in_the_first_epochs() -> None:
    method = tiny_temi(freeze_epochs=1)
    for clock, frozen in ((Clock(1, 2, 4), True), (Clock(2, 2, 4), False)):
        method.loss(batch_of(FEATURES), None, clock)["loss"].backward()
        method.before_optimizer("train", clock)
        without = {name for name, parameter in method.student.named_parameters() if parameter.grad is None}
        assert all(".last." in name for name in without)
        assert len(without) == (3 * 2 if frozen else 0)


def test_neighbours_and_moments_of_the_first_e_step_stay_and_the_head_of_least_loss_is_read_out() -> None:
    method = tiny_temi(standardize=True)
    first = method.e_step(shard_of(FEATURES), None, START)
    cosine = nn.functional.cosine_similarity(FEATURES[:, None], FEATURES[None], dim=2).fill_diagonal_(-2)
    assert first.neighbors is not None and first.neighbors.dtype == torch.int32
    assert torch.equal(first.neighbors.long(), cosine.topk(5).indices)
    torch.testing.assert_close(first.extra["mean"], FEATURES.mean(0))
    torch.testing.assert_close(first.extra["std"], FEATURES.std(0, unbiased=False))
    assert first.extra["head"] == 0
    method.head_losses.write(torch.tensor([[0.5, -0.5, 0.1]]), START)
    second = method.e_step(shard_of(FEATURES + 1), first, START)
    assert second.neighbors is first.neighbors and second.extra["mean"] is first.extra["mean"]
    assert second.extra["head"] == 1
    with torch.no_grad():
        logits = method.teacher[1]((FEATURES + 1 - first.extra["mean"]) / first.extra["std"])
    assert second.labels is not None and torch.equal(second.labels, logits.argmax(1))
    torch.testing.assert_close(method.assign(FEATURES + 1, second), (logits / 0.1).softmax(1))
    assert method.heads == (4,)


def test_partners_are_neighbours_drawn_anew_each_step() -> None:
    method = tiny_temi()
    state = method.e_step(shard_of(FEATURES), None, START)
    rows, found = torch.tensor([3, 16, 5, 3]), []
    for step in range(40):
        drawn = method.partners(rows, Draws(0, step, 0, 4, 4), state, START)
        assert drawn is not None and drawn.shape == (4, 1)
        found.append(drawn[:, 0])
    assert state.neighbors is not None
    for place, row in enumerate(rows):
        assert {int(drawn[place]) for drawn in found} == set(state.neighbors[row].tolist())


def moments_of_part(rank: int, world: int) -> tuple[Tensor, Tensor]:
    starts = [0, 5, 5, 12, 17]  # one rank of four has none
    width = 4 // world
    return moments(FEATURES[starts[rank * width] : starts[(rank + 1) * width]])


@pytest.mark.parametrize("world", [2, 4])
def test_moments_are_of_the_rows_of_all_ranks(world: int) -> None:
    for mean, deviation in run_ranks(world, moments_of_part):
        torch.testing.assert_close(mean, FEATURES.mean(0))
        torch.testing.assert_close(deviation, FEATURES.std(0, unbiased=False))


def test_a_constant_feature_is_not_enlarged() -> None:
    features = torch.cat([z(7, 2, 0).float(), torch.full((7, 1), 0.1)], 1)
    assert moments(features)[1][2] == 1


def test_more_neighbours_than_images_and_images_that_only_train_are_refused() -> None:
    with pytest.raises(UserError, match="method.n_neighbors: 2000 neighbours of each of 1797 images; use 1796"):
        tiny_run("temi", method__n_neighbors=2000)
    with pytest.raises(UserError, match="data.split: 3 of its images only train"):
        tiny_temi().prepare(17, 3)


def test_heads_are_the_published_ones_and_their_biases_alone_have_one_dimension() -> None:
    config = TEMIConfig()
    assert (config.n_heads, config.n_neighbors, config.beta, config.temperature) == (16, 50, 0.6, 0.1)
    assert (config.prior_momentum, config.ema_momentum, config.freeze_epochs) == (0.9, 0.996, 1)
    method = TEMI(nn.Identity(), 384, config, EStepConfig(), 10)
    shapes = [tuple(p.shape) for p in method.student[0].parameters()]
    assert shapes == [(512, 384), (512,), (256, 512), (256,), (10, 1), (10, 256)]  # gains and directions last
    gains = method.student[0].last.parametrizations.weight.original0
    assert torch.equal(gains, torch.ones(10, 1)) and gains.requires_grad
    with torch.no_grad():
        gains.mul_(2)
    outputs = method.student[0](torch.randn(5, 384))
    assert outputs.shape == (5, 10) and outputs.abs().max() <= 2
    assert method.student[3].bottleneck[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_heads_find_the_clusters_that_frozen_features_have() -> None:
    kinds = torch.arange(360) % 4
    made = tiny_run(
        "temi", data__split="test", estep__n_clusters=4, optim__name="adamw", optim__learning_rate=0.008,
        optim__epochs=20, method__hidden_dim=32, method__n_neighbors=20, method__ema_momentum=0.9,
        method__standardize=True, log__every_steps=99,
    )  # fmt: skip
    features = torch.eye(16)[kinds] + 0.15 * z(360, 16, 3).sin().float()
    made.feed.store = FeatureStore(features)
    shares = []
    with Log(made.settings.log, None, {}) as log:
        shares.append(shared(made.method.e_step(shard_of(features), None, made.clock), kinds))
        for _ in train(made, log):
            pass
    shares.append(shared(made.state, kinds))
    assert shares[0] <= 0.7
    assert shares[1] == 1


def shared(state: ClusterState | None, kinds: Tensor) -> float:
    """The accuracy of the state's labels."""
    assert state is not None and state.labels is not None
    return float(clustering_accuracy(kinds, state.labels))


def test_heads_and_their_teachers_start_alike_but_heads_differ() -> None:
    method = tiny_temi()
    for student, teacher in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(student, teacher) and not teacher.requires_grad
    assert not torch.equal(method.student[0](FEATURES), method.student[1](FEATURES))
    assert {id(p) for p in method.parameter_groups()["online"]} == {id(p) for p in method.student.parameters()}
