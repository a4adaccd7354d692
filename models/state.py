"""What the E-step gives to the M-step."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class FeatureShard:
    """This rank's contiguous block of embedded rows, r N // W to (r + 1) N // W.

    rows (n,) int64 global row ids; features (n, D); n_rows = N; probabilities: None, or one (n, K) a cluster head.
    """

    rows: Tensor
    features: Tensor
    n_rows: int
    seed: int
    probabilities: list[Tensor] | None = None


@dataclass(frozen=True)
class ClusterState:
    """The result of an E-step, equal on every rank and wholly in the checkpoint. Every field may be None.

    labels (N,) int64 on the device, -1 where a row has none; centers (K, D); responsibilities (N, K);
    density (K,); neighbors (N, k) int32, -1 = none; node_weights (N,); anchors (N,) bool; extra: further tensors;
    levels: the same rows in other numbers of clusters.
    """

    labels: Tensor | None = None
    centers: Tensor | None = None
    responsibilities: Tensor | None = None
    density: Tensor | None = None
    neighbors: Tensor | None = None
    node_weights: Tensor | None = None
    anchors: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    levels: tuple["ClusterState", ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors for a checkpoint."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"levels": [level.to_dict() for level in self.levels]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClusterState":
        """What `to_dict` gave."""
        return cls(**values | {"levels": tuple(cls.from_dict(level) for level in values.get("levels", ()))})
