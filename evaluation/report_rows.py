"""What the page shows of a run's rows: their clusters, who is typical of one, a sample, and the sample's nearest."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.predict import read_out
from evaluation.scores import scored_state
from torch_clustering import nearest_neighbors
from training.build import Run
from training.embed import map_rows
from utils import distributed
from utils.draws import seeded

SHOWN = 100_000  # rows that are points of the map
SAMPLE = 8_000  # rows of which the page holds a picture
NEAREST = 8
PER_STRIP, MOST_STRIPS = 12, 100  # pictures of a contact sheet's strip; clusters that have sheets, the largest ones


@dataclass(frozen=True)
class Strips:
    """Rows of one cluster, at most 12 each: nearest to its mean; least confident; leaning most towards cluster `next`.

    next: the cluster with the nearest mean, -1 where there is no other.
    """

    typical: Tensor
    uncertain: Tensor
    toward: Tensor
    next: int


@dataclass(frozen=True)
class Rows:
    """On the CPU, equal on every rank but for `features` and `neighbors`, which only rank 0 needs and all have.

    cluster (N,) int64, -1 where a row has none; confidence (N,) float64; runner_up (N,) int64, -1 without another.
    means (K, D): of each cluster's L2-normalised rows, at length 1; zeros for an empty one. strips: by cluster.
    shown (S,): the rows that are points; sample (M,): those of them with a picture; both ascending.
    features (M, D): of the sample, at length 1. neighbors (S, k): positions in the sample of the nearest by cosine.
    """

    cluster: Tensor
    confidence: Tensor
    runner_up: Tensor
    means: Tensor
    strips: dict[int, Strips]
    shown: Tensor
    sample: Tensor
    features: Tensor
    neighbors: Tensor


def look_at_rows(run: Run) -> Rows:
    """Embed every row once, ask for its cluster's probability, choose what is shown. Collective.

    Each rank keeps the features of its own rows; those of the sample and a few numbers a row travel.
    """
    state = scored_state(run, run.state, run.clock)
    assert state.labels is not None
    method, feed, precision = run.method, run.feed, run.settings.optim.precision
    own = run.store.shard(distributed.rank(), distributed.world())  # (n,)
    features = F.normalize(map_rows(method.embed, method, feed.store, feed.views, own, precision), dim=1)  # (n, D)
    probabilities = map_rows(lambda x: method.assign(x, state), method, feed.store, feed.views, own, precision)
    labels = state.labels[own.to(state.labels.device)].to(features.device)  # (n,)
    place = read_out(probabilities.double(), labels, None, state)
    means = cluster_means(features, labels, method.n_clusters)
    following = next_clusters(means)  # (K,)
    typical = (features * means[labels]).sum(1)
    toward = (features * means[following[labels]]).sum(1) - typical
    numbers = distributed.gather_rows(torch.stack([place.confidence, typical.double(), toward.double()], 1)).cpu()
    clusters = distributed.gather_rows(torch.stack([place.cluster, place.runner_up], 1)).cpu()
    strips = make_strips(clusters[:, 0], numbers, following.tolist())
    shown, sample = choose_rows(len(clusters), strips, run.settings.run.seed)
    sampled = distributed.gather_rows(features[_own_part(sample, own)])  # (M, D): shards lie in the order of the rows
    neighbors = nearest_of_sample(features[_own_part(shown, own)], sampled, shown[_within(shown, own)], sample)
    return Rows(
        cluster=clusters[:, 0],
        confidence=numbers[:, 0],
        runner_up=clusters[:, 1],
        means=means.cpu(),
        strips=strips,
        shown=shown,
        sample=sample,
        features=sampled.cpu(),
        neighbors=distributed.gather_rows(neighbors).cpu(),
    )


def cluster_means(features: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """(K, D) mean direction of each cluster's rows over all ranks, zeros for an empty one. Collective.

    features (n, D) at length 1, labels (n,) of this rank; -1 counts nowhere.
    """
    some = labels >= 0
    sums = features.new_zeros((n_clusters, features.shape[1]), dtype=torch.float64)
    sums.index_add_(0, labels[some], features[some].double())
    return F.normalize(distributed.reduce_sum_(sums), dim=1).to(features.dtype)


def next_clusters(means: Tensor) -> Tensor:
    """(K,) the cluster whose mean (K, D) lies nearest to each one's; -1 where it, or every other, is empty."""
    used = means.any(1)
    cosine = means @ means.T
    cosine.fill_diagonal_(-torch.inf).masked_fill_(~used[None], -torch.inf)
    best, following = cosine.max(1)
    return following.masked_fill(best.isinf() | ~used, -1)


def make_strips(cluster: Tensor, numbers: Tensor, following: list[int]) -> dict[int, Strips]:
    """The contact sheets of the 100 largest clusters that have rows, by cluster.

    cluster (N,); numbers (N, 3): confidence, nearness to the own mean, leaning towards the next cluster's.
    """
    sizes = torch.bincount(cluster[cluster >= 0], minlength=len(following))
    largest = sizes.argsort(descending=True, stable=True)[:MOST_STRIPS].sort().values
    found = {}
    for name in largest[sizes[largest] > 0].tolist():
        rows = (cluster == name).nonzero()[:, 0]
        confidence, typical, toward = numbers[rows].unbind(1)
        alone = following[name] < 0
        found[name] = Strips(
            typical=_first(rows, -typical),
            uncertain=_first(rows, confidence),
            toward=rows[:0] if alone else _first(rows, -toward),
            next=following[name],
        )
    return found


def choose_rows(n_rows: int, strips: dict[int, Strips], seed: int) -> tuple[Tensor, Tensor]:
    """Rows that are points, and those with a picture, both ascending: all, or a draw with those of the sheets."""
    wanted = torch.cat([torch.cat([strip.typical, strip.uncertain, strip.toward]) for strip in strips.values()])
    order = torch.randperm(n_rows, generator=seeded(seed, "report"))
    order = torch.cat([wanted.unique(), order[~torch.isin(order, wanted)]])
    return order[:SHOWN].sort().values, order[:SAMPLE].sort().values


def nearest_of_sample(queries: Tensor, sampled: Tensor, rows: Tensor, sample: Tensor) -> Tensor:
    """(n, k) positions in the sample of the rows nearest to each query by cosine, itself left out; k at most 8.

    queries (n, D): features of `rows` (n,); sampled (M, D): those of `sample` (M,).
    """
    k = min(NEAREST, len(sample) - 1)
    if k == 0:
        return torch.zeros((len(queries), 0), dtype=torch.int64, device=queries.device)
    _, found = nearest_neighbors(sampled, k + 1, metric="cosine", queries=queries)
    itself = sample.to(found.device)[found] == rows.to(found.device)[:, None]
    itself[:, k] |= ~itself.any(1)  # not in the sample, or behind its duplicates: the last goes
    return found[~itself].view(len(queries), k)


def _first(rows: Tensor, order: Tensor) -> Tensor:
    return rows[order.argsort(stable=True)[:PER_STRIP]]


def _within(rows: Tensor, own: Tensor) -> Tensor:
    """(R,) whether `rows` are of this rank's contiguous block `own`."""
    return torch.isin(rows, own, assume_unique=True)


def _own_part(rows: Tensor, own: Tensor) -> Tensor:
    """Positions in `own` of those `rows` that are of it."""
    mine = rows[_within(rows, own)]
    return mine - own[0] if len(own) else mine
