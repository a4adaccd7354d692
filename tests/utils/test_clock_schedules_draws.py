"""Schedules against the published numbers; draws that do not depend on the number of ranks."""

import math

import pytest
import torch

from utils import schedules
from utils.clock import Clock
from utils.draws import Draws, derived_seed, seeded

PUBLISHED = {
    "warmup_cosine": {
        0: 1.7094017094e-05, 1: 3.4188034188e-05, 5849: 0.1, 5850: 0.1, 58500: 0.0541289672736,
        116999: 1.99719685234e-11,
    },
    "propos_cosine": {
        0: 1.7094017094e-05, 1: 3.4188034188e-05, 5849: 0.1, 5850: 0.099999999982, 58500: 0.0578203972174,
        116999: 0.000615582970243,
    },
    "propos_cifar20_r34": {
        0: 1.69887892359e-05, 1: 3.39775784717e-05, 5849: 0.0993844170298, 5850: 0.0993844170298, 58500: 0.05,
        116999: 2.46739907089e-07,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_learning_rates_equal_the_published_curves(name: str) -> None:
    for step, expected in PUBLISHED[name].items():
        rate = schedules.LEARNING_RATES[name](0.1, Clock(step, 117, 1000), warmup_epochs=50)
        assert rate == pytest.approx(expected, rel=1e-10)


def test_learning_rate_ends_at_its_minimum_ratio() -> None:
    last = schedules.warmup_cosine(0.1, Clock(10**6, 1000, 1000), warmup_epochs=50, min_ratio=0.25)
    assert last == pytest.approx(0.025)


def test_epoch_cosine_is_constant_within_an_epoch_and_falls_between_them() -> None:
    def rate(step: int, **options: float) -> float:
        return schedules.epoch_cosine(0.06, Clock(step, 97, 200), **{"warmup_epochs": 0, **options})

    assert {rate(step) for step in range(97)} == {0.06}
    assert rate(97) == pytest.approx(0.05999629895625)  # 0.06 / 2 (1 + cos(pi / 200))
    assert rate(100 * 97 + 96) == pytest.approx(0.03)
    assert rate(199 * 97) == pytest.approx(0.06 * 6.168375e-05, rel=1e-6)
    # SCAN: towards 0.4 * 0.1 ** 3, so 0.2002 half-way
    assert schedules.epoch_cosine(0.4, Clock(250 * 7, 7, 500), warmup_epochs=0, min_ratio=1e-3) == pytest.approx(0.2002)


def test_epoch_cosine_after_a_warm_up_starts_at_the_peak() -> None:
    rates = [schedules.epoch_cosine(0.1, Clock(step, 5, 12), warmup_epochs=2) for step in range(60)]
    assert rates[:11] == pytest.approx([0.01 * n for n in range(1, 11)] + [0.1])
    assert rates[55] == pytest.approx(0.05 * (1 + math.cos(0.9 * math.pi)))


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.03), (119, 0.03), (120, 0.003), (159, 0.003), (160, 3e-4), (199, 3e-4)]
)
def test_steps_fall_at_their_milestones(epoch: int, expected: float) -> None:
    for within in (0, 12):
        clock = Clock(epoch * 13 + within, 13, 200)
        assert schedules.step(0.03, clock, warmup_epochs=0, milestones=(120, 160), factor=0.1) == pytest.approx(
            expected
        )


def test_steps_of_a_round_are_those_of_the_first() -> None:
    def rate(epoch: int, restart: int | None) -> float:
        clock = Clock(epoch * 13 + 12, 13, 1000)
        return schedules.step(0.03, clock, warmup_epochs=0, milestones=(120, 160), factor=0.1, restart=restart)

    within = (0, 119, 120, 159, 160, 199)
    first = [rate(epoch, None) for epoch in within]
    assert first == pytest.approx([0.03, 0.03, 0.003, 0.003, 3e-4, 3e-4])
    for number in range(5):
        assert [rate(200 * number + epoch, 200) for epoch in within] == first
    assert rate(999, None) == rate(200, None) == first[-1]


def test_a_cosine_begins_at_its_start_and_goes_towards_its_end() -> None:
    found = [schedules.cosine(0.04, 0.4, Clock(step, 7, 10)) for step in (0, 35, 70)]
    assert found == pytest.approx([0.04, 0.22, 0.4])
    quarter = 0.4 - 0.36 * (1 + math.sqrt(0.5)) / 2
    assert schedules.cosine(0.04, 0.4, Clock(25, 10, 10)) == pytest.approx(quarter)


def test_a_step_stops_at_the_minimum_and_warms_up() -> None:
    def rate(step: int) -> float:
        clock = Clock(step, 10, 9)
        return schedules.step(1.0, clock, warmup_epochs=2, min_ratio=0.02, milestones=(3, 5), factor=0.1)

    assert [rate(step) for step in (0, 9, 19, 30, 89)] == pytest.approx([0.05, 0.5, 1.0, 0.1, 0.02])


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0, 0.996), (1, 0.99600000987), (250, 0.996585786438), (500, 0.998), (999, 0.99999999013), (1000, 1.0)],
)
def test_ema_momentum_equals_the_published_curve(done: int, expected: float) -> None:
    assert schedules.ema_momentum(0.996, 1.0, Clock(done - 1, 100, 10)) == pytest.approx(expected, abs=1e-11)


def test_ema_momentum_without_final_is_constant() -> None:
    assert {schedules.ema_momentum(0.99, None, Clock(step, 10, 10)) for step in (0, 50, 99)} == {0.99}


def test_clock_counts_epochs_and_stops_early_where_asked() -> None:
    clock = Clock(13, 7, 3, stop_step=14)
    assert (clock.whole_epochs, clock.step_in_epoch, clock.total_steps, clock.finished) == (1, 6, 21, False)
    assert clock.tick().finished
    assert not Clock(20, 7, 3).finished
    assert Clock(21, 7, 3).finished


def test_draws_of_two_halves_are_the_draws_of_the_whole() -> None:
    whole = Draws(3, 5, 0, 14, 14)
    halves = [Draws(3, 5, 0, 7, 14), Draws(3, 5, 7, 14, 14)]
    assert torch.equal(torch.cat([d.normal("latent", (5,)) for d in halves]), whole.normal("latent", (5,)))
    assert torch.equal(torch.cat([d.uniform("views", (2, 3)) for d in halves]), whole.uniform("views", (2, 3)))


def test_draws_of_all_are_those_of_the_micro_batch_on_every_rank() -> None:
    whole = Draws(3, 5, 0, 24, 24).uniform("neighbours", (2,))
    for micro in (0, 1):  # of 12 positions each, of which three ranks have 4
        ranks = [Draws(3, 5, start, start + 4, 24) for start in range(12 * micro, 12 * micro + 12, 4)]
        for draws in ranks:
            assert torch.equal(draws.uniform_of_all("neighbours", (2,), 12), whole[12 * micro : 12 * micro + 12])
        assert torch.equal(torch.cat([draws.uniform("neighbours", (2,)) for draws in ranks]), whole[12 * micro :][:12])


def test_draws_differ_by_seed_purpose_step_and_row() -> None:
    numbers = [
        Draws(3, 5, 0, 7, 7).normal("a", (11,)), Draws(4, 5, 0, 7, 7).normal("a", (11,)),
        Draws(3, 6, 0, 7, 7).normal("a", (11,)), Draws(3, 5, 0, 7, 7).normal("b", (11,)),
    ]  # fmt: skip
    rows = torch.cat(numbers)
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_global_generator_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    Draws(1, 2, 0, 3, 3).normal("latent", (2,))
    seeded(1, "order", 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert 0 <= derived_seed(1, "estep", 4) < 2**31
