"""What is given away of a run: its network, what that takes and gives, and what it gives for a few of its images."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from data.views import Views
from models.state import ClusterState
from training.build import Run
from utils.errors import UserError

What = Literal["encoder", "clusters"]
Outputs = dict[str, Tensor]  # feature (B, D), and of clusters: cluster (B,) int64, probability (B, K)
BATCHES = (1, 7, 64)


@dataclass(frozen=True)
class Contents:
    """A run on the CPU, in eval mode. state: None where its encoder alone is given away.

    Pixels are (B, *shape) float32 from 0 to 1, cropped and resized as the run's clean images, not normalised.
    """

    run: Run
    state: ClusterState | None

    @property
    def what(self) -> What:
        """What is given away, in a word."""
        return "encoder" if self.state is None else "clusters"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what comes back, in order."""
        return ("feature",) if self.state is None else ("feature", "cluster", "probability")

    @property
    def feature_name(self) -> str:
        """Which of the method's two features it is."""
        method = self.run.method
        return method.encode_name if self.state is None else method.embed_name

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pixels."""
        _, height, width = self.run.views.output_shape
        return self.run.source.image_shape[0], height, width

    @property
    def normal(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel that the network takes off and divides by."""
        return self.run.views.change.mean, self.run.views.change.std

    @cached_property
    def rows(self) -> Tensor:
        """The rows that exports are compared on, spread over the data set."""
        n_rows = self.run.source.n_rows
        return torch.linspace(0, n_rows - 1, sum(BATCHES)).round().long()

    @cached_property
    def images(self) -> tuple[Tensor, bool]:
        """(n, C, H, W) uint8 images of `rows`, and whether they are real: random where the run's are not here."""
        try:
            return self.run.store.images(self.rows).cpu(), True
        except UserError:
            draws = torch.Generator().manual_seed(0)
            return torch.randint(256, (len(self.rows), *self.run.source.image_shape), generator=draws).byte(), False

    def pixels(self) -> list[Tensor]:
        """What exports are given: a batch of each size in `BATCHES`."""
        plain = self.run.settings.views.model_copy(update={"normalize": False, "sobel": False})
        source = self.run.source
        views = Views(plain, source.image_shape, source.mean, source.std)
        return [views.clean(images).contiguous() for images in self.images[0].split(BATCHES)]

    @torch.no_grad()
    def expected(self) -> list[Outputs]:
        """What the run's own code gives for the same images, without autocast. Before its weights become float32."""
        method, found = self.run.method, []
        for images in self.images[0].split(BATCHES):
            clean = self.run.views.clean(images)
            if self.state is None:
                found.append({"feature": method.encode(clean)})
            else:
                probability = method.assign(clean, self.state)
                found.append(
                    {"feature": method.embed(clean), "cluster": probability.argmax(1), "probability": probability}
                )
        return found

    def facts(self) -> dict[str, Any]:
        """What an export's metadata says: plain values."""
        run, settings, views = self.run, self.run.settings, self.run.settings.views
        mean, std = self.normal
        outputs: dict[str, Any] = {"feature": f"{self.feature_name}, (B, D) float32"}
        if self.state is not None:
            outputs |= {"cluster": "(B,) int64", "probability": f"(B, {run.method.n_clusters}) float32"}
        return {
            "what": self.what,
            "pixels": {"shape": ["B", *self.shape], "dtype": "float32", "range": [0, 1]},
            "preprocessing": {
                "mode": "L" if self.shape[0] == 1 else "RGB",
                "resize": settings.data.resize,
                "resize_to": list(run.source.image_shape[1:]),
                "interpolation": "bicubic",
                "keep_middle": views.test_crop,
                "size": list(self.shape[1:]),
                "mean": list(mean),
                "std": list(std),
                "sobel": views.sobel,
            },
            "outputs": outputs,
            "encoder": settings.encoder.name,
            "method": settings.method.name,
            "data": run.source.name,
            "rows": run.source.protocol,
            "epoch": run.clock.epoch,
            "seed": settings.run.seed,
        }


def to_cpu(state: ClusterState) -> ClusterState:
    """What `Method.assign` may read of a state, on the CPU."""
    centers = None if state.centers is None else state.centers.cpu()
    return ClusterState(centers=centers, extra={name: value.cpu() for name, value in state.extra.items()})
