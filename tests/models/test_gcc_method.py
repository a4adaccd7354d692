"""GCC as a method: what its phases teach, its partners, its clusters, its graph of a source of two parts."""

import dataclasses
import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from data.sources import SOURCES
from data.sources.arrays import ArraySource, Facts, Part
from data.sources.base import DataConfig
from data.sources.digits import Digits
from models.gcc import GCC, GCCConfig, Variant
from models.parts.centers import EStepConfig
from models.state import ClusterState, FeatureShard
from tests.oracles.gcc_loop import degrees_loop, graph_contrast_loop
from tests.oracles.ntxent_loop import cosine
from tests.oracles.pica_loop import balance_loop, confidence_loop
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.embed import embed_shard
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

VARIANTS: tuple[Variant, ...] = ("ref", "fix", "prob")
WARM, AFTER = Clock(0, 3, 4), Clock(3, 3, 4)


def tiny_gcc(**changes: Any) -> GCC:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5))
    config = GCCConfig(**{"projection_dim": 3, "warmup_epochs": 1, "n_neighbors": 4, "loss_neighbors": 2} | changes)
    return GCC(encoder, 5, config, EStepConfig(), 4).double()


def tiny_state() -> ClusterState:
    """A graph of 11 rows."""
    neighbors = torch.tensor([[(row + step) % 11 for step in (1, 2, 4, 7)] for row in range(11)], dtype=torch.int32)
    return ClusterState(neighbors=neighbors, node_weights=torch.rand(11, dtype=torch.float64) + 0.3)


def tiny_batch(n_views: int, phase: str = "train") -> Batch:
    views = [torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(n_views)]
    rows = torch.tensor([3, 0, 10, 8, 2, 5, 9])
    return Batch(views, rows, torch.arange(7), Draws(0, 0, 0, 7, 7), phase)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_learn_from_their_nearest_neighbours_and_clusters_from_a_drawn_one(variant: Variant) -> None:
    method, batch, state = tiny_gcc(rgc=variant), tiny_batch(5), tiny_state()
    found = method.loss(batch, state, AFTER)
    with torch.no_grad():  # both views share their BatchNorm statistics, each neighbour has its own
        own = method.encode(torch.cat(batch.views[:2])).split(7)
        *near, drawn = [method.encode(view) for view in batch.views[2:]]
        projections = [method.projector(view).numpy() for view in (*own, *near)]
        image, neighbor = (method.cluster_head(view).softmax(1).numpy() for view in (own[0], drawn))
    assert state.neighbors is not None and state.node_weights is not None
    weights = state.node_weights[state.neighbors[batch.rows, :2].long()].numpy()
    expected = graph_contrast_loop(projections[0], projections[1], projections[2:], weights, 0.1, variant)
    assert found["instance"].item() == pytest.approx(expected, abs=1e-11)
    assert found["cluster"].item() == pytest.approx(confidence_loop(image, [neighbor]), abs=1e-12)
    assert found["negative_entropy"].item() == pytest.approx(balance_loop(image), abs=1e-12)
    torch.testing.assert_close(found["loss"], 2 * found["instance"] + found["cluster"] + 2 * found["negative_entropy"])
    assert not found["carry"]["features"].requires_grad
    found["loss"].backward()
    assert all(view.grad.abs().sum() > 0 for view in batch.views)
    further = dataclasses.replace(batch, views=[*batch.views[:2], torch.randn(7, 3, 3, 3).double(), *batch.views[2:]])
    torch.testing.assert_close(method.loss(further, state, AFTER)["loss"], found["loss"])  # a third own view: unused
    method.before_optimizer("train", AFTER)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.cluster_head.parameters())
    assert state.node_weights.grad is None


@pytest.mark.parametrize(
    ("phase", "state", "clock"),
    [("train", tiny_state(), WARM), ("train", None, WARM), (UNLABELLED, None, WARM), (UNLABELLED, None, AFTER)],
)
def test_views_alone_are_contrasted_in_the_warm_up_and_of_rows_outside_the_graph(
    phase: str, state: ClusterState | None, clock: Clock
) -> None:
    method, batch = tiny_gcc(), tiny_batch(2, phase)
    assert method.partners(batch.rows, batch.draws, state, clock) is None
    found = method.loss(batch, state, clock)
    assert set(found) == {"loss", "instance", "carry"}
    first, second = (view.numpy() for view in found["carry"]["features"].unbind(1))
    assert found["instance"].item() == pytest.approx(
        graph_contrast_loop(first, second, [], np.empty((7, 0)), 0.1, "prob"), abs=1e-12
    )
    torch.testing.assert_close(found["loss"], 2 * found["instance"])
    found["loss"].backward()
    assert all(p.grad.abs().sum() == 0 for p in method.cluster_head.parameters())  # there, but zero
    method.before_optimizer(phase, clock)
    assert all(p.grad is None for p in method.cluster_head.parameters())  # so that momentum does not move it
    assert all(p.grad is not None for p in method.projector.parameters())


def test_partners_are_the_nearest_neighbours_and_a_uniform_one_of_all() -> None:
    method, state = tiny_gcc(), tiny_state()
    rows = torch.arange(11).repeat(400)
    found = method.partners(rows, Draws(0, 3, 0, 4400, 4400), state, AFTER)
    assert found is not None and state.neighbors is not None
    assert torch.equal(found[:, :2], state.neighbors[rows, :2].long())
    steps = ((found[:, 2] - rows) % 11).bincount(minlength=8)
    assert steps.nonzero()[:, 0].tolist() == [1, 2, 4, 7]
    assert all(abs(count - 1100) < 150 for count in steps[[1, 2, 4, 7]].tolist())


def test_one_view_and_more_neighbours_than_there_are_are_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="views.n_views: 1: GCC contrasts two views; use 2"):
        tiny_gcc().loss(tiny_batch(1), None, WARM)
    with pytest.raises(UserError, match="method.n_neighbors: 4 neighbours of each of 4 images; use 3 or fewer"):
        tiny_gcc().prepare(4, 100)
    with pytest.raises(UserError, match="loss_neighbors 6 of n_neighbors 5"):
        tiny_run("gcc", method__loss_neighbors=6)


def test_clusters_are_read_off_the_cluster_head() -> None:
    method, images = tiny_gcc(loss_neighbors=4).eval(), torch.randn(11, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        probabilities, features = method.probabilities(images), method.embed(images)
        by_classifier = method.classifier(ClusterState())(method.encode(images)).softmax(1)
    torch.testing.assert_close(probabilities, by_classifier)
    state = method.e_step(FeatureShard(torch.arange(11), features, 11, 0, [probabilities]), None, AFTER)
    assert state.labels is not None and state.neighbors is not None and state.node_weights is not None
    assert torch.equal(state.labels, probabilities.argmax(1))
    assert torch.equal(method.assign(images, ClusterState()), probabilities)
    degrees = degrees_loop(state.neighbors.tolist())
    assert state.node_weights.tolist() == pytest.approx([math.sqrt(4 / degree) for degree in degrees], abs=1e-12)
    nearest = [max((j for j in range(11) if j != i), key=lambda j: cosine(features[i], features[j])) for i in range(11)]
    assert state.neighbors[:, 0].tolist() == nearest


def test_defaults_are_the_papers() -> None:
    config = GCCConfig()
    assert (config.warmup_epochs, config.n_neighbors, config.loss_neighbors, config.rgc) == (51, 5, 3, "prob")
    assert (config.temperature, config.instance_weight, config.balance_weight) == (0.1, 2.0, 2.0)
    method = GCC(nn.Identity(), 512, config, EStepConfig(), 10)
    assert (method.first_e_step_epoch, method.own_e_step_every) == (51, 5)
    assert [type(layer) for layer in method.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in method.projector.parameters()) == 512 * 513 + 128 * 513
    assert sum(p.numel() for p in method.cluster_head.parameters()) == 10 * 513


def two_parts(config: DataConfig) -> ArraySource:
    """101 digits that are clustered, and after them 67 that only train: STL-10's situation."""
    digits = Digits(config)
    images = digits.read(torch.arange(168)).numpy()
    parts = {"train": Part(images[:101], np.arange(101) % 10), "unlabelled": Part(images[101:], None)}
    return ArraySource(Facts("two_parts", 10, digits.mean, digits.std), "train+unlabelled", parts)


def graph_of_two_parts(rank: int, world: int) -> tuple[Tensor, Tensor, list[tuple[str, Tensor, int]]]:
    """Neighbours and weights of the first E-step; then of each batch of the epoch its phase, own rows, views."""
    with patch.dict(SOURCES, two_parts=two_parts):
        run = tiny_run(
            "gcc", data__name="two_parts", data__split="train", optim__global_batch=16, optim__precision="fp64",
            method__warmup_epochs=0,
        )  # fmt: skip
    shard = embed_shard(run.method, run.store, run.views, run.clock, seed=0, precision="fp64")
    state = run.method.e_step(shard, None, run.clock)
    assert state.neighbors is not None and state.node_weights is not None
    batches = run.feed.rest_of_epoch(run.clock, state)
    return state.neighbors, state.node_weights, [(batch.phase, batch.rows, len(batch.views)) for batch in batches]


def test_rows_that_only_train_never_enter_the_graph_on_any_number_of_ranks() -> None:
    neighbors, weights, batches = graph_of_two_parts(0, 1)
    assert neighbors.shape == (101, 5)
    assert weights.shape == (101,)
    assert neighbors.min() >= 0 and neighbors.max() < 101  # the ids of the source, which begin with these rows
    assert not (neighbors == torch.arange(101)[:, None]).any()
    assert all(len(set(line)) == 5 for line in neighbors.tolist())
    assert [(phase, n_views) for phase, _, n_views in batches] == [(UNLABELLED, 2)] * 4 + [("train", 6)] * 6
    assert all(bool((rows >= 101).all()) == (phase == UNLABELLED) for phase, rows, _ in batches)
    assert all(bool((rows < 101).all()) == (phase == "train") for phase, rows, _ in batches)
    for world in (2, 4):
        ranks = run_ranks(world, graph_of_two_parts)
        assert all(torch.equal(found[0], neighbors) and torch.equal(found[1], weights) for found in ranks)
        for place, (phase, rows, n_views) in enumerate(batches):
            assert torch.equal(torch.cat([found[2][place][1] for found in ranks]), rows)
            assert all(found[2][place][::2] == (phase, n_views) for found in ranks)
