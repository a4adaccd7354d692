"""CC: its losses against published numbers, slow oracles and several ranks; its network and read-out."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import UNLABELLED, Batch
from models.cc import CC, CCConfig, cluster_contrast
from models.parts.centers import EStepConfig
from models.parts.contrastive import nt_xent
from models.state import ClusterState, FeatureShard
from tests.oracles.cc_loop import cluster_contrast_loop, negative_entropy_loop
from tests.oracles.ntxent_loop import nt_xent_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils.clock import Clock
from utils.draws import Draws

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 6, 3), "scale": 1.0, "instance": 4.3520672148, "cluster": 1.6996374033,
        "entropy": 0.0072690921811, "both": 1.7069064955, "total": 6.0589737103,
        "first": {(0, 0): -0.04958187737, (7, 5): -0.0031377176785}, "second": {(1, 2): 0.063154085911},
        "norms": [0.34712199278, 0.35557135039],
        "first_logits": {(0, 0): -0.00086450319985, (7, 2): 0.0040935891838},
        "second_logits": {(1, 2): -0.00068155463174}, "logit_norms": [0.067583342129, 0.06845879555],
        "wrong_instance": [3.5298511316, 3.5510766973], "wrong_cluster": [1.8147946226, 1.8572300167],
        "wrong_total": 5.3764762341,
    },
    "B": {
        "sizes": (6, 5, 4), "scale": 2.5, "instance": 3.9827975727, "cluster": 2.188410623,
        "entropy": 0.17197363489, "both": 2.3603842579, "total": 6.3431818306,
        "first": {(0, 0): -0.081553484809, (5, 4): 0.037574201417}, "second": {(1, 2): 0.11326869316},
        "norms": [0.44094531747, 0.45656846269],
        "first_logits": {(0, 0): 0.00044121246659, (5, 3): -0.054600102393},
        "second_logits": {(1, 2): -0.0010181354129}, "logit_norms": [0.085228172695, 0.092041678815],
        "wrong_instance": [3.2329704131, 3.0910582397], "wrong_cluster": [2.9921259927, 3.0663270029],
        "wrong_total": 6.1912408242,
    },
}  # fmt: skip


def inputs(name: str, own: slice = slice(None)) -> list[Tensor]:
    """Projections and logits of both views, leaves that record their gradient."""
    (rows, width, n_clusters), scale = CASES[name]["sizes"], CASES[name]["scale"]
    whole = [z(rows, width, 0), z(rows, width, 1), scale * z(rows, n_clusters, 2), scale * z(rows, n_clusters, 3)]
    return [values[own].clone().requires_grad_() for values in whole]


def losses(first: Tensor, second: Tensor, first_logits: Tensor, second_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Instance loss, cluster loss, negative entropy."""
    contrast = cluster_contrast(first_logits.softmax(1), second_logits.softmax(1), temperature=1.0)
    return nt_xent(first, second, temperature=0.5), *contrast


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_equal_the_published_numbers(name: str) -> None:
    expected, leaves = CASES[name], inputs(name)
    instance, cluster, entropy = losses(*leaves)
    (instance + cluster + entropy).backward()
    found = [loss.item() for loss in (instance, cluster, entropy, cluster + entropy, instance + cluster + entropy)]
    names = ("instance", "cluster", "entropy", "both", "total")
    assert found == pytest.approx([expected[name] for name in names], abs=1e-9)
    for leaf, values in zip(leaves, ("first", "second", "first_logits", "second_logits"), strict=True):
        for place, value in expected[values].items():
            assert leaf.grad[place].item() == pytest.approx(value, abs=1e-11)
    norms = [leaf.grad.norm().item() for leaf in leaves]
    assert norms == pytest.approx(expected["norms"] + expected["logit_norms"], abs=1e-9)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_losses_equal_the_loops(temperature: float) -> None:
    first, second = (3 * torch.randn(2, 11, 5, dtype=torch.float64)).softmax(2)
    cluster, entropy = cluster_contrast(first, second, temperature=temperature)
    a, b = first.numpy(), second.numpy()
    assert cluster.item() == pytest.approx(cluster_contrast_loop(a, b, temperature), abs=1e-10)
    assert entropy.item() == pytest.approx(negative_entropy_loop(a, b), abs=1e-12)


def test_renamed_clusters_and_exchanged_views_do_not_matter() -> None:
    first, second = (2.5 * z(11, 5, 2)).softmax(1), (2.5 * z(11, 5, 3)).softmax(1)
    renamed = torch.tensor([3, 0, 4, 1, 2])
    expected = cluster_contrast(first, second, temperature=0.5)
    torch.testing.assert_close(cluster_contrast(first[:, renamed], second[:, renamed], temperature=0.5), expected)
    torch.testing.assert_close(cluster_contrast(second, first, temperature=0.5), expected)


@pytest.mark.parametrize("weak", [-1.0, -30.0, -200.0])  # in float32 the last is a probability of 0 in every row
def test_a_cluster_that_no_row_takes_gives_finite_losses_and_gradients(weak: float) -> None:
    logits = [z(7, 5, s).float().index_fill(1, torch.tensor([2]), weak).requires_grad_() for s in (2, 3)]
    views = [leaf.softmax(1) for leaf in logits]
    cluster, entropy = cluster_contrast(*views, temperature=1.0)
    (cluster + entropy).backward()
    a, b = (view.detach().double().numpy() for view in views)
    assert cluster.item() == pytest.approx(cluster_contrast_loop(a, b, 1.0), abs=1e-5)
    assert entropy.item() == pytest.approx(negative_entropy_loop(a, b), abs=1e-5)
    assert all(leaf.grad.isfinite().all() for leaf in logits)


def test_all_rows_in_one_cluster_have_the_largest_negative_entropy() -> None:
    certain = nn.functional.one_hot(torch.full((7,), 2), 5).float().requires_grad_()
    cluster, entropy = cluster_contrast(certain, certain, temperature=1.0)
    (cluster + entropy).backward()
    assert entropy.item() == pytest.approx(2 * math.log(5))
    assert certain.grad.isfinite().all()


def test_half_precision_computes_in_float32() -> None:
    first, second = z(7, 5, 0).softmax(1).bfloat16(), z(7, 5, 1).softmax(1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = cluster_contrast(first, second, temperature=0.5)
    assert [value.dtype for value in found] == [torch.float32] * 2
    assert found == cluster_contrast(first.float(), second.float(), temperature=0.5)


def over_ranks(rank: int, world: int) -> dict[str, tuple[list[float], list[Tensor]]]:
    """Of each case that can be cut: this rank's losses, and the gradients of its rows of the mean over ranks."""
    found = {}
    for name, case in CASES.items():
        rows = case["sizes"][0]
        if rows % world == 0:
            leaves = inputs(name, slice(rank * rows // world, (rank + 1) * rows // world))
            parts = losses(*leaves)
            (sum(parts) / world).backward()  # type: ignore[union-attr]
            found[name] = [loss.item() for loss in parts], [leaf.grad for leaf in leaves]
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_losses_and_gradients_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    ranks = run_ranks(world, over_ranks) if world > 1 else [over_ranks(0, 1)]
    for name in ranks[0]:
        expected, whole = CASES[name], inputs(name)
        sum(losses(*whole)).backward()  # type: ignore[union-attr]
        values = [rank[name][0] for rank in ranks]
        for _, cluster, entropy in values:  # equal on every rank
            assert [cluster, entropy] == pytest.approx([expected["cluster"], expected["entropy"]], abs=1e-9)
        assert sum(instance for instance, _, _ in values) / world == pytest.approx(expected["instance"], abs=1e-9)
        for place, leaf in enumerate(whole):
            together = torch.cat([rank[name][1][place] for rank in ranks])
            torch.testing.assert_close(together, leaf.grad, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_parts_of_a_batch_are_other_losses(name: str) -> None:
    expected, rows = CASES[name], CASES[name]["sizes"][0]
    parts = [losses(*inputs(name, own)) for own in (slice(rows // 2), slice(rows // 2, rows))]
    assert [part[0].item() for part in parts] == pytest.approx(expected["wrong_instance"], abs=1e-9)
    assert [(part[1] + part[2]).item() for part in parts] == pytest.approx(expected["wrong_cluster"], abs=1e-9)
    total = sum(sum(part).item() for part in parts) / 2  # type: ignore[union-attr]
    assert total == pytest.approx(expected["wrong_total"], abs=1e-9)
    assert abs(total - expected["total"]) > 0.1
    assert not CC.exact_under_accumulation


def tiny_cc() -> CC:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5))
    return CC(encoder, 5, CCConfig(projection_dim=3), EStepConfig(), 4).double()


def tiny_batch() -> Batch:
    views = [torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return Batch(views, torch.arange(7), torch.arange(7), Draws(0, 0, 0, 7, 7))


def test_method_adds_both_losses_and_learns_from_both_views() -> None:
    method, batch = tiny_cc(), tiny_batch()
    found = method.loss(batch, None, Clock(0, 1, 1))
    first, second = found["carry"]["features"].unbind(1)
    assert not first.requires_grad
    assert found["instance"].item() == pytest.approx(nt_xent_loop(first.numpy(), second.numpy(), 0.5), abs=1e-12)
    with torch.no_grad():  # in train mode each view has its own BatchNorm statistics
        a, b = (method.probabilities(view).numpy() for view in batch.views)
    assert found["cluster"].item() == pytest.approx(cluster_contrast_loop(a, b, 1.0), abs=1e-12)
    assert found["negative_entropy"].item() == pytest.approx(negative_entropy_loop(a, b), abs=1e-12)
    torch.testing.assert_close(found["loss"], found["instance"] + found["cluster"] + found["negative_entropy"])
    found["loss"].backward()
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in batch.views)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_rows_without_a_place_in_the_clusters_are_contrasted_as_images_only() -> None:
    method, batch = tiny_cc(), dataclasses.replace(tiny_batch(), phase=UNLABELLED)
    found = method.loss(batch, None, Clock(0, 1, 1))
    assert set(found) == {"loss", "instance", "carry"}
    assert torch.equal(found["loss"], found["instance"])
    found["loss"].backward()
    assert all(p.grad.abs().sum() == 0 for p in method.cluster_head.parameters())  # there, but zero
    assert method.projector[-1].weight.grad.abs().sum() > 0


def test_clusters_are_read_off_the_cluster_head() -> None:
    method, images = tiny_cc().eval(), torch.randn(7, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        probabilities, features = method.probabilities(images), method.embed(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(features, nn.functional.normalize(method.projector(method.encode(images)), dim=1))
    assert method.heads == (4,)
    state = method.e_step(FeatureShard(torch.arange(7), features, 7, 0, [probabilities]), None, Clock(0, 1, 1))
    assert state.labels is not None
    assert torch.equal(state.labels, probabilities.argmax(1))
    assert torch.equal(method.assign(images, ClusterState()), probabilities)


def test_defaults_are_the_papers() -> None:
    config = CCConfig()
    assert (config.views_in_one_forward, config.temperature, config.cluster_temperature) == (False, 0.5, 1.0)
    method = CC(nn.Identity(), 512, config, EStepConfig(), 10)
    for head, width in ((method.projector, 128), (method.cluster_head, 10)):
        assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
        assert sum(p.numel() for p in head.parameters()) == 512 * 513 + width * 513
