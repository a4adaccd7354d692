"""A run without training: 101 made images of four kinds, and a method whose network is one fixed matrix."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from data.sources.base import Source
from data.store import DataConfig, Store
from data.views import Views, ViewsConfig
from models.parts.centers import EStepConfig, cluster, memberships
from models.state import ClusterState, FeatureShard
from utils.clock import Clock

N_ROWS, SHAPE, KINDS = 101, (1, 5, 5), 4


def made_images(n_rows: int = N_ROWS, shape: tuple[int, int, int] = SHAPE, kinds: int = KINDS) -> Tensor:
    """(n_rows, C, H, W) uint8: `kinds` patterns in turn, each row a little off its pattern."""
    size = math.prod(shape)
    row, pixel = torch.arange(n_rows)[:, None], torch.arange(size)[None]
    pattern = 100 * torch.sin(1.0 + (row % kinds) * 2.1 + (row % kinds + 1) * 0.7 * pixel)
    return (128 + pattern + 20 * torch.sin(0.37 * (row + 1) * (pixel + 1))).to(torch.uint8).view(n_rows, *shape)


class FakeSource(Source):
    """Made images; truth is the pattern."""

    name, protocol = "made", "train+test, 101 rows"
    mean, std, n_classes = (0.5,), (0.25,), None

    def __init__(self, images: Tensor, truth: Tensor | None, split: tuple[Tensor, Tensor] | None) -> None:
        self.images, self.truth, self.split = images, truth, split
        self.n_rows, self.image_shape = len(images), tuple(images.shape[1:])  # type: ignore[assignment]
        self.skipped = []

    def read(self, rows: Tensor | None = None) -> Tensor:
        return self.images if rows is None else self.images[rows]

    def path(self, row: int) -> str:
        return f"folder, with comma/{row}.png"

    def read_truth(self, rows: Tensor | None = None) -> Tensor | None:
        return self.truth if rows is None or self.truth is None else self.truth[rows]

    def knn_split(self) -> tuple[Tensor, Tensor] | None:
        return self.split


class FakeMethod(nn.Module):
    """Embeds by one fixed matrix, encodes by another."""

    embed_name, encode_name, input = "made projection", "made encoder", "images"
    heads: tuple[int, ...] = ()

    def __init__(self, pixels: int, n_clusters: int) -> None:
        super().__init__()
        self.n_clusters = n_clusters
        self.estep = EStepConfig(n_clusters=n_clusters)
        place = torch.arange(pixels * 7, dtype=torch.float64)
        self.projection = nn.Parameter(torch.sin(0.37 * place**2).view(pixels, 7))
        self.encoder = nn.Parameter(torch.cos(0.37 * place[: pixels * 3] ** 2).view(pixels, 3))

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.projection

    def encode(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.encoder

    def e_step(self, shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        return cluster(shard, self.estep, self.n_clusters, self.estep.n_init)

    def assign(self, images: Tensor, state: ClusterState) -> Tensor:
        return memberships(self.embed(images), state, self.estep)


@dataclass
class FakeRun:
    """What evaluation/ needs of a run."""

    settings: SimpleNamespace
    source: FakeSource
    store: Store
    views: Views
    method: FakeMethod
    clock: Clock
    state: ClusterState | None
    device: torch.device
    directory: SimpleNamespace | None

    @property
    def feed(self) -> SimpleNamespace:
        """The images themselves are what the network is fed with."""
        return SimpleNamespace(store=self.store, views=self.views)


def fake_run(
    folder: Path | None = None,
    *,
    images: Tensor | None = None,
    labelled: bool = True,
    split: tuple[Tensor, Tensor] | None = None,
    n_clusters: int = KINDS,
) -> FakeRun:
    """A finished run in float64 without a state."""
    images = made_images() if images is None else images
    source = FakeSource(images, torch.arange(len(images)) % KINDS if labelled else None, split)
    settings = SimpleNamespace(
        run=SimpleNamespace(seed=3),
        optim=SimpleNamespace(precision="fp64"),
        method=SimpleNamespace(name="fake"),
        eval=SimpleNamespace(knn_neighbors=5, knn_temperature=0.07),
    )
    return FakeRun(
        settings=settings,
        source=source,
        store=Store(source, torch.device("cpu"), DataConfig()),
        views=Views(ViewsConfig(), source.image_shape, source.mean, source.std, torch.float64),
        method=FakeMethod(images[0].numel(), n_clusters),
        clock=Clock(step=12, steps_per_epoch=4, epochs=3),
        state=None,
        device=torch.device("cpu"),
        directory=None if folder is None else SimpleNamespace(path=folder),
    )
