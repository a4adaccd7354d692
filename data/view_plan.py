"""What one view does to each image of a batch: its operations' parameters, on the CPU, from the draws of the step."""

from torch import Tensor

from data import view_params
from data.view_config import ViewConfig
from data.view_params import CUTOUT_NUMBERS, NUMBERS, STRONG_NUMBERS, between
from utils.draws import Draws

Plan = dict[str, Tensor]  # each with one row an image


def plan_numbers(recipe: ViewConfig, draws: Draws, purpose: str) -> Plan:
    """The uniform numbers of a view, each (B, ...) float64: what `NUMBERS` lists, and what rarer operations need."""
    drawn = draws.uniform(purpose, (sum(NUMBERS.values()),))
    numbers = dict(zip(NUMBERS, drawn.split(list(NUMBERS.values()), 1), strict=True))
    if recipe.strong:
        numbers["strong"] = draws.uniform(f"{purpose}/strong", (recipe.strong, STRONG_NUMBERS))
    if recipe.cutout:
        numbers["cutout"] = draws.uniform(f"{purpose}/cutout", (CUTOUT_NUMBERS,))
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
