"""PCL: concentrations and prototype loss against published numbers and slow oracles; its E-step over ranks."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Batch
from models.parts import centers
from models.parts.centers import EStepConfig, memberships
from models.parts.contrastive import info_nce
from models.pcl import PCL, PCLConfig, concentrations, prototype_loss
from models.state import ClusterState, FeatureShard
from tests.oracles.moco_loop import info_nce_loop, unit_rows
from tests.oracles.pcl_loop import concentrations_loop, extents_loop, means_loop, prototype_loop
from tests.ranks import run_ranks
from tests.vectors import z
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError

ROWS = F.normalize(z(14, 6, 20), dim=1)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 3]
QUERY_LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
DENSITY = torch.tensor([0.201988703661, 0.199652078785, 0.196370513893, 0.201988703661], dtype=torch.float64)
TRAINED, BEGUN, OVER = Clock(14, 7, 3), Clock(0, 7, 3), Clock(21, 7, 3)


def unit_means(labels: list[int], n_clusters: int) -> Tensor:
    return torch.from_numpy(unit_rows(means_loop(ROWS.numpy(), labels, n_clusters)))


CENTERS = unit_means(LABELS, 4)


def density_of(rows: Tensor, labels: list[int], centers: Tensor, temperature: float) -> Tensor:
    """What `concentrations` makes of the rows of each cluster."""
    sums, counts = torch.zeros(2, len(centers), dtype=torch.float64)
    for row, label in zip(rows, labels, strict=True):
        sums[label] += torch.dist(row, centers[label])
        counts[label] += 1
    return concentrations(sums, counts, temperature)


def test_concentrations_equal_the_published_numbers() -> None:
    extents = [0.457632883093, 0.452338941606, 0.441717753565, 0.457632883093]
    assert extents_loop(ROWS.numpy(), LABELS, CENTERS.numpy()) == pytest.approx(extents, abs=1e-11)
    torch.testing.assert_close(density_of(ROWS, LABELS, CENTERS, 0.2), DENSITY, rtol=0, atol=1e-11)


def test_concentrations_about_plain_means_equal_the_published_numbers_and_are_not_those_of_an_e_step() -> None:
    rows, labels = ROWS[:, :4], [0] * 3 + [1] * 4 + [2] * 7
    centers = torch.from_numpy(means_loop(rows.numpy(), labels, 3))
    extents = [0.186783289702, 0.220800301506, 0.283826864515]
    assert extents_loop(rows.numpy(), labels, centers.numpy()) == pytest.approx(extents, abs=1e-11)
    published = [0.0847072400156, 0.0966150303818, 0.118677729603]
    assert density_of(rows, labels, centers, 0.1).tolist() == pytest.approx(published, abs=1e-11)
    assert density_of(rows, labels, F.normalize(centers, dim=1), 0.1).tolist() != pytest.approx(published, abs=1e-3)


def test_concentrations_equal_the_loop() -> None:
    rows, centers = torch.randn(53, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    labels = [*range(11), *torch.randint(0, 10, (42,)).tolist()]  # the last cluster has one row
    expected = concentrations_loop(rows.numpy(), labels, centers.numpy(), 0.3)
    np.testing.assert_allclose(density_of(rows, labels, centers, 0.3).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("sums", "counts"), [([0, 0, 0], [1, 1, 1]), ([0, 0, 0], [3, 5, 0]), ([2, 0, 0], [3, 5, 0])])
def test_clusters_without_an_extent_take_the_largest_or_the_temperature(sums: list[int], counts: list[int]) -> None:
    found = concentrations(torch.tensor(sums).double(), torch.tensor(counts).double(), 0.2)
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.2], abs=1e-15)


def test_loss_and_gradient_equal_the_published_numbers_and_spare_the_prototypes() -> None:
    queries, centers = z(8, 6, 0).requires_grad_(), CENTERS.clone().requires_grad_()
    density = density_of(ROWS, LABELS, CENTERS, 0.2).requires_grad_()
    loss = prototype_loss(queries, QUERY_LABELS, centers, density)
    loss.backward()
    assert loss.item() == pytest.approx(3.20393181769, abs=1e-11)
    expected = [0.0835266310163, -0.0293842723793, 0.124785051975]
    assert [queries.grad[place].item() for place in ((0, 0), (3, 2), (7, 5))] == pytest.approx(expected, abs=1e-12)
    assert centers.grad is None
    assert density.grad is None


@pytest.mark.parametrize(
    ("form", "drawn", "expected"), [("official", (3,), 3.76635901398), ("propos", (3, 3), 2.55024934022)]
)
def test_losses_with_drawn_candidates_equal_the_published_numbers_and_are_not_ours(
    form: str, drawn: tuple[int, ...], expected: float
) -> None:
    other = prototype_loop(z(8, 6, 0).numpy(), QUERY_LABELS.tolist(), CENTERS.numpy(), DENSITY.numpy(), form, drawn)
    assert other == pytest.approx(expected, abs=1e-10)
    assert abs(prototype_loss(z(8, 6, 0), QUERY_LABELS, CENTERS, DENSITY).item() - expected) > 0.5


def test_loss_is_the_mean_of_the_parts_of_a_batch_which_that_of_candidates_from_the_batch_is_not() -> None:
    ours, official = 0.0, 0.0
    for own in (slice(4), slice(4, 8)):
        queries, labels = z(8, 6, 0)[own], QUERY_LABELS[own]
        ours += prototype_loss(queries, labels, CENTERS, DENSITY).item() / 2
        arrays = queries.numpy(), labels.tolist(), CENTERS.numpy(), DENSITY.numpy()
        official += prototype_loop(*arrays, "official", (3,)) / 2
    assert ours == pytest.approx(3.20393181769, abs=1e-10)
    assert abs(official - 3.76635901398) > 0.1


def test_loss_equals_the_loop_and_half_precision_computes_in_float32() -> None:
    queries, prototypes = torch.randn(11, 5, dtype=torch.float64), F.normalize(z(7, 5, 3), dim=1)
    labels, density = torch.randint(0, 7, (11,)), 0.1 + torch.rand(7, dtype=torch.float64)
    expected = prototype_loop(queries.numpy(), labels.tolist(), prototypes.numpy(), density.numpy())
    assert prototype_loss(queries, labels, prototypes, density).item() == pytest.approx(expected, abs=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        half = prototype_loss(queries.bfloat16(), labels, prototypes, density)
    assert torch.equal(half, prototype_loss(queries.bfloat16().float(), labels, prototypes, density))


def test_total_with_two_clusterings_equals_the_published_number() -> None:
    six, queries = [row % 6 for row in range(14)], z(8, 6, 0)
    density = density_of(ROWS, six, unit_means(six, 6), 0.2)
    published = [0.222805872638, 0.23517052631, 0.185715067884, 0.186361131051, 0.190745815671, 0.179201586446]
    assert density.tolist() == pytest.approx(published, abs=1e-11)
    losses = [
        prototype_loss(queries, QUERY_LABELS, CENTERS, density_of(ROWS, LABELS, CENTERS, 0.2)),
        prototype_loss(queries, torch.tensor(six[:8]), unit_means(six, 6), density),
    ]
    assert [loss.item() for loss in losses] == pytest.approx([3.20393181769, 8.10192851939], abs=1e-10)
    prototypes = torch.stack(losses).mean()
    assert prototypes.item() == pytest.approx(5.65293016854, abs=1e-10)
    past = F.normalize(z(12, 6, 12), dim=1)
    instance = info_nce(queries, z(8, 6, 3), past, torch.ones(12, dtype=torch.bool), temperature=0.2)
    assert (instance + prototypes).item() == pytest.approx(6.67399135246, abs=1e-10)


def tiny_pcl(metric: str = "spherical", **changes: Any) -> PCL:
    """A linear encoder, 6 to 5 to 3, that clusters into 3, and into 5 and 7 prototypes, in float64."""
    settings = {"hidden_dim": 5, "projection_dim": 3, "queue_size": 31, "n_prototypes": (5, 7), "warmup_epochs": 2}
    config = PCLConfig(**{**settings, **changes})  # type: ignore[arg-type]
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 5))
    estep = EStepConfig(metric=metric, n_init=2, final_n_init=3)  # type: ignore[arg-type]
    return PCL(encoder, 5, config, estep, 3).double()


def levels() -> ClusterState:
    """Clusters of 23 rows into 5 and 7."""
    of_each = [
        ClusterState(
            labels=torch.arange(23) * 5 % n, centers=F.normalize(z(n, 3, n), dim=1), density=0.1 + z(n, 1, 1)[:, 0] ** 2
        )
        for n in (5, 7)
    ]
    return ClusterState(labels=torch.arange(23) % 3, centers=z(3, 3, 1), levels=tuple(of_each))


@pytest.mark.parametrize(("symmetric", "share"), [("none", 1.0), ("sum", 1.0), ("mean", 0.5)])
def test_method_adds_the_mean_over_clusterings_in_each_direction(symmetric: str, share: float) -> None:
    method, state = tiny_pcl(symmetric=symmetric, prototype_weight=0.3), levels()
    method.contrast.queue.write(F.normalize(z(31, 3, 9), dim=1), torch.arange(31))
    rows = torch.tensor([22, 3, 14, 0, 8])
    views = [z(23, 6, view)[rows].view(-1, 2, 3, 1) for view in (0, 1)]
    batch = Batch(views, rows, torch.arange(5), Draws(0, 14, 0, 5, 5))
    found = method.loss(batch, state, TRAINED)
    past = method.contrast.queue.features.numpy()
    features, keys = found["carry"]["features"].numpy(), found["carry"]["keys"].numpy()
    directions = [(0, 0)] if symmetric == "none" else [(0, 1), (1, 0)]
    instance = sum(info_nce_loop(features[:, q], keys[:, k], past, 0.2) for q, k in directions) * share
    assert found["instance"].item() == pytest.approx(instance, abs=1e-11)
    prototypes = 0.0
    for query, _ in directions:
        for level in state.levels:
            own = level.labels[rows].tolist()
            loss = prototype_loop(features[:, query], own, level.centers.numpy(), level.density.numpy())
            prototypes += loss * share / 2
    assert found["prototypes"].item() == pytest.approx(prototypes, abs=1e-11)
    assert found["loss"].item() == pytest.approx(instance + 0.3 * prototypes, abs=1e-11)
    for early in (method.loss(batch, None, TRAINED), method.loss(batch, state, BEGUN)):
        assert "prototypes" not in early
        assert early["loss"].item() == pytest.approx(instance, abs=1e-11)


def clustered(rank: int, world: int) -> list[ClusterState]:
    """The E-step of both metrics on unequal parts of 101 rows."""
    rows = torch.arange(*(101 * each**2 // world**2 for each in (rank, rank + 1)))
    return [
        tiny_pcl(metric).e_step(FeatureShard(rows, (4 * z(101, 3, 2) ** 3)[rows], 101, 7), None, TRAINED)
        for metric in ("spherical", "euclidean")
    ]


def test_e_step_gives_labels_unit_centers_and_concentrations_of_each_number_of_prototypes() -> None:
    rows = F.normalize(4 * z(101, 3, 2) ** 3, dim=1)
    for state, metric in zip(clustered(0, 1), ("spherical", "euclidean"), strict=True):
        assert [len(level.centers) for level in (state, *state.levels)] == [3, 5, 7]  # type: ignore[arg-type]
        scores = memberships(rows, state, EStepConfig(metric=metric))  # type: ignore[arg-type]
        assert torch.equal(scores.argmax(1), state.labels)
        for level in state.levels:
            assert level.labels is not None and level.centers is not None and level.density is not None
            labels = level.labels.tolist()
            expected = unit_rows(means_loop(rows.numpy(), labels, len(level.centers)))
            torch.testing.assert_close(level.centers, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
            density = concentrations_loop(rows.numpy(), labels, level.centers.numpy(), 0.2)
            torch.testing.assert_close(level.density, torch.from_numpy(density), rtol=1e-9, atol=0)
        torch.testing.assert_close(ClusterState.from_dict(state.to_dict()).levels[1].density, state.levels[1].density)


@pytest.mark.parametrize("world", [2, 4])
def test_e_step_over_ranks_is_that_of_one(world: int) -> None:
    alone = clustered(0, 1)
    for states in run_ranks(world, clustered):
        for state, other in zip(alone, states, strict=True):
            for level, other_level in zip((state, *state.levels), (other, *other.levels), strict=True):
                assert torch.equal(other_level.labels, level.labels)
                torch.testing.assert_close(other_level.centers, level.centers, rtol=1e-10, atol=1e-12)
            for level, other_level in zip(state.levels, other.levels, strict=True):
                torch.testing.assert_close(other_level.density, level.density, rtol=1e-10, atol=1e-12)


def test_last_e_step_has_more_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[int], int]] = []
    original = centers.kmeans_many

    def counted(features: Tensor, n_clusters: list[int], **options: Any) -> Any:
        asked.append((n_clusters, options["n_init"]))
        return original(features, n_clusters, **options)

    monkeypatch.setattr(centers, "kmeans_many", counted)
    shard = FeatureShard(torch.arange(29), z(29, 3, 2), 29, 7)
    for clock in (TRAINED, OVER):
        tiny_pcl().e_step(shard, None, clock)
    assert asked == [([3, 5, 7], 2), ([3, 5, 7], 3)]


def test_prototypes_need_kmeans_and_enough_images() -> None:
    method = tiny_pcl()
    method.prepare(7, 0)
    with pytest.raises(UserError, match="method.n_prototypes: 7 prototypes of 6 images"):
        method.prepare(6, 0)
    with pytest.raises(UserError, match="estep.algorithm: gmm"):
        PCL(nn.Identity(), 5, PCLConfig(), EStepConfig(algorithm="gmm"), 3)


def test_e_steps_begin_after_the_warm_up_and_defaults_are_the_papers() -> None:
    config = PCLConfig()
    assert (config.queue_size, config.temperature, config.ema_momentum) == (16384, 0.2, 0.999)
    assert (config.warmup_epochs, config.prototype_weight, config.n_prototypes) == (20, 1.0, (250, 500, 1000))
    assert (tiny_pcl().first_e_step_epoch, PCL.own_e_step_every) == (2, 1)
