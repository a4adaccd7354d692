"""Self-labelling takes over clusters: a linear map as it is, or one fitted to labels, the same on any ranks."""

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from models.method import Method
from models.parts.centers import EStepConfig
from models.parts.linear_fit import STRENGTH, fit_linear
from models.selflabel import SelfLabel, SelfLabelConfig
from models.state import ClusterState, FeatureShard
from tests.ranks import run_ranks
from tests.vectors import z


def clustered(rows: int = 53, n_clusters: int = 3) -> tuple[Tensor, Tensor]:
    """(rows, 5) features of unlike scales, one of them constant, around a point for each cluster; the clusters."""
    labels = torch.arange(rows) * 7 % n_clusters
    noise = z(rows, 5, 3) + z(rows, 5, 11).roll(5, 0)
    features = (noise + 3 * z(n_clusters, 5, 1)[labels]) * 3.0 ** torch.arange(5) + 5
    features[:, 2] = 0.1
    return features, labels


class Neighbors(Method):
    """Only what `adopt` asks of another method: no linear map of its own."""

    def classifier(self, state: ClusterState) -> nn.Linear | None:
        return None

    loss = embed = encode = parameter_groups = None  # type: ignore[assignment]


class Linear(Neighbors):
    """One with a linear map."""

    def __init__(self) -> None:
        super().__init__(EStepConfig(), 3)
        self.own = nn.Linear(5, 3).double()

    def classifier(self, state: ClusterState) -> nn.Linear | None:
        return self.own


def adopting(other: Method, own: slice = slice(None), threshold: float = 0.9) -> tuple[SelfLabel, str]:
    features, labels = clustered()
    config = SelfLabelConfig(threshold=threshold)
    method = SelfLabel(nn.Flatten(), 5, config, EStepConfig(), 3).double()
    shard = FeatureShard(torch.arange(53)[own], features[own], 53, 0, [nn.functional.one_hot(labels[own], 3).double()])
    return method, method.adopt(other, ClusterState(), shard)


def test_a_linear_map_is_taken_over_as_it_is() -> None:
    other, (features, labels) = Linear(), clustered()
    method, told = adopting(other, threshold=0.5)
    assert torch.equal(method.cluster_head.weight, other.own.weight)
    assert torch.equal(method.cluster_head.bias, other.own.bias)
    assert method.cluster_head.weight.requires_grad and method.cluster_head is not other.own
    confidence, found = other.own(features).softmax(1).max(1)
    kept, sure = (found == labels).double().mean().item(), (confidence > 0.5).double().mean().item()
    assert told == (
        f"cluster head taken over: {kept:.1%} of the images keep their label, {sure:.1%} pass method.threshold=0.5"
    )


def test_without_a_linear_map_one_is_fitted_to_the_labels() -> None:
    features, labels = clustered()
    method, told = adopting(Neighbors(EStepConfig(), 3))
    confidence, found = method.cluster_head(features).softmax(1).max(1)
    kept, sure = (found == labels).double().mean().item(), (confidence > 0.9).double().mean().item()
    assert kept > 0.8
    assert told == (
        f"a linear head fitted to the clusters: {kept:.1%} of the images keep their label, "
        f"{sure:.1%} pass method.threshold=0.9"
    )


def test_the_fit_is_the_solution_of_scikit_learn() -> None:
    features, labels = clustered()
    scaler = StandardScaler().fit(features.numpy())
    model = LogisticRegression(C=1 / (STRENGTH * len(features)), tol=1e-12, solver="newton-cholesky", max_iter=1000)
    model.fit(scaler.transform(features.numpy()), labels.numpy())
    with torch.no_grad():
        found = fit_linear(features.float().double(), labels, 3)(features).log_softmax(1)
    expected = torch.from_numpy(model.predict_log_proba(scaler.transform(features.numpy())))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def fitted(rank: int, world: int) -> tuple[Tensor, Tensor, str]:
    first = [0, 29, 29, 50][rank] if world == 4 else [0, 19][rank]
    last = [29, 29, 50, 53][rank] if world == 4 else [19, 53][rank]
    method, told = adopting(Neighbors(EStepConfig(), 3), slice(first, last))
    return method.cluster_head.weight.detach(), method.cluster_head.bias.detach(), told


def test_ranks_with_unequal_parts_and_one_without_any_fit_what_one_rank_fits() -> None:
    method, told = adopting(Neighbors(EStepConfig(), 3))
    for world in (2, 4):
        for weight, bias, said in run_ranks(world, fitted):
            torch.testing.assert_close(weight, method.cluster_head.weight.detach(), rtol=0, atol=1e-9)
            torch.testing.assert_close(bias, method.cluster_head.bias.detach(), rtol=0, atol=1e-9)
            assert said == told
