"""Tells the story of a run: rows of metrics, a line per epoch with speed and time left, warnings on collapse."""

import time

from torch import Tensor

from models.state import ClusterState
from training.alarms import Watch
from training.build import Run
from training.log import Log
from training.monitors import cluster_health, feature_health, view_health
from utils import distributed
from utils.clock import Clock
from utils.duration import duration


class Narrator:
    """Speaks for a run. It syncs with the device only every `log.every_steps` steps and at epoch ends."""

    def __init__(self, run: Run, log: Log) -> None:
        self.settings, self.log = run.settings, log
        self.watch = Watch()
        self.optimizer, self.feed, self.guard = run.optimizer, run.feed, run.guard
        self.started, self.first_step = time.monotonic(), run.clock.step
        self.epoch_started, self.epoch_step = self.started, run.clock.step
        self.estep_seconds, self.waited = 0.0, 0.0  # of this epoch; of all epochs before
        self.losses: dict[str, Tensor] = {}
        self.clusters = ""

    def step(self, losses: dict[str, Tensor], carry: dict[str, Tensor] | None, clock: Clock) -> None:
        """After an optimiser step: remember its losses; at the logging interval write a row. Collective.

        carry: None for a step that was left out.
        """
        self.losses = losses
        while self.guard.news:
            self.log.warn(self.guard.news.pop(0))
        if clock.step % self.settings.log.every_steps and not clock.finished:
            return
        values = {name: float(distributed.mean_over_ranks_(value.double())) for name, value in losses.items()}
        self.guard.check(values, clock.step)
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if self.guard.looks:
            values["steps_left_out"] = self.guard.skipped
        if carry is not None and "features" in carry:
            health = feature_health(carry["features"][:, 0])
            for text in self.watch.features(health):
                self.log.warn(f"epoch {clock.epoch:.1f}: {text}")
            values |= health | (view_health(carry["features"]) if carry["features"].shape[1] > 1 else {})
        self.log.metrics("train", clock.step, clock.epoch, values)
        self.log.progress(clock.step, clock.last_step, f"loss {values['loss']:.4f}")

    def e_step(
        self, state: ClusterState, previous: ClusterState | None, features: Tensor, clock: Clock, seconds: float
    ) -> None:
        """After an E-step: sizes, churn, spread of all rows' features. Collective."""
        health = {**cluster_health(state, previous), **feature_health(features), "seconds": seconds}
        self.estep_seconds += seconds
        for text in self.watch.clusters(state, health):
            self.log.warn(f"epoch {clock.epoch:.1f}: {text}")
        self.log.metrics("estep", clock.step, clock.epoch, health)
        churn = f", {health['churn']:.1%} moved" if "churn" in health else ""
        self.clusters = f"  clusters {health['smallest']:.0f} to {health['largest']:.0f}{churn} ({seconds:.2f} s)"

    def epoch(self, clock: Clock) -> None:
        """After an epoch: one console line. Collective."""
        values = {name: float(distributed.mean_over_ranks_(value.double())) for name, value in self.losses.items()}
        for text in self.watch.selection(values.get("selected", 1.0)):
            self.log.warn(f"epoch {clock.epoch:.1f}: {text}")
        now = time.monotonic()
        rate = (clock.step - self.epoch_step) * self.settings.optim.global_batch / max(1e-9, now - self.epoch_started)
        waited = (self.feed.waited - self.waited) / max(1e-9, now - self.epoch_started - self.estep_seconds)
        for text in self.watch.loader(waited):
            self.log.warn(f"epoch {clock.epoch:.1f}: {text}")
        self.log.metrics("epoch", clock.step, clock.epoch, {"images_per_second": rate, "waited_for_data": waited})
        left = (now - self.started) / max(1, clock.step - self.first_step) * (clock.last_step - clock.step)
        parts = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.log.say(
            f"epoch {clock.epoch:>4.4g}/{clock.epochs}  {parts}  lr {self.optimizer.param_groups[0]['lr']:.4g}  "
            f"{rate:,.0f} images/s  data {waited:.1%}  left {duration(left)}{self.clusters}"
        )
        self.clusters = ""
        self.epoch_started, self.epoch_step = now, clock.step
        self.estep_seconds, self.waited = 0.0, self.feed.waited
