"""Warnings of what the monitors measure. Needs no torch: who reads a run's record may ask again."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.state import ClusterState

COLLAPSED_STD, COLLAPSED_RANK, PATIENCE = 0.1, 2.0, 3
UNEVEN = 0.5  # share of all images in one cluster, of four or more
STARVING = 0.2  # share of an epoch without its E-step


class Watch:
    """Turns health into readable warnings, each told once until it has gone away."""

    def __init__(self) -> None:
        self.bad_logs = 0
        self.told: set[str] = set()

    def features(self, health: dict[str, float]) -> Iterator[str]:
        """A warning when the features have been collapsed for three logs in a row."""
        collapsed = health["feature_std"] < COLLAPSED_STD or health["rankme"] < COLLAPSED_RANK
        self.bad_logs = self.bad_logs + 1 if collapsed else 0
        yield from self._once(
            "collapse",
            self.bad_logs >= PATIENCE,
            f"the features collapse: spread {health['feature_std']:.3f} (about 1 is healthy), effective rank "
            f"{health['rankme']:.1f}; lower optim.learning_rate, or raise method.ema_momentum where it exists",
        )

    def clusters(self, state: "ClusterState", health: dict[str, float]) -> Iterator[str]:
        """Warnings when clusters are empty or one has swallowed most images, with the smallest sizes."""
        assert state.labels is not None and state.centers is not None
        n_clusters = len(state.centers)
        sizes = state.labels[state.labels >= 0].bincount(minlength=n_clusters).sort().values.tolist()
        listed = ", ".join(map(str, sizes[:4])) + (", ..." if n_clusters > 4 else "")
        yield from self._once(
            "empty", health["empty"] > 0, f"{health['empty']:.0f} of {n_clusters} clusters are empty (sizes {listed})"
        )
        share = sizes[-1] / max(1, sum(sizes))
        yield from self._once(
            "uneven",
            n_clusters >= 4 and share > UNEVEN,
            f"one of {n_clusters} clusters holds {share:.0%} of the images (sizes {listed})",
        )

    def selection(self, selected: float) -> Iterator[str]:
        """A warning when a method that learns from confident images finds none. selected: their share, 0 to 1."""
        yield from self._once(
            "selection",
            selected == 0,
            "no image passes method.threshold, so nothing is learnt; lower it, or go on from "
            "surer clusters (run.init_from)",
        )

    def loader(self, waited: float) -> Iterator[str]:
        """A warning when training waits for its images. waited: share of the time, 0 to 1."""
        yield from self._once(
            "loader",
            waited > STARVING,
            f"{waited:.0%} of the time goes to waiting for images; data.store=cache, more data.workers, cheaper views "
            "or a smaller data.image_size help",
        )

    def _once(self, name: str, holds: bool, text: str) -> Iterator[str]:
        if holds and name not in self.told:
            yield text
        self.told = self.told | {name} if holds else self.told - {name}
