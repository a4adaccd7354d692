"""All that follows crop and flip in a view, by its plan: from grey levels to normalised pixels."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from data import view_crop, view_ops, view_params
from data.view_config import ViewConfig
from data.view_params import PIXELS, Units
from data.view_plan import Plan, plan_changes
from data.view_strong import strong

LEVELS = Units((1 / 255,))


class Change:
    """Padded window, affine map, strong operations, intensity, colours, normalising, blur, solarise, cutout.

    Args:
        hue: of `views.hue`.
        mean, std: per channel, of pixels from 0 to 1.
    """

    def __init__(self, hue: Literal["yiq", "hsv"], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.hue, self.mean, self.std = hue, mean, std

    def __call__(self, levels: Tensor, recipe: ViewConfig, plan: Plan, out: Tensor | None = None) -> Tensor:
        """(B, C, H, W) normalised, perhaps in the memory of `out`; `levels` are written to.

        levels: from 0 to 255, or in the units of `plan`, perhaps with a plane of ones.
        """
        if recipe.pad > 0:
            levels = view_crop.padded_window(levels, recipe.pad, plan["corner"])
        pixels = self._bend(levels.div_(255), recipe, plan) if _bent(recipe) or "mixing" not in plan else levels
        if "mixing" in plan:  # jitter, grey and normalising in one
            mixing = _put(plan["mixing"], pixels)
            out = None if _filtered(recipe) else out
            pixels = view_ops.mix_channels(pixels, mixing, self._normal(0), self._normal(1), out)
        elif _colored(recipe):
            pixels = view_ops.jitter(pixels, plan["jittered"], plan["factors"], plan["order"].argsort(1))
            pixels = self.normalize(view_ops.on_rows(pixels, plan["gray"].nonzero().flatten(), view_ops.grayscale))
        else:
            pixels = self.normalize(pixels)
        return self._filter(pixels, recipe, plan)

    def mixes(self, recipe: ViewConfig) -> bool:
        """Whether levels go straight into one product for all colours, so that they may come in any units."""
        return self.hue == "yiq" and _colored(recipe) and not _bent(recipe)

    def plan(self, recipe: ViewConfig, numbers: Plan, size: tuple[int, int], units: Units = LEVELS) -> Plan:
        """The parameters of all changes of images of `size`, from the uniform numbers of a view.

        units: of levels, where `mixes` allows others than from 0 to 255.
        """
        plan = plan_changes(recipe, numbers, size)
        if self.hue == "yiq" and _colored(recipe):
            jittered, factors, gray = (plan.pop(name) for name in ("jittered", "factors", "gray"))
            units = units if self.mixes(recipe) else PIXELS
            plan["mixing"] = view_params.color_mixing(jittered, factors, gray, self.mean, self.std, units)
        return plan

    def normalize(self, pixels: Tensor) -> Tensor:
        """(x - mean) / std of pixels from 0 to 1, in place."""
        return pixels.sub_(_channels(self.mean, pixels)).div_(_channels(self.std, pixels))

    def restore(self, normal: Tensor) -> Tensor:
        """uint8 pixels of normalised ones, clamped."""
        pixels = normal * _channels(self.std, normal) + _channels(self.mean, normal)
        return pixels.mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _bend(self, pixels: Tensor, recipe: ViewConfig, plan: Plan) -> Tensor:
        """Affine map, strong operations, intensity, of pixels from 0 to 1."""
        if recipe.affine is not None:
            pixels = view_ops.warp(pixels, _put(plan["affine"], pixels))
        if recipe.strong:
            pixels = strong(pixels, plan["strong"])
        if recipe.intensity is not None:
            contrast, brightness = (2 * _put(plan["intensity"], pixels) - 1).unbind(1)
            pixels = view_ops.scale_and_shift(
                pixels, 1 + recipe.intensity.contrast * contrast, recipe.intensity.brightness * brightness
            )
        return pixels

    def _filter(self, pixels: Tensor, recipe: ViewConfig, plan: Plan) -> Tensor:
        """Blur, solarise and cutout of normalised pixels: a blur is the same before normalising and after."""
        if recipe.blur > 0:
            kernel_size = view_ops.blur_kernel_size(min(pixels.shape[2:]))
            pixels = view_ops.blur(pixels, plan["blurred"].nonzero().flatten(), plan["sigma"], kernel_size)
        if recipe.solarize > 0:
            black, threshold, white = (_channels(self._normal(level), pixels) for level in (0, 128 / 255, 1))
            invert = partial(view_ops.solarize, threshold=threshold, total=black + white)
            pixels = view_ops.on_rows(pixels, plan["solarized"].nonzero().flatten(), invert)
        if recipe.cutout:
            pixels = view_ops.cutout(pixels, plan["cutout"].to(pixels.device, non_blocking=True))
        return pixels

    def _normal(self, value: float) -> tuple[float, ...]:
        """What a value from 0 to 1 is in each channel once normalised."""
        return tuple((value - mean) / std for mean, std in zip(self.mean, self.std, strict=True))


def _colored(recipe: ViewConfig) -> bool:
    return recipe.jitter is not None or recipe.grayscale > 0


def _bent(recipe: ViewConfig) -> bool:
    """Whether anything needs pixels from 0 to 1 before the colours."""
    return bool(recipe.affine or recipe.strong or recipe.intensity)


def _filtered(recipe: ViewConfig) -> bool:
    """Whether anything follows the colours: whole images of one channel after the other are faster for it."""
    return bool(recipe.blur or recipe.solarize or recipe.cutout)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)[:, None, None]


def _put(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype, non_blocking=True)
