"""GCC: its losses and graph against published numbers, slow oracles and several ranks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.gcc import GCC, Variant, graph_contrast, node_weights
from models.parts.graph import mine_neighbors
from models.parts.partition import partition_confidence
from models.state import FeatureShard
from tests.oracles.gcc_loop import degrees_loop, graph_contrast_loop
from tests.ranks import run_ranks
from tests.vectors import z

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
