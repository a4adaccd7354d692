"""Random views of images: what each training step sees of a batch, computed on the device for the whole batch."""

from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, Strict, model_validator
from torch import Tensor

from data import view_ops, view_params
from data.view_params import NUMBERS, between
from utils.config import Section
from utils.draws import Draws


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise ValueError(f"[{values[0]}, {values[1]}] is not a range of positive numbers, smaller one first")
    return values


def _jitter_strengths(values: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    if min(values) < 0 or values[3] > 0.5:
        raise ValueError("brightness, contrast and saturation are at least 0, hue is between 0 and 0.5")
    return values


# a YAML list may fill these tuples (Strict(False)); their numbers stay strict
Range = Annotated[tuple[float, float], Strict(False), AfterValidator(_ascending)]
Jitter = Annotated[tuple[float, float, float, float], Strict(False), AfterValidator(_jitter_strengths)]


class AffineConfig(Section):
    """A random affine map of an image, black outside."""

    rotation: float = Field(15.0, ge=0, description="degrees to either side")
    scale: Range = Field((0.8, 1.2), description="range of the log-uniform magnification")
    aspect: float = Field(0.1, ge=0, description="x is magnified by exp(U(-aspect, aspect)), y by its inverse")
    shear: float = Field(0.2, ge=0, description="slant to either side")
    translation: float = Field(0.1, ge=0, description="shift to either side along each axis, in half widths")


class IntensityConfig(Section):
    """A random c x + b of all pixels of an image, not clamped."""

    contrast: float = Field(0.4, ge=0, description="c = 1 + U(-contrast, contrast)")
    brightness: float = Field(0.2, ge=0, description="b = U(-brightness, brightness), pixels being 0 to 1")


class ViewConfig(Section):
    """The operations of one view, in the order of application. The defaults are those of SimCLR's small images."""

    crop_scale: Range | None = Field((0.08, 1.0), description="area of the random crop, of the image's; null: no crop")
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="width / height of the random crop, log-uniform")
    flip: float = Field(0.5, ge=0, le=1, description="probability of exchanging left and right")
    affine: AffineConfig | None = Field(None, description="random rotation, scale, aspect, shear and translation")
    intensity: IntensityConfig | None = Field(None, description="random contrast and brightness without clamping")
    jitter: Jitter | None = Field(
        (0.4, 0.4, 0.4, 0.1), description="strengths of brightness, contrast, saturation, hue; null: none"
    )
    jitter_probability: float = Field(0.8, ge=0, le=1, description="probability of the jitter")
    grayscale: float = Field(0.2, ge=0, le=1, description="probability of grey")
    blur: float = Field(0.0, ge=0, le=1, description="probability of a Gaussian blur, its kernel a tenth of the side")
    blur_sigma: Range = Field((0.1, 2.0), description="range of the blur's sigma in pixels")
    solarize: float = Field(0.0, ge=0, le=1, description="probability of inverting the bright pixels")


class ViewsConfig(ViewConfig):
    """The views of an image: the operations of the first, what differs in the others, how many."""

    second: ViewConfig | None = Field(
        None, description="operations of each view after the first, where they differ from the first's"
    )
    n_views: int = Field(2, ge=1, description="views of each image")
    hue: Literal["yiq", "hsv"] = Field(
        "yiq", description="yiq: all colour operations as one matrix, fast; hsv: one by one, clamped, as torchvision"
    )

    @model_validator(mode="before")
    @classmethod
    def _second_starts_from_first(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("second"), dict):
            return given
        first = {key: value for key, value in given.items() if key in ViewConfig.model_fields}
        return {**given, "second": {**first, **given["second"]}}


class Views:
    """Random views of uint8 images, and their plain normalised form.

    Args:
        config: the section `views`.
        image_shape: (C, H, W) of an image; C is 1 or 3. A view has the same shape.
        mean, std: per channel, of pixels from 0 to 1.
        dtype: of the views. In float64 every step is computed in float64.
    """

    def __init__(
        self,
        config: ViewsConfig,
        image_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.image_shape, self.mean, self.std, self.dtype = config, image_shape, mean, std, dtype

    def __call__(self, images: Tensor, draws: Draws) -> list[Tensor]:
        """`n_views` views, each (B, C, H, W), normalised, channels_last, on the device of `images` (uint8, same shape).

        What happens to an image is a function of its global position in `draws`. To be called outside autocast.
        """
        pixels = self._scale(images)
        return [self._view(pixels, number, draws) for number in range(self.config.n_views)]

    def partner(self, images: Tensor, draws: Draws, place: int) -> Tensor:
        """(B, C, H, W) one view of other images that join the batch, by the last view's operations, with its own draws.

        place: 0 for the first set of such images, 1 for the second.
        """
        return self._view(self._scale(images), self.config.n_views + place, draws)

    def clean(self, images: Tensor) -> Tensor:
        """(B, C, H, W) the images themselves, normalised, channels_last: what evaluation and the E-step see."""
        return self._normalize(self._scale(images))

    def restore(self, view: Tensor) -> Tensor:
        """(B, C, H, W) uint8: a view's pixels before they were normalised, clamped."""
        mean, std = self._channels(view, self.mean), self._channels(view, self.std)
        return (view * std + mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _view(self, pixels: Tensor, number: int, draws: Draws) -> Tensor:
        config = self.config.second if number > 0 and self.config.second is not None else self.config
        drawn = draws.uniform(f"views/{number}", (sum(NUMBERS.values()),))  # (B, 44) float64, CPU
        numbers = dict(zip(NUMBERS, drawn.split(list(NUMBERS.values()), 1), strict=True))
        pixels = self._geometry(pixels, config, numbers)
        pixels = self._color(pixels, config, numbers)
        pixels = self._filters(pixels, config, numbers)
        return self._normalize(pixels)

    def _geometry(self, pixels: Tensor, config: ViewConfig, numbers: dict[str, Tensor]) -> Tensor:
        height, width = pixels.shape[2:]
        flipped = numbers["flip"][:, 0] < config.flip
        if config.crop_scale is not None:
            boxes = view_params.crop_boxes(numbers, height, width, scale=config.crop_scale, ratio=config.crop_ratio)
            mirrored = flipped.to(pixels.device, non_blocking=True)
            pixels = view_ops.crop_resize(pixels, self._put(boxes, pixels), mirrored)
        elif config.flip > 0:
            pixels = view_ops.on_rows(pixels, self._rows(flipped, pixels), view_ops.mirror)
        if config.affine is not None:
            matrices = view_params.affine_matrices(numbers["affine"], **config.affine.model_dump())
            pixels = view_ops.warp(pixels, self._put(matrices, pixels))
        return pixels

    def _color(self, pixels: Tensor, config: ViewConfig, numbers: dict[str, Tensor]) -> Tensor:
        if config.intensity is not None:
            contrast, brightness = (2 * self._put(numbers["intensity"], pixels) - 1).unbind(1)
            pixels = view_ops.scale_and_shift(
                pixels, 1 + config.intensity.contrast * contrast, config.intensity.brightness * brightness
            )
        if config.jitter is None and config.grayscale == 0:
            return pixels
        gray = numbers["grayscale"][:, 0] < config.grayscale
        chosen = numbers["jitter"][:, 0] < (config.jitter_probability if config.jitter is not None else 0)
        factors = view_params.jitter_factors(numbers["factors"], config.jitter or (0, 0, 0, 0))
        if self.config.hue == "yiq":
            mixing = view_params.color_mixing(pixels.shape[1], chosen, factors, gray)
            return view_ops.mix_channels(pixels, self._put(mixing, pixels))
        pixels = view_ops.jitter(pixels, chosen, factors, order=numbers["order"].argsort(1))
        return view_ops.on_rows(pixels, self._rows(gray, pixels), view_ops.grayscale)

    def _filters(self, pixels: Tensor, config: ViewConfig, numbers: dict[str, Tensor]) -> Tensor:
        if config.blur > 0:
            chosen = numbers["blur"][:, 0] < config.blur
            sigmas = self._put(between(numbers["sigma"][chosen, 0], *config.blur_sigma), pixels)
            kernel_size = view_ops.blur_kernel_size(min(pixels.shape[2:]))
            rows = self._rows(chosen, pixels)
            pixels = view_ops.on_rows(pixels, rows, lambda some: view_ops.blur(some, sigmas, kernel_size))
        if config.solarize > 0:
            rows = self._rows(numbers["solarize"][:, 0] < config.solarize, pixels)
            pixels = view_ops.on_rows(pixels, rows, view_ops.solarize)
        return pixels

    def _scale(self, images: Tensor) -> Tensor:
        # a zero-dimensional divisor of the wanted type converts and divides in one pass
        return images / torch.tensor(255, dtype=self.dtype)

    def _normalize(self, pixels: Tensor) -> Tensor:
        mean, std = self._channels(pixels, self.mean), self._channels(pixels, self.std)
        return (pixels - mean).div_(std).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _channels(like: Tensor, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)[:, None, None]

    @staticmethod
    def _put(values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.device, like.dtype, non_blocking=True)

    @staticmethod
    def _rows(chosen: Tensor, like: Tensor) -> Tensor:
        # counted on the CPU, where the choice was drawn: the device need not be waited for
        return chosen.nonzero().flatten().to(like.device, non_blocking=True)
