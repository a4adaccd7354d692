"""PICA: its loss against published numbers, a slow oracle and several ranks; its heads, which take turns."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.parts.centers import EStepConfig
from models.parts.partition import partition_confidence
from models.pica import PICA, PICAConfig
from models.state import ClusterState, FeatureShard
from tests.oracles.pica_loop import balance_loop, confidence_loop, similarities_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 3), "scale": 1.0, "single": (1.2367590589, 0.0034899451904, 1.2437389493),
        "similarities": [
            [0.55980934156, 0.62508314324, 0.97398655766], [0.98265140401, 0.75332007753, 0.62872599966],
            [0.6897887159, 0.98272954919, 0.57158985565],
        ],
        "original": {(0, 0): -0.016714635842, (7, 2): 0.016110751035}, "changed": {(1, 2): 0.025168810566},
        "norms": [0.078406209437, 0.075071328173], "repeated": (1.0968686622, 0.0034899451904, 1.1038485525),
        "wrong": [1.3705713393, 1.3946236449], "wrong_mean": 1.3825974921,
    },
    "B": {
        "sizes": (6, 4), "scale": 2.5, "single": (1.7038114867, 0.10342097033, 1.9106534274),
        "similarities": [
            [0.3820527226, 0.048926267502, 0.48238635527, 0.94887081851],
            [0.77767280713, 0.10012567924, 0.11867394508, 0.7900253701],
            [0.70657297627, 0.91113364672, 0.16120584279, 0.036553595702],
            [0.19559460482, 0.6161580826, 0.86458966285, 0.12409444446],
        ],
        "original": {(0, 0): 0.083507844864, (5, 3): 0.031195288495}, "changed": {(1, 2): 0.0063248572503},
        "norms": [0.15068227634, 0.057875646222], "repeated": (1.382378753, 0.10342097033, 1.5892206937),
        "wrong": [2.6723742376, 2.5343370879], "wrong_mean": 2.6033556627,
    },
}  # fmt: skip


def inputs(name: str, n_changed: int = 1, own: slice = slice(None)) -> list[Tensor]:
    """Logits of the originals and of the changed images, leaves that record their gradient."""
    (rows, n_clusters), scale = CASES[name]["sizes"], CASES[name]["scale"]
    return [(scale * z(rows, n_clusters, s))[own].clone().requires_grad_() for s in range(1 + n_changed)]


def losses(logits: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, negative entropy, and both as PICA adds them."""
    first, *others = [values.softmax(1) for values in logits]
    confidence, entropy = partition_confidence(first, others)
    return confidence, entropy, confidence + 2 * entropy


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_equal_the_published_numbers(name: str) -> None:
    expected, leaves = CASES[name], inputs(name)
    found = losses(leaves)
    found[2].backward()
    assert [loss.item() for loss in found] == pytest.approx(expected["single"], abs=1e-9)
    for leaf, values in zip(leaves, ("original", "changed"), strict=True):
        for place, value in expected[values].items():
            assert leaf.grad[place].item() == pytest.approx(value, abs=1e-11)
    assert [leaf.grad.norm().item() for leaf in leaves] == pytest.approx(expected["norms"], abs=1e-10)
    assert [loss.item() for loss in losses(inputs(name, 3))] == pytest.approx(expected["repeated"], abs=1e-9)
    columns = [leaf.detach().softmax(1).numpy() for leaf in leaves]
    for line, published in zip(similarities_loop(columns[0], columns[1:]), expected["similarities"], strict=True):
        assert line == pytest.approx(published, abs=1e-10)


@pytest.mark.parametrize("n_changed", [1, 3])
def test_loss_equals_the_loops(n_changed: int) -> None:
    first, *others = (3 * torch.randn(1 + n_changed, 11, 5, dtype=torch.float64)).softmax(2)
    confidence, entropy = partition_confidence(first, others)
    assert confidence.item() == pytest.approx(confidence_loop(first.numpy(), [q.numpy() for q in others]), abs=1e-12)
    assert entropy.item() == pytest.approx(balance_loop(first.numpy()), abs=1e-12)


def test_certain_equal_clusters_and_uniform_ones_have_known_losses() -> None:
    certain, uniform = torch.eye(5).repeat(7, 1), torch.full((7, 5), 0.2)
    confidence, entropy = partition_confidence(certain, [certain])
    assert [confidence.item(), entropy.item()] == pytest.approx([math.log(1 + 4 / math.e), 0], abs=1e-6)
    confidence, entropy = partition_confidence(uniform, [uniform])
    assert [confidence.item(), entropy.item()] == pytest.approx([math.log(5), 0], abs=1e-6)


@pytest.mark.parametrize("weak", [-1.0, -30.0, -200.0])  # in float32 the last is a probability of 0 in every row
def test_a_cluster_that_no_row_takes_gives_finite_losses_and_gradients(weak: float) -> None:
    logits = [z(7, 5, s).float().index_fill(1, torch.tensor([2]), weak).requires_grad_() for s in (2, 3)]
    confidence, entropy, loss = losses(logits)
    loss.backward()
    a, b = (leaf.detach().softmax(1).double().numpy() for leaf in logits)
    assert confidence.item() == pytest.approx(confidence_loop(a, [b]), abs=1e-5)
    assert entropy.item() == pytest.approx(balance_loop(a), abs=1e-5)
    assert all(leaf.grad.isfinite().all() for leaf in logits)


def test_half_precision_computes_in_float32() -> None:
    first, second = z(7, 5, 0).softmax(1).bfloat16(), z(7, 5, 1).softmax(1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = partition_confidence(first, [second])
    assert [value.dtype for value in found] == [torch.float32] * 2
    assert found == partition_confidence(first.float(), [second.float()])


def over_ranks(rank: int, world: int) -> dict[tuple[str, int], tuple[list[float], list[Tensor]]]:
    """Of each case that can be cut, with 1 and 3 repeats: the losses, and the gradients of own rows of their mean."""
    found = {}
    for name, case in CASES.items():
        rows = case["sizes"][0]
        for n_changed in (1, 3) if rows % world == 0 else ():
            leaves = inputs(name, n_changed, slice(rank * rows // world, (rank + 1) * rows // world))
            values = losses(leaves)
            (values[2] / world).backward()
            found[name, n_changed] = [loss.item() for loss in values], [leaf.grad for leaf in leaves]
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_loss_and_gradients_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    ranks = run_ranks(world, over_ranks) if world > 1 else [over_ranks(0, 1)]
    for name, n_changed in ranks[0]:
        whole = inputs(name, n_changed)
        losses(whole)[2].backward()
        expected = CASES[name]["single" if n_changed == 1 else "repeated"]
        for rank in ranks:  # equal on every rank
            assert rank[name, n_changed][0] == pytest.approx(expected, abs=1e-9)
        for place, leaf in enumerate(whole):
            together = torch.cat([rank[name, n_changed][1][place] for rank in ranks])
            torch.testing.assert_close(together, leaf.grad, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_parts_of_a_batch_are_other_losses(name: str) -> None:
    expected, rows = CASES[name], CASES[name]["sizes"][0]
    parts = [losses(inputs(name, own=own))[2].item() for own in (slice(rows // 2), slice(rows // 2, rows))]
    assert parts == pytest.approx(expected["wrong"], abs=1e-9)
    assert sum(parts) / 2 == pytest.approx(expected["wrong_mean"], abs=1e-9)
    assert sum(parts) / 2 > 1.1 * expected["single"][2]
    assert not PICA.exact_under_accumulation


def tiny_pica(*over_clusters: int, **changes: Any) -> PICA:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5))
    return PICA(encoder, 5, PICAConfig(over_clusters=over_clusters, **changes), EStepConfig(), 4).double()


def tiny_batch(phase: str = "head 0", n_views: int = 4) -> Batch:
    views = [torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(n_views)]
    return Batch(views, torch.arange(7), torch.arange(7), Draws(0, 0, 0, 7, 7), phase)


@pytest.mark.parametrize(("phase", "number"), [("head 1", 1), ("head 2", 2), ("head 0", 0), (UNLABELLED, 1)])
def test_one_head_learns_in_a_phase_from_all_views(phase: str, number: int) -> None:
    method, batch = tiny_pica(11, 13), tiny_batch(phase)
    assert method.phases == ("head 1", "head 2", "head 0")
    found = method.loss(batch, None, Clock(0, 1, 1))
    with torch.no_grad():  # the image has its own BatchNorm statistics, the changed ones share theirs
        features = [method.encode(batch.views[0]), *method.encode(torch.cat(batch.views[1:])).split(7)]
        first, *others = [method.cluster_heads[number](view).softmax(1).numpy() for view in features]
    assert found["confidence"].item() == pytest.approx(confidence_loop(first, others), abs=1e-12)
    assert found["negative_entropy"].item() == pytest.approx(balance_loop(first), abs=1e-12)
    torch.testing.assert_close(found["loss"], found["confidence"] + 2 * found["negative_entropy"])
    torch.testing.assert_close(found["carry"]["features"], torch.stack(features[:2], 1))
    found["loss"].backward()
    assert all(view.grad.abs().sum() > 0 for view in batch.views)
    for place, head in enumerate(method.cluster_heads):  # there for all, but zero
        assert all((p.grad.abs().sum() > 0) == (place == number) for p in head.parameters())
    method.before_optimizer(phase, Clock(0, 1, 1))
    for place, head in enumerate(method.cluster_heads):
        assert all((p.grad is not None) == (place == number) for p in head.parameters())
    assert all(p.grad is not None for p in method.encoder.parameters())


def test_all_views_in_one_forward_share_their_statistics() -> None:
    method, batch = tiny_pica(views_in_one_forward=True), tiny_batch()
    method.loss(batch, None, Clock(0, 1, 1))
    together = torch.cat(batch.views).flatten(1) @ method.encoder[1].weight.T + method.encoder[1].bias
    torch.testing.assert_close(method.encoder[2].running_mean, 0.1 * together.mean(0))


def test_an_idle_head_does_not_move_by_what_adam_remembers() -> None:
    method = tiny_pica(11)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1, weight_decay=0.1)

    def step(phase: str) -> list[bool]:
        """Which heads a step moves."""
        before = [head[0].weight.detach().clone() for head in method.cluster_heads]
        optimizer.zero_grad(set_to_none=True)
        method.loss(tiny_batch(phase), None, Clock(0, 1, 1))["loss"].backward()
        method.before_optimizer(phase, Clock(0, 1, 1))
        optimizer.step()
        return [not torch.equal(old, head[0].weight) for old, head in zip(before, method.cluster_heads, strict=True)]

    assert [step(phase) for phase in ("head 1", "head 0", UNLABELLED)] == [[False, True], [True, False], [False, True]]


def test_without_over_clustering_rows_without_a_place_in_the_clusters_teach_nothing() -> None:
    method, batch = tiny_pica(), tiny_batch(UNLABELLED)
    assert (method.phases, method.heads) == (("head 0",), (4,))
    found = method.loss(batch, None, Clock(0, 1, 1))
    assert set(found) == {"loss", "carry"}
    found["loss"].backward()
    assert found["loss"].item() == 0
    assert all(p.grad.abs().sum() == 0 for p in method.parameters())
    method.before_optimizer(UNLABELLED, Clock(0, 1, 1))
    assert all(p.grad is None for p in method.parameters())
    found = method.loss(dataclasses.replace(batch, phase="head 0"), None, Clock(0, 1, 1))
    assert found["loss"].item() > 0


def test_an_image_alone_is_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="views.n_views: 1: PICA compares an image with changed ones; use 2 or more"):
        tiny_pica().loss(tiny_batch(n_views=1), None, Clock(0, 1, 1))


def test_clusters_are_read_off_the_target_head() -> None:
    method, images = tiny_pica(11).eval(), torch.randn(7, 3, 3, 3, dtype=torch.float64)
    assert method.heads == (4, 11)
    with torch.no_grad():
        both, features = method.probabilities(images), method.embed(images)
        target, over = both.split(method.heads, 1)
        torch.testing.assert_close(target, method.classifier(ClusterState())(method.encode(images)).softmax(1))
    torch.testing.assert_close(over.sum(1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(features, nn.functional.normalize(method.encode(images), dim=1))
    state = method.e_step(FeatureShard(torch.arange(7), features, 7, 0, [target, over]), None, Clock(0, 1, 1))
    assert state.labels is not None
    assert torch.equal(state.labels, target.argmax(1))
    assert torch.equal(method.assign(images, ClusterState()), target)


def test_defaults_are_the_papers() -> None:
    config = PICAConfig()
    assert (config.views_in_one_forward, config.over_clusters, config.balance_weight) == (False, (70,), 2.0)
    method = PICA(nn.Identity(), 512, config, EStepConfig(), 20)
    assert [[(layer.in_features, layer.out_features) for layer in head] for head in method.cluster_heads] == [
        [(512, 20)],
        [(512, 70)],
    ]
