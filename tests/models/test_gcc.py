"""GCC: its losses and graph against published numbers, slow oracles and several ranks; its phases and partners."""

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
from models.gcc import GCC, GCCConfig, Variant, graph_contrast, node_weights
from models.parts.centers import EStepConfig
from models.parts.graph import mine_neighbors
from models.parts.partition import partition_confidence
from models.state import ClusterState, FeatureShard
from tests.oracles.gcc_loop import degrees_loop, graph_contrast_loop
from tests.oracles.ntxent_loop import cosine
from tests.oracles.pica_loop import balance_loop, confidence_loop
from tests.ranks import run_ranks
from tests.runs import tiny_run
from tests.vectors import z
from training.embed import embed_shard
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

VARIANTS: tuple[Variant, ...] = ("ref", "fix", "prob")
CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 6, 3), "scale": 1.0, "pretext": {"ref": 15.705251123, "fix": 14.860304331, "prob": 14.860304331},
        "pretext_first": ((0, 0), -0.21763596645), "pretext_second": ((1, 2), 0.31135793765),
        "ref": (3.2460667423, -0.05407961694, -0.0031527450452, -0.011790498012, 0.011058692561),
        "fix": (1.0411869745, -0.10408867074, -0.0052791130232, -0.037447725933, 0.040080453352),
        "prob": (1.3461982609, -0.077439398905, -0.0021667722794, -0.028500621392, 0.028148783866),
        "norms": {
            "ref": [0.20989098416, 0.15513914611, 0.026462031488, 0.027267583691, 0.026212076451],
            "fix": [0.40085005095, 0.14474901104, 0.14179717012, 0.044766962614, 0.14621436612],
            "prob": [0.29443552229, 0.1058450303, 0.10314957416, 0.033082927623, 0.10698544345],
        },
        "places": [(0, 0), (1, 2), (0, 1), (7, 5)], "cluster": 1.2443079475, "total": 7.7364414321,
        "image": -0.016042475546, "neighbor": 0.024692620437,
        "wrong": [2.7659586532, 2.9899538802], "wrong_mean": 2.8779562667,
        "graph": [[7, 1, 6], [2, 0, 3], [1, 3, 0], [2, 4, 1], [5, 3, 6], [4, 6, 7], [5, 7, 0], [0, 6, 1]],
        "degrees": [4, 4, 3, 3, 3, 3, 4, 4],
        "with_itself": [
            [0, 7, 1, 6], [1, 2, 0, 3], [2, 1, 3, 0], [3, 2, 4, 1], [4, 5, 3, 6], [5, 4, 6, 7], [6, 5, 7, 0],
            [7, 0, 6, 1],
        ],
        "degrees_with_itself": [5, 5, 4, 4, 4, 4, 5, 5],
    },
    "B": {
        "sizes": (6, 5, 4), "scale": 2.5, "pretext": {"ref": 15.359091849, "fix": 14.199966485, "prob": 14.199966485},
        "pretext_first": ((0, 0), -0.35985182152), "pretext_second": ((1, 2), 0.57440910591),
        "ref": (2.9868622021, -0.063215982938, 0.01096823786, -0.020654742118, -0.0049233388041),
        "fix": (0.78951542527, -0.16119620063, 0.019599000519, -0.071346392199, -0.057715049639),
        "prob": (1.1679280424, -0.10656690452, 0.013270618298, -0.054169732554, -0.038175217191),
        "norms": {
            "ref": [0.22076298273, 0.18774995469, 0.033526473472, 0.032616307871, 0.024111711401],
            "fix": [0.48925161805, 0.20126371708, 0.20230123486, 0.068848564468, 0.20475709789],
            "prob": [0.33420556894, 0.13782648043, 0.13502224438, 0.046193622862, 0.14023549396],
        },
        "places": [(0, 0), (1, 2), (0, 1), (5, 4)], "cluster": 1.9201359672, "total": 7.8938603714,
        "image": 0.087827556326, "neighbor": 0.0067315312568,
        "wrong": [2.5967463483, 2.6094519551], "wrong_mean": 2.6030991517,
        "graph": [[1, 2, 5], [2, 0, 3], [3, 1, 4], [2, 4, 1], [3, 5, 2], [4, 3, 0]],
        "degrees": [3, 3, 4, 4, 3, 3],
        "with_itself": [[0, 1, 2, 5], [1, 0, 2, 3], [2, 3, 1, 4], [3, 2, 4, 1], [4, 3, 5, 2], [5, 4, 3, 0]],
        "degrees_with_itself": [4, 4, 5, 5, 4, 4],
    },
}  # fmt: skip
WARM, AFTER = Clock(0, 3, 4), Clock(3, 3, 4)


def rows_of(name: str, own: slice = slice(None)) -> tuple[list[Tensor], Tensor]:
    """Both views and three neighbours, leaves that record their gradient; the neighbours' weights."""
    rows, width, _ = CASES[name]["sizes"]
    degrees = torch.tensor([[4 + (i + m) % 3 for m in range(3)] for i in range(rows)], dtype=torch.float64)
    return [z(rows, width, s)[own].clone().requires_grad_() for s in range(5)], (3 / degrees).sqrt()[own]


def contrast(leaves: list[Tensor], weights: Tensor | None, variant: Variant) -> Tensor:
    """Of both views and, where there are weights, the neighbours."""
    near = leaves[2:] if weights is not None else []
    return graph_contrast(leaves[0], leaves[1], near, weights, temperature=0.1, variant=variant)


def logits_of(name: str) -> list[Tensor]:
    """Cluster logits of the images and of one neighbour each."""
    (rows, _, n_clusters), scale = CASES[name]["sizes"], CASES[name]["scale"]
    return [(scale * z(rows, n_clusters, s)).requires_grad_() for s in (6, 7)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_contrast_in_the_graph_equals_the_published_numbers(name: str, variant: Variant) -> None:
    (leaves, weights), (value, *gradients) = rows_of(name), CASES[name][variant]
    loss = contrast(leaves, weights, variant)
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=1e-9)
    assert [leaf.grad.norm().item() for leaf in leaves] == pytest.approx(CASES[name]["norms"][variant], abs=1e-9)
    chosen = [leaves[0], leaves[1], leaves[2], leaves[4]]
    found = [leaf.grad[place].item() for leaf, place in zip(chosen, CASES[name]["places"], strict=True)]
    assert found == pytest.approx(gradients, abs=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_contrast_of_views_alone_equals_the_published_numbers(name: str, variant: Variant) -> None:
    leaves, _ = rows_of(name)
    loss = contrast(leaves, None, variant)
    assert loss.item() == pytest.approx(CASES[name]["pretext"][variant], abs=1e-9)
    if variant == "ref":
        loss.backward()
        for leaf, key in zip(leaves[:2], ("pretext_first", "pretext_second"), strict=True):
            place, value = CASES[name][key]
            assert leaf.grad[place].item() == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_contrast_of_clusters_and_the_whole_equal_the_published_numbers(name: str) -> None:
    logits = logits_of(name)
    image, neighbor = (values.softmax(1) for values in logits)
    confidence, entropy = partition_confidence(image, [neighbor])
    loss = confidence + 2 * entropy
    loss.backward()
    assert loss.item() == pytest.approx(CASES[name]["cluster"], abs=1e-9)
    found = [logits[0].grad[0, 0].item(), logits[1].grad[1, 2].item()]
    assert found == pytest.approx([CASES[name]["image"], CASES[name]["neighbor"]], abs=1e-11)
    total = 2 * contrast(*rows_of(name), "ref") + loss
    assert total.item() == pytest.approx(CASES[name]["total"], abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_neighbors", [0, 1, 4])
def test_contrast_equals_the_loop(variant: Variant, n_neighbors: int) -> None:
    first, second, *near = 2 * torch.randn(2 + n_neighbors, 11, 5, dtype=torch.float64)
    weights = torch.rand(11, n_neighbors, dtype=torch.float64) + 0.3
    given = weights if near else None
    found = graph_contrast(first, second, near, given, temperature=0.3, variant=variant)
    arrays = [rows.numpy() for rows in near]
    expected = graph_contrast_loop(first.numpy(), second.numpy(), arrays, weights.numpy(), 0.3, variant)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_prob_is_never_negative_where_the_published_loss_is() -> None:
    first = torch.eye(7)
    near, weights = [first] * 3, torch.ones(7, 3)
    values = [graph_contrast(first, first, near, weights, temperature=0.1, variant=v).item() for v in VARIANTS]
    assert values[1] < -5
    assert 0 <= values[2] < 0.01


def test_half_precision_computes_in_float32() -> None:
    (leaves, weights), found = rows_of("A"), []
    halves = [leaf.detach().bfloat16() for leaf in leaves]
    with torch.autocast("cpu", torch.bfloat16):
        found.append(contrast(halves, weights.float(), "prob"))
    assert found[0].dtype == torch.float32
    assert found[0] == contrast([half.float() for half in halves], weights.float(), "prob")


@pytest.mark.parametrize("name", CASES)
def test_graph_leaves_out_the_image_itself_and_has_the_published_weights(name: str) -> None:
    rows, width, _ = CASES[name]["sizes"]
    views = [nn.functional.normalize(z(rows, width, s), dim=1) for s in range(10, 14)]
    bank = torch.stack(views).mean(0)
    graph = mine_neighbors(FeatureShard(torch.arange(rows), bank, rows, 0), 3)
    assert graph.tolist() == CASES[name]["graph"]
    assert degrees_loop(CASES[name]["graph"]) == CASES[name]["degrees"]
    expected = [math.sqrt(3 / degree) for degree in CASES[name]["degrees"]]
    assert node_weights(graph, 3).tolist() == pytest.approx(expected, abs=1e-12)
    published = (bank @ bank.T).argsort(1, descending=True)[:, :4]  # inner products, itself among them
    assert published.tolist() == CASES[name]["with_itself"]
    weights = node_weights(published, 3)
    assert weights.tolist() == pytest.approx([math.sqrt(3 / d) for d in CASES[name]["degrees_with_itself"]], abs=1e-12)


def test_degrees_count_distinct_neighbours_as_the_loop_does() -> None:
    draws = torch.Generator().manual_seed(5)
    neighbors = torch.stack([torch.randperm(52, generator=draws)[:5] for _ in range(53)])
    neighbors += neighbors >= torch.arange(53)[:, None]  # not itself
    expected = [math.sqrt(2 / degree) for degree in degrees_loop(neighbors.tolist())]
    assert node_weights(neighbors.int(), 2).tolist() == pytest.approx(expected, abs=1e-12)


def over_ranks(rank: int, world: int) -> dict[tuple[str, Variant, bool], tuple[float, list[Tensor]]]:
    """Of each case that can be cut: this rank's loss, and the gradients of its rows of the mean over ranks."""
    found: dict[tuple[str, Variant, bool], tuple[float, list[Tensor]]] = {}
    for name, case in CASES.items():
        n_rows = case["sizes"][0]
        for variant in VARIANTS if n_rows % world == 0 else ():
            for graph in (True, False):
                leaves, weights = rows_of(name, slice(rank * n_rows // world, (rank + 1) * n_rows // world))
                loss = contrast(leaves, weights if graph else None, variant)
                (loss / world).backward()
                found[name, variant, graph] = loss.item(), [leaf.grad for leaf in leaves if leaf.grad is not None]
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_contrast_over_ranks_is_that_of_the_whole_batch(world: int) -> None:
    ranks = run_ranks(world, over_ranks)
    for case in ranks[0]:
        name, variant, graph = case
        whole, weights = rows_of(name)
        loss = contrast(whole, weights if graph else None, variant)
        loss.backward()
        assert sum(rank[case][0] for rank in ranks) / world == pytest.approx(loss.item(), abs=1e-12)
        for place, together in enumerate(zip(*(rank[case][1] for rank in ranks), strict=True)):
            torch.testing.assert_close(torch.cat(together), whole[place].grad, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_parts_of_a_batch_are_other_losses(name: str) -> None:
    rows = CASES[name]["sizes"][0]
    parts = [contrast(*rows_of(name, own), "ref").item() for own in (slice(rows // 2), slice(rows // 2, rows))]
    assert parts == pytest.approx(CASES[name]["wrong"], abs=1e-9)
    assert sum(parts) / 2 == pytest.approx(CASES[name]["wrong_mean"], abs=1e-9)
    assert abs(sum(parts) / 2 - CASES[name]["ref"][0]) > 0.1
    assert not GCC.exact_under_accumulation


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
