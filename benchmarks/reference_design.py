"""The usual design of deep clustering code, re-created to be measured beside ours: an EM epoch of ProPos.

As the authors' repository has it (github.com/Hzzone/ProPos: models/basic_template.py, models/propos, utils): PIL images
through torchvision's transforms one by one in DataLoader workers, float32 in torch's default layout, each view through
the networks alone, an optimiser group and a line of the moving average for each parameter, a second pass of a
DataLoader over clean images for the features, and KMeans of ten k-means++ starts one after the other, which every rank
runs over all rows. Left out, in its favour: gathering and shuffling over ranks, checkpoints, scores, its log of every
step. Its torch runs here in one process.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from models.propos import ProPosConfig
from training.settings import Settings
from utils.compat import prepare_torchvision

prepare_torchvision()
from torchvision import transforms  # noqa: E402

PASSES, TOLERANCE, STARTS = 300, 1e-4, 10


@dataclass
class Seconds:
    """Of an epoch, by the wall."""

    data: float = 0.0
    m_step: float = 0.0
    extract: float = 0.0
    cluster: float = 0.0

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.data + self.m_step + self.extract + self.cluster


class Row(NamedTuple):
    """What a worker makes of a row."""

    views: list[Tensor]
    number: int


class Pictures(Dataset[Row]):
    """Rows (N, 3, H, W) uint8, made a PIL image and transformed, `n_views` times over, when they are asked for."""

    def __init__(self, images: Tensor, transform: Any, n_views: int) -> None:
        self.pixels, self.transform = images.permute(0, 2, 3, 1).contiguous().numpy(), transform
        self.n_views = n_views

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> Row:
        picture = Image.fromarray(self.pixels[number])
        return Row([self.transform(picture) for _ in range(self.n_views)], number)


class Reference:
    """ProPos on `images` with the settings' batch, optimiser and views; `epoch` makes an epoch of steps and an E-step.

    encoder (B, 3, H, W) to (B, feature_dim), which is copied; networks and labels lie on `device`.
    """

    def __init__(
        self,
        images: Tensor,
        encoder: nn.Module,
        feature_dim: int,
        settings: Settings,
        n_clusters: int,
        n_workers: int,
        device: torch.device,
    ) -> None:
        assert isinstance(settings.method, ProPosConfig)
        self.settings, self.config, self.n_clusters, self.device = settings, settings.method, n_clusters, device
        hidden, width = self.config.hidden_dim, self.config.projection_dim
        self.online = nn.Sequential(copy.deepcopy(encoder), head(feature_dim, hidden, width)).to(device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = head(width, hidden, width).to(device)
        learnt = [*self.online.parameters(), *self.predictor.parameters()]
        optim = settings.optim
        self.optimizer = torch.optim.SGD(
            [{"params": parameter} for parameter in learnt],
            lr=optim.peak_learning_rate,
            momentum=optim.sgd_momentum,
            weight_decay=optim.weight_decay,
        )
        self.labels = torch.randint(n_clusters, (len(images),), device=device)
        self.train_loader, self.memory_loader = self._loaders(images, n_workers)

    def warm_up(self) -> None:
        """One batch of each loader, whose workers start, and one step."""
        self._step(next(iter(self.train_loader)))
        next(iter(self.memory_loader))

    def epoch(self) -> Seconds:
        """Steps over all rows once, then an E-step."""
        seconds = Seconds()
        self.online.train()
        self.target.train()
        for batch in waited_for(iter(self.train_loader), seconds, "data"):
            started = time.perf_counter()
            self._step(batch)
            seconds.m_step += time.perf_counter() - started
        self.e_step(seconds)
        return seconds

    @torch.no_grad()
    def e_step(self, seconds: Seconds) -> None:
        """Features of all rows by a pass of their own, then KMeans."""
        started = time.perf_counter()
        self.target.eval()
        features = torch.zeros(len(self.labels), self.config.projection_dim, device=self.device)
        for views, numbers in self.memory_loader:
            features.index_add_(0, numbers.to(self.device), self.target(views[0].to(self.device)))
        features /= features.norm(dim=1, keepdim=True)
        between = time.perf_counter()
        self.labels = kmeans(features, self.n_clusters)
        seconds.extract += between - started
        seconds.cluster += time.perf_counter() - between

    def _loaders(self, images: Tensor, n_workers: int) -> tuple[DataLoader[Row], DataLoader[Row]]:
        side, views = images.shape[2], self.settings.views
        last = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
        random = [
            transforms.RandomResizedCrop(side, scale=views.crop_scale),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(*views.jitter)], p=views.jitter_probability),
            transforms.RandomGrayscale(views.grayscale),
        ]
        options: dict[str, Any] = {
            "batch_size": self.settings.optim.global_batch,
            "num_workers": n_workers,
            "persistent_workers": n_workers > 0,
            "pin_memory": self.device.type == "cuda",
        }
        train, clean = transforms.Compose([*random, *last]), transforms.Compose(last)
        return (
            DataLoader(Pictures(images, train, 2), shuffle=True, drop_last=True, **options),
            DataLoader(Pictures(images, clean, 1), **options),
        )

    def _step(self, batch: Row) -> None:
        first, second = (view.to(self.device, non_blocking=True) for view in batch.views)
        labels = self.labels[batch.number]
        parts = [self._one_way(first, second, labels), self._one_way(second, first, labels)]
        loss = sum(parts) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        momentum = self.config.ema_momentum
        for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
            old.data = old.data * momentum + new.data * (1 - momentum)

    def _one_way(self, view: Tensor, other: Tensor, labels: Tensor) -> Tensor:
        """Alignment of one view's neighbour with the other's target, and the prototypes of both."""
        projections = self.online(view)
        with torch.no_grad():
            keys = F.normalize(self.target(other), dim=1)
        neighbours = projections + torch.randn_like(projections) * self.config.latent_std
        alignment = -2 * F.cosine_similarity(self.predictor(neighbours), keys).mean()
        weights = F.normalize(F.one_hot(labels, self.n_clusters).T.float(), p=1, dim=1)  # (K, B)
        prototypes = F.normalize(weights @ F.normalize(projections, dim=1), dim=1)
        targets = F.normalize(weights @ keys, dim=1)
        absent = weights.sum(1) == 0
        logits = prototypes @ prototypes.T / self.config.temperature
        positive = (prototypes * targets).sum(1) / self.config.temperature
        logits = torch.diagonal_scatter(logits, positive).masked_fill(absent, -10)
        scattering = torch.where(absent, 0, logits.logsumexp(1) - positive).sum() / (~absent).sum()
        return alignment + self.config.scattering_weight * scattering


def head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Projector or predictor."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
    )


def waited_for(batches: Iterator[Any], seconds: Seconds, part: str) -> Iterator[Any]:
    """The batches; how long they were waited for is added to a part of `seconds`."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        setattr(seconds, part, getattr(seconds, part) + time.perf_counter() - started)
        if batch is None:
            return
        yield batch


def kmeans(features: Tensor, n_clusters: int) -> Tensor:
    """(N,) labels of unit rows (N, D): the best of ten k-means++ starts, each run alone, in plain torch."""
    best, least = torch.zeros(len(features), dtype=torch.int64), math.inf
    tolerance = TOLERANCE * float(features.var(0).mean())
    for _ in range(STARTS):
        centers = plus_plus(features, n_clusters)
        for _ in range(PASSES):
            nearest, labels = (2 - 2 * features @ centers.T).min(1)
            sums = torch.zeros_like(centers).index_add_(0, labels, features)
            moved = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), centers)
            shift = float((moved - centers).square().sum())
            centers = moved
            if shift <= tolerance:
                break
        if float(nearest.sum()) < least:
            best, least = labels, float(nearest.sum())
    return best


def plus_plus(features: Tensor, n_clusters: int) -> Tensor:
    """(K, D) rows far from each other: each is the best of a few draws by squared distance to those before."""
    n_draws = 2 + int(math.log(n_clusters))
    centers = [features[torch.randint(len(features), ())]]
    nearest = 2 - 2 * features @ centers[0]
    for _ in range(1, n_clusters):
        drawn = features[torch.multinomial(nearest.clamp_min(1e-12), n_draws)]
        distances = torch.minimum(nearest[:, None], 2 - 2 * features @ drawn.T)  # (N, draws)
        chosen = int(distances.sum(0).argmin())
        centers.append(drawn[chosen])
        nearest = distances[:, chosen]
    return torch.stack(centers)
