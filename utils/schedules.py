"""Learning rates and momenta as pure functions of the clock: nothing is stored, so a resumed run cannot differ."""

import math

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


def constant(peak: float, clock: Clock, *, warmup_epochs: float, min_ratio: float = 0.0) -> float:
    """`peak` after a linear warm-up."""
    warmup = round(warmup_epochs * clock.steps_per_epoch)
    return peak * min(1.0, (clock.step + 1) / warmup) if warmup else peak


LEARNING_RATES = {
    "warmup_cosine": warmup_cosine,
    "propos_cosine": propos_cosine,
    "propos_cifar20_r34": propos_cifar20_r34,
    "constant": constant,
}


def ema_momentum(base: float, final: float | None, clock: Clock) -> float:
    """Momentum of the update after step `clock.step`: `base`, or a cosine from it to `final` where that is given.

    BYOL (Grill et al. 2020): m(n) = final - (final - base) (cos(pi n / T) + 1) / 2; the first update has n = 1.
    """
    if final is None:
        return base
    return _half_cosine(base, final, (clock.step + 1) / clock.total_steps)


def _half_cosine(start: float, end: float, done: float) -> float:
    """From `start` (done = 0) to `end` (done = 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
