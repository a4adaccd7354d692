"""Learning rates and momenta as pure functions of the clock: nothing is stored, so a resumed run cannot differ."""

import math
from collections.abc import Callable, Sequence

from utils.clock import Clock


def warmup_cosine(peak: float, clock: Clock, *, warmup_epochs: float, min_ratio: float = 0.0) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `min_ratio * peak` over the remaining steps.

    The first step has peak / warm-up steps (no wasted zero step); the last is one step above the minimum.
    """
    warmup = round(warmup_epochs * clock.steps_per_epoch)
    if clock.step < warmup:
        return peak * (clock.step + 1) / warmup
    done = (clock.step - warmup) / max(1, clock.total_steps - warmup)
    return _half_cosine(peak, min_ratio * peak, done)


def propos_cosine(peak: float, clock: Clock, *, warmup_epochs: float, min_ratio: float = 0.0) -> float:
    """The released ProPos curve, for parity: its cosine divides by all epochs, so it ends above the minimum."""
    epoch = (clock.step + 1) / clock.steps_per_epoch
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    return _half_cosine(peak, min_ratio * peak, (epoch - warmup_epochs) / clock.epochs)


def propos_cifar20_r34(peak: float, clock: Clock, *, warmup_epochs: float, min_ratio: float = 0.0) -> float:
    """The released curve of ProPos' CIFAR-20 ResNet-34 file: constant within an epoch after the warm-up."""
    at_warmup_end = _half_cosine(peak, min_ratio * peak, warmup_epochs / clock.epochs)
    if clock.whole_epochs < warmup_epochs:
        return at_warmup_end * (clock.step + 1) / (warmup_epochs * clock.steps_per_epoch)
    return _half_cosine(peak, min_ratio * peak, clock.whole_epochs / clock.epochs)


def epoch_cosine(peak: float, clock: Clock, *, warmup_epochs: float, min_ratio: float = 0.0) -> float:
    """Half a cosine, constant within an epoch, after a linear warm-up: MoCo v2, SimSiam, SCAN (all without one)."""
    begun = _warm_up(clock, warmup_epochs)
    if begun < 1:
        return peak * begun
    done = max(0.0, clock.whole_epochs - warmup_epochs) / max(1.0, clock.epochs - warmup_epochs)
    return _half_cosine(peak, min_ratio * peak, done)


def step(
    peak: float,
    clock: Clock,
    *,
    warmup_epochs: float,
    min_ratio: float = 0.0,
    milestones: Sequence[int],
    factor: float,
    restart: int | None = None,
) -> float:
    """`peak` times `factor` for every milestone (in whole epochs) that is past, after a linear warm-up: MoCo v1.

    restart: epochs are counted anew after every so many: AND's rounds.
    """
    epoch = clock.whole_epochs if restart is None else clock.whole_epochs % restart
    past = sum(milestone <= epoch for milestone in milestones)
    return peak * _warm_up(clock, warmup_epochs) * max(min_ratio, factor**past)


def constant(peak: float, clock: Clock, *, warmup_epochs: float, min_ratio: float = 0.0) -> float:
    """`peak` after a linear warm-up."""
    return peak * _warm_up(clock, warmup_epochs)


LEARNING_RATES: dict[str, Callable[..., float]] = {
    "warmup_cosine": warmup_cosine,
    "propos_cosine": propos_cosine,
    "propos_cifar20_r34": propos_cifar20_r34,
    "epoch_cosine": epoch_cosine,
    "step": step,
    "constant": constant,
}


def cosine(start: float, final: float, clock: Clock) -> float:
    """Half a cosine from `start` at the first step towards `final` after the last: DINO's weight decay."""
    return _half_cosine(start, final, clock.step / clock.total_steps)


def linear_by_epoch(start: float, final: float, clock: Clock, *, epochs: int) -> float:
    """`start` in the first epoch, `final` from the `epochs`-th on, between them on a line: DINO's temperature.

    Constant within an epoch. epochs: 0 for `final` from the start.
    """
    share = min(1.0, clock.whole_epochs / max(1, epochs - 1)) if epochs else 1.0
    return start + (final - start) * share


def ema_momentum(base: float, final: float | None, clock: Clock) -> float:
    """Momentum of the update after step `clock.step`: `base`, or a cosine from it to `final` where that is given.

    BYOL (Grill et al. 2020): m(n) = final - (final - base) (cos(pi n / T) + 1) / 2; the first update has n = 1.
    """
    if final is None:
        return base
    return _half_cosine(base, final, (clock.step + 1) / clock.total_steps)


def _warm_up(clock: Clock, epochs: float) -> float:
    """The share of the peak that a linear warm-up of `epochs` has reached; 1 after it."""
    warmup = round(epochs * clock.steps_per_epoch)
    return min(1.0, (clock.step + 1) / warmup) if warmup else 1.0


def _half_cosine(start: float, end: float, done: float) -> float:
    """From `start` (done = 0) to `end` (done = 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
