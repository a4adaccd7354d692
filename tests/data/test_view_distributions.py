"""Drawn parameters are distributed as torchvision's: Kolmogorov-Smirnov tests of 10,000 draws against 10,000."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from data.view_config import ViewConfig
from data.view_params import crop_boxes
from data.view_plan import Plan, plan_changes, plan_numbers
from utils import compat
from utils.draws import Draws

compat.prepare_torchvision()
from torchvision import transforms  # noqa: E402

N, SIDE = 10_000, 32
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
NEVER_BY_CHANCE = 1e-4  # the draws are fixed: a test that passes once passes always


@pytest.fixture(scope="module")
def numbers() -> Plan:
    return plan_numbers(ViewConfig(), Draws(seed=0, step=0, start=0, stop=N, total=N), "views/0")


def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > NEVER_BY_CHANCE


@pytest.mark.parametrize(("height", "width", "scale"), [(32, 32, SCALE), (24, 57, (0.6, 1.0))])
def test_crop_boxes(numbers: Plan, height: int, width: int, scale: tuple[float, float]) -> None:
    ours = crop_boxes(numbers, height, width, scale=scale, ratio=RATIO)
    image = torch.empty(1, height, width)
    draw = transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([draw(image, list(scale), list(RATIO)) for _ in range(N)]).double()
    for column in range(4):
        assert_alike(ours[:, column], theirs[:, column])
    assert_alike(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    assert_alike(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2])


def test_jitter_factors_and_their_order(numbers: Plan) -> None:
    plan = plan_changes(ViewConfig(jitter=(0.8, 0.4, 1.5, 0.2)), numbers, (SIDE, SIDE))
    jitter = transforms.ColorJitter(0.8, 0.4, 1.5, 0.2)
    drawn = [jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(N)]
    for column in range(4):
        assert_alike(plan["factors"][:, column], torch.tensor([each[1 + column] for each in drawn]).double())
    base = torch.tensor([64, 16, 4, 1])
    codes = [(order * base).sum(1) for order in (plan["order"].argsort(1), torch.stack([each[0] for each in drawn]))]
    counts = [torch.unique(code, return_counts=True) for code in codes]
    assert torch.equal(counts[0][0], counts[1][0])
    assert len(counts[0][0]) == 24
    assert stats.chisquare(counts[0][1].numpy()).pvalue > NEVER_BY_CHANCE


def test_blur_sigmas(numbers: Plan) -> None:
    ours = plan_changes(ViewConfig(blur_sigma=(0.1, 2.0)), numbers, (SIDE, SIDE))["sigma"]
    theirs = torch.tensor([transforms.GaussianBlur.get_params(0.1, 2.0) for _ in range(N)]).double()
    assert_alike(ours, theirs)


def test_rates(numbers: Plan) -> None:
    rates = {"gray": 0.2, "jittered": 0.8, "blurred": 0.5, "solarized": 0.1}
    recipe = ViewConfig(grayscale=0.2, jitter_probability=0.8, blur=0.5, solarize=0.1)
    plan = plan_changes(recipe, numbers, (SIDE, SIDE))
    for name, rate in rates.items():
        assert stats.binomtest(int(plan[name].sum()), N, rate).pvalue > NEVER_BY_CHANCE
    assert stats.binomtest(int((numbers["flip"] < 0.5).sum()), N, 0.5).pvalue > NEVER_BY_CHANCE


def test_numbers_of_different_operations_and_of_two_views_do_not_go_together(numbers: Plan) -> None:
    other = plan_numbers(ViewConfig(), Draws(seed=0, step=0, start=0, stop=N, total=N), "views/1")
    both = torch.cat([*numbers.values(), *other.values()], 1)
    together = torch.corrcoef(both.T).fill_diagonal_(0)
    assert together.abs().max() < 5.5 / N**0.5  # of 3,828 pairs
