"""What one view does to each image of a batch: its operations' parameters, on the CPU, from the draws of the step."""

import torch
from torch import Tensor

from data import view_params
from data.view_config import ViewConfig
from data.view_params import CUTOUT_NUMBERS, NUMBERS, STRONG_NUMBERS, between
from utils.draws import Draws

Plan = dict[str, Tensor]  # each with one row an image


def plan_numbers(recipe: ViewConfig, draws: Draws, *purposes: str) -> Plan:
    """Uniform numbers of views, each (views B, ...) float64: what `NUMBERS` lists, and what rarer operations need."""

    def uniform(name: str, *shape: int) -> Tensor:
        return torch.cat([draws.uniform(purpose + name, shape) for purpose in purposes])

    drawn = uniform("", sum(NUMBERS.values()))
    numbers = dict(zip(NUMBERS, drawn.split(list(NUMBERS.values()), 1), strict=True))
    if recipe.strong:
        numbers["strong"] = uniform("/strong", recipe.strong, STRONG_NUMBERS)
    if recipe.cutout:
        numbers["cutout"] = uniform("/cutout", CUTOUT_NUMBERS)
    return numbers


def plan_changes(recipe: ViewConfig, numbers: Plan, size: tuple[int, int]) -> Plan:
    """The parameters of all that follows crop and flip, for images of `size`."""
    plan = {
        "corner": numbers["corner"],
        "jittered": numbers["jitter"][:, 0] < (recipe.jitter_probability if recipe.jitter is not None else 0),
        "factors": view_params.jitter_factors(numbers["factors"], recipe.jitter or (0, 0, 0, 0)),
        "order": numbers["order"],
        "gray": numbers["grayscale"][:, 0] < recipe.grayscale,
        "blurred": numbers["blur"][:, 0] < recipe.blur,
        "sigma": between(numbers["sigma"][:, 0], *recipe.blur_sigma),
        "solarized": numbers["solarize"][:, 0] < recipe.solarize,
    }
    if recipe.affine is not None:
        plan["affine"] = view_params.affine_matrices(numbers["affine"], **recipe.affine.model_dump())
    if recipe.intensity is not None:
        plan["intensity"] = numbers["intensity"]
    if recipe.strong:
        plan["strong"] = numbers["strong"]
    if recipe.cutout:
        plan["cutout"] = view_params.cutout_boxes(numbers["cutout"], recipe.cutout, *size)
    return plan
