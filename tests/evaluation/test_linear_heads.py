"""Many classifiers at once: each is what it would be alone, on any number of ranks."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.linear_heads import Heads
from tests.ranks import run_ranks
from training.optim import OptimConfig
from utils import distributed
from utils.clock import Clock

WIDTH, CLASSES, ROWS = 7, 3, 12
RATES = (0.02, 0.5, 3.0)
OPTIMISERS: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 0.0},
    "sgd with decay": {"weight_decay": 1e-2, "decay_norm_and_bias": True, "nesterov": True},
    "lars": {"name": "lars", "lars_variant": "you2017", "decay_norm_and_bias": True, "weight_decay": 0.0},
    "larc": {"name": "lars", "lars_variant": "larc", "lars_clip": True, "weight_decay": 1e-3},
    "adam": {"name": "adam", "weight_decay": 1e-2, "decay_norm_and_bias": True},
    "steps and clipping": {"schedule": "step", "milestones": (1,), "clip_norm": 0.3, "weight_decay": 0.0},
}
# rows of each rank in a batch: unequal, one rank without any
SIZES = {1: [12], 2: [9, 3], 4: [5, 0, 6, 1]}


def config(**changes: Any) -> OptimConfig:
    return OptimConfig(**{"epochs": 2, "global_batch": 256, "learning_rate": 0.7, **changes})


def batch(step: int) -> tuple[Tensor, Tensor]:
    row, column = torch.arange(ROWS, dtype=torch.float64)[:, None], torch.arange(WIDTH, dtype=torch.float64)
    features = torch.sin(0.37 * (row + 1 + 20 * step) * (column + 1)) * 2**column
    return features, (torch.arange(ROWS) * (step + 1)) % CLASSES


def made(rates: tuple[float, ...] = RATES, slices: list[slice] | None = None, **changes: Any) -> Heads:
    like = torch.zeros((), dtype=torch.float64)
    return Heads(slices or [slice(0, WIDTH)], rates, WIDTH, CLASSES, config(**changes), seed=3, like=like)


def trained(heads: Heads, first: int = 0, steps: int = 6) -> Heads:
    for step in range(first, steps):
        heads.step(*batch(step), ROWS, Clock(step, 3, 2))
    return heads


@pytest.mark.parametrize("changes", OPTIMISERS.values(), ids=OPTIMISERS)
def test_each_of_many_is_what_it_is_alone(changes: dict[str, Any]) -> None:
    together = trained(made(**changes)).logits(batch(9)[0])  # (B, H, C)
    for number, rate in enumerate(RATES):
        alone = trained(made((rate,), **changes)).logits(batch(9)[0])
        torch.testing.assert_close(together[:, number], alone[:, 0], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(together[:, 0], together[:, 1])


def test_a_classifier_is_torchs_own_loop() -> None:
    linear = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
    heads = made((0.5,), weight_decay=1e-2, decay_norm_and_bias=True)
    with torch.no_grad():
        linear.weight.copy_(heads.weights[0])
        linear.bias.zero_()
    rates = [0.5 * (1 + math.cos(step * math.pi / 6)) / 2 for step in range(6)]
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-2)
    for step, rate in enumerate(rates):
        features, classes = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(linear(features), classes).backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    torch.testing.assert_close(trained(heads).weights[0].detach(), linear.weight.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(heads.biases[0].detach(), linear.bias.detach(), rtol=1e-10, atol=1e-10)


def test_a_slice_is_seen_alone_and_comes_before_the_rates() -> None:
    slices = [slice(2, 5), slice(0, WIDTH)]
    heads = trained(made(slices=slices))
    assert len(heads) == 6 and [len(block) for block in heads.weights] == [9, 9]
    features = batch(9)[0].clone()
    seen = heads.logits(features)
    features[:, 5:] += 1
    changed = heads.logits(features)
    assert torch.equal(seen[:, :3], changed[:, :3]) and not torch.allclose(seen[:, 3:], changed[:, 3:])


def test_hits_are_counted_row_by_row() -> None:
    heads, (features, classes) = trained(made()), batch(4)
    logits = heads.logits(features)
    for top in (1, 2):
        counted = [
            sum(int(classes[row]) in logits[row, head].argsort(descending=True)[:top].tolist() for row in range(ROWS))
            for head in range(3)
        ]
        assert heads.hits(features, classes, top, chunk=5).tolist() == [count / ROWS for count in counted]
    assert heads.hits(features, classes, 5).tolist() == [1, 1, 1]  # fewer classes than that


def test_a_stopped_one_goes_on_to_the_same_end() -> None:
    whole = trained(made(), 0, 6)
    half, second = trained(made(), 0, 3), made()
    second.load_state_dict(half.state_dict())
    torch.testing.assert_close(trained(second, 3, 6).logits(batch(9)[0]), whole.logits(batch(9)[0]), rtol=0, atol=0)


def on_ranks(rank: int, world: int) -> tuple[list[Tensor], list[float]]:
    heads = made(name="lars", weight_decay=0.0)
    for step in range(6):
        features, classes = (part.split(SIZES[world])[rank] for part in batch(step))
        heads.step(features, classes, ROWS, Clock(step, 3, 2))
    features, classes = (part.split(SIZES[world])[rank] for part in batch(9))
    assert distributed.world() == world
    return [block.detach() for block in heads.weights + heads.biases], heads.hits(features, classes, 1).tolist()


def test_two_and_four_ranks_with_unlike_rows_learn_what_one_learns() -> None:
    [(one, shares)] = run_ranks(1, on_ranks)
    for world in (2, 4):
        for found, hits in run_ranks(world, on_ranks):
            torch.testing.assert_close(found, one, rtol=1e-10, atol=1e-12)
            assert hits == shares
