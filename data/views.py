"""Random views of images: what each training step sees of a batch, computed on the device for the whole batch.

In the order of application: crop and flip (or flip and a window of the padded image), affine map, strong operations,
intensity, jitter, grey, blur, solarise; then normalised; then cutout and edges.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from data import view_crop, view_ops, view_params
from data.sources.base import Cut
from data.view_change import Change
from data.view_config import LocalConfig, ViewConfig, ViewsConfig
from data.view_crop import Form
from data.view_plan import Plan, plan_numbers
from utils.draws import Draws

__all__ = ["Views", "ViewsConfig"]

PART = 2**19  # numbers in a part of a batch on a CPU: two megabytes in float32
Make = Callable[[Tensor, slice, Tensor | None], Tensor]  # of images, their rows among the views, where these belong


class Views:
    """Random views of uint8 images, and their plain normalised form.

    Args:
        config: the section `views`.
        image_shape: (C, H, W) of an image; C is 1 or 3.
        mean, std: per channel, of pixels from 0 to 1.
        dtype: of the views. In float64 every step is computed in float64.

    Views have numbers: first `n_views`, then local crops up to `n_all`, then one for each set of partners.
    """

    def __init__(
        self,
        config: ViewsConfig,
        image_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.image_shape, self.dtype = config, image_shape, dtype
        plain = (0.0,) * len(mean), (1.0,) * len(mean)
        self.change = Change(config.hue, *((mean, std) if config.normalize else plain))
        self.n_all = config.n_views + (config.local.number if config.local else 0)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of clean images and of the views that are no local crops: what a network is given."""
        height, width = self._size(0)
        return 2 if self.config.sobel else self.image_shape[0], height, width

    def __call__(self, images: Tensor, draws: Draws) -> list[Tensor]:
        """`n_all` views, each (B, C, side, side), normalised, channels_last, on the device of `images` (uint8).

        What happens to an image is a function of its global position in `draws`. To be called outside autocast.
        """
        groups = groupby(range(self.n_all), lambda number: id(self._recipe(number)))
        return [view for _, numbers in groups for view in self._alike(images, list(numbers), draws)]

    def partner(self, images: Tensor, draws: Draws, place: int) -> Tensor:
        """(B, C, side, side) one view of other images that join the batch, with its own draws.

        Its operations are those of the last view that is no local crop. place: 0 for the first set, 1 for the second.
        """
        return self._alike(images, [self.n_all + place], draws)[0]

    def clean(self, images: Tensor) -> Tensor:
        """(B, C, side, side) the images themselves, normalised, channels_last: what evaluation and the E-step see."""
        size = self._size(0)

        def make(part: Tensor, rows: slice, out: Tensor | None) -> Tensor:
            levels = view_crop.window(part, self.config.test_crop, size, None, self.dtype)
            return self.change.normalize(levels.div_(255))

        return self._in_parts(images, size, make)

    def boxes(self, number: int, draws: Draws, sizes: Tensor) -> Cut:
        """What view `number` cuts out of images of `sizes` (B, 2: height, width; int64), all on the CPU.

        What is cut so, `finish` takes.
        """
        recipe = self._recipe(number)
        numbers = plan_numbers(recipe, draws, self._purpose(number))
        heights, widths = sizes.unbind(1)
        if recipe.crop_scale is not None:
            boxes = view_params.crop_boxes(numbers, heights, widths, scale=recipe.crop_scale, ratio=recipe.crop_ratio)
        elif recipe.crop_window is not None:
            boxes = view_params.window_boxes(numbers, heights, widths, share=recipe.crop_window)
        else:
            boxes = view_params.middle_boxes(heights, widths, len(sizes), share=self.config.test_crop)
        return Cut(boxes.long(), numbers["flip"][:, 0] < recipe.flip, self._size(number)[0])

    def finish(self, crops: Tensor, number: int, draws: Draws) -> Tensor:
        """(B, C, side, side) view `number` of its `crops` (uint8, same shape): all that follows crop and flip."""
        recipe, size = self._recipe(number), (crops.shape[2], crops.shape[3])
        plan = self.change.plan(recipe, plan_numbers(recipe, draws, self._purpose(number)), size)

        def make(part: Tensor, rows: slice, out: Tensor | None) -> Tensor:
            return self.change(view_crop.as_levels(part, self.dtype), recipe, _rows(plan, rows), out)

        return self._in_parts(crops, size, make)

    def restore(self, view: Tensor) -> Tensor:
        """(B, C, H, W) uint8: a view's pixels before they were normalised, clamped.

        Of edges (B, 1, H, W): how steep they are, from flat to a step from black to white.
        """
        if not self.config.sobel:
            return self.change.restore(view)
        std = sum(self.change.std) / len(self.change.std)
        steepness = view.square().sum(1, keepdim=True).sqrt_().mul_(std / 4)
        return steepness.mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _recipe(self, number: int) -> ViewConfig:
        if self.config.local is not None and self.config.n_views <= number < self.n_all:
            return self.config.local
        return self.config.second if number > 0 and self.config.second is not None else self.config

    def _size(self, number: int) -> tuple[int, int]:
        """Height and width of a view."""
        recipe = self._recipe(number)
        side = recipe.size if isinstance(recipe, LocalConfig) and recipe.size is not None else self.config.size
        return self.image_shape[1:] if side is None else (side, side)

    def _purpose(self, number: int) -> str:
        """Local crops have names of their own: with and without them, views and partners are the same."""
        n_views, n_local = self.config.n_views, self.n_all - self.config.n_views
        if number < n_views:
            return f"views/{number}"
        return f"views/local/{number - n_views}" if number < self.n_all else f"views/{number - n_local}"

    def _alike(self, images: Tensor, numbers: Sequence[int], draws: Draws) -> list[Tensor]:
        """The views `numbers`, which share a recipe, each (B, C, *size), at once: small steps cost by the call."""
        recipe, size = self._recipe(numbers[0]), self._size(numbers[0])
        uniform = plan_numbers(recipe, draws, *map(self._purpose, numbers))
        form = view_crop.best_form(images, size, self.dtype)
        if recipe.crop_scale is None or not self.change.mixes(recipe):
            form = Form.BYTES
        plan = self.change.plan(recipe, uniform, size, view_crop.units(form))
        plan["flipped"] = uniform["flip"][:, 0] < recipe.flip
        if recipe.crop_scale is not None:
            height, width = images.shape[2:]
            scale, ratio = recipe.crop_scale, recipe.crop_ratio
            plan["boxes"] = view_params.crop_boxes(uniform, height, width, scale=scale, ratio=ratio)

        def make(part: Tensor, rows: slice, out: Tensor | None) -> Tensor:
            own = _rows(plan, rows)
            if form is Form.BYTES:
                levels = self._cut(part, recipe, own, size)
            else:
                levels = view_crop.crop_planes(part, form, own["boxes"], own["flipped"], size, self.dtype)
            return self.change(levels, recipe, own, out)

        return list(self._in_parts(images, size, make, len(numbers), form).chunk(len(numbers)))

    def _cut(self, images: Tensor, recipe: ViewConfig, plan: Plan, size: tuple[int, int]) -> Tensor:
        """(B, C, *size) from 0 to 255: crop and flip."""
        if recipe.crop_scale is not None:
            return view_crop.crop_resize(images, plan["boxes"], plan["flipped"], size, self.dtype)
        places = None if recipe.crop_window is None else plan["corner"]
        levels = view_crop.window(images, recipe.crop_window or self.config.test_crop, size, places, self.dtype)
        return view_ops.on_rows(levels, plan["flipped"].nonzero().flatten(), view_ops.mirror)

    def _in_parts(
        self, images: Tensor, size: tuple[int, int], make: Make, times: int = 1, form: Form = Form.BYTES
    ) -> Tensor:
        """What `make` makes of each part of the batch, `times` over: (times B, ...), channels_last, perhaps as edges.

        On a CPU the parts are small enough for its caches, and for memory that is kept from one to the next.
        """
        height, width = images.shape[2:]
        largest = images.shape[1] * max(height * width, size[0] * size[1])
        n_parts = max(1, len(images) * largest // PART) if images.device.type == "cpu" else 1
        length = max(1, -(-len(images) // n_parts))
        small = images.device.type != "cpu" or times * len(images) * largest < 2 * PART
        at_once = times if small else 1  # views in a part
        shape = (times * len(images), 2 if self.config.sobel else images.shape[1], *size)
        views = torch.empty(shape, dtype=self.dtype, device=images.device, memory_format=torch.channels_last)
        for start in range(0, len(images), length):
            part = view_crop.bring(images[start : start + length], form)
            part = part if at_once == 1 else torch.cat([part] * at_once)
            for number in range(times // at_once):
                first = number * len(images) + start
                rows = slice(first, first + len(part))
                out = views[rows]
                made = make(part, rows, None if self.config.sobel else out)
                if self.config.sobel:
                    out.copy_(view_ops.sobel(made))
                elif made is not out:
                    out.copy_(made)
        return views


def _rows(plan: Plan, part: slice) -> Plan:
    return {name: values[part] for name, values in plan.items()}
