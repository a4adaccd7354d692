"""Which image is in which cluster, how surely, and which cluster comes next: assignments.csv."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.sources.table import table_text
from models.state import ClusterState
from training.build import Run
from training.embed import map_rows
from utils import distributed
from utils.files import write_text

COLUMNS = ("row", "path", "cluster", "confidence", "distance", "runner_up")


@dataclass(frozen=True)
class Assignments:
    """What assignments.csv tells of all N rows, on the CPU.

    cluster (N,) int64; confidence (N,) float64: the probability of that cluster; distance (N,) float64: Euclidean, of
    the L2-normalised embedding from the cluster's centre, NaN where clusters have no centres; runner_up (N,) int64: the
    most probable of the other clusters, -1 where there is no other.
    """

    cluster: Tensor
    confidence: Tensor
    distance: Tensor
    runner_up: Tensor


def assign_rows(run: Run, state: ClusterState) -> Assignments:
    """Every row's place in the clusters of `state`, which has labels of all rows; equal on every rank. Collective.

    Each rank embeds its own rows; four numbers a row travel.
    """
    assert state.labels is not None
    method, rows = run.method, run.store.shard(distributed.rank(), distributed.world())
    precision = run.settings.optim.precision

    def probabilities_of(images: Tensor) -> Tensor:
        return method.assign(images, state)

    probabilities = map_rows(probabilities_of, method, run.feed.store, run.feed.views, rows, precision).double()
    labels = state.labels[rows.to(state.labels.device)].to(probabilities.device)  # (n,)
    features = None
    if state.centers is not None:
        features = map_rows(method.embed, method, run.feed.store, run.feed.views, rows, precision)  # (n, D)
    found = read_out(probabilities, labels, features, state)
    numbers = distributed.gather_rows(torch.stack([found.confidence, found.distance], 1))  # (N, 2)
    clusters = distributed.gather_rows(torch.stack([found.cluster, found.runner_up], 1))
    return Assignments(clusters[:, 0].cpu(), numbers[:, 0].cpu(), numbers[:, 1].cpu(), clusters[:, 1].cpu())


def read_out(probabilities: Tensor, labels: Tensor, features: Tensor | None, state: ClusterState) -> Assignments:
    """The place in their clusters of n images, on their device.

    probabilities (n, K) float64; labels (n,) the cluster of each; features (n, D) their embedding, not used where
    `state` has no centres.
    """
    own = labels[:, None] == torch.arange(probabilities.shape[1], device=labels.device)  # (n, K)
    others = probabilities.masked_fill(own, -1)
    runner_up = others.argmax(1) if probabilities.shape[1] > 1 else torch.full_like(labels, -1)
    distance = torch.full_like(labels, torch.nan, dtype=torch.float64)
    if state.centers is not None and features is not None:
        distance = (F.normalize(features.double(), dim=1) - state.centers.double()[labels]).norm(dim=1)
    return Assignments(labels, (probabilities * own).sum(1), distance, runner_up)


def write_assignments(run: Run, found: Assignments, path: Path) -> None:
    """Write `path`: a line a row with its image, cluster, confidence, distance, runner-up. Rank 0 alone calls."""
    names = [(row, run.source.path(row)) for row in range(len(found.cluster))]
    write_table(path, COLUMNS[:2], names, found)


def write_table(path: Path, columns: Sequence[str], names: Sequence[tuple[Any, ...]], found: Assignments) -> None:
    """Write a CSV: what names an image (`columns`, of each its cells), then cluster, confidence, distance, runner-up.

    An empty field: no centre to be distant from, or no second cluster.
    """
    numbers = (found.cluster.tolist(), found.confidence.tolist(), found.distance.tolist(), found.runner_up.tolist())
    rows: list[tuple[Any, ...]] = [(*columns, *COLUMNS[2:])]
    for name, cluster, confidence, distance, runner_up in zip(names, *numbers, strict=True):
        far = "" if distance != distance else f"{distance:.6f}"
        second = "" if runner_up < 0 else runner_up
        rows.append((*name, cluster, f"{confidence:.6f}", far, second))
    write_text(path, table_text(rows))
