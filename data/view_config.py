"""The section `views`: what is done to an image to make its views."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from utils.config import Section


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
    crop_window: float | None = Field(
        None, gt=0, le=1, description="instead of crop_scale: side of a square at a random place, of the image's"
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of exchanging left and right")
    pad: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="instead of crop_scale: border reflected around the image, of its side, then a window of its size",
    )
    affine: AffineConfig | None = Field(None, description="random rotation, scale, aspect, shear and translation")
    strong: int = Field(0, ge=0, description="operations drawn from the strong list (self-labelling)")
    intensity: IntensityConfig | None = Field(None, description="random contrast and brightness without clamping")
    jitter: Jitter | None = Field(
        (0.4, 0.4, 0.4, 0.1), description="strengths of brightness, contrast, saturation, hue; null: none"
    )
    jitter_probability: float = Field(0.8, ge=0, le=1, description="probability of the jitter")
    grayscale: float = Field(0.2, ge=0, le=1, description="probability of grey")
    blur: float = Field(0.0, ge=0, le=1, description="probability of a Gaussian blur, its kernel a tenth of the side")
    blur_sigma: Range = Field((0.1, 2.0), description="range of the blur's sigma in pixels")
    solarize: float = Field(0.0, ge=0, le=1, description="probability of inverting the bright pixels")
    cutout: int = Field(0, ge=0, description="largest side in pixels of a square set to the mean; 0: none")

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if sum((self.crop_scale is not None, self.crop_window is not None, self.pad > 0)) > 1:
            raise ValueError("of crop_scale, crop_window and pad one at most: set crop_scale to null")
        return self


class LocalConfig(ViewConfig):
    """Small crops beside the views (multi-crop): how many, how large, and what differs in them."""

    number: int = Field(6, ge=1, description="local crops of each image")
    size: int | None = Field(None, ge=4, description="side in pixels of a local crop; null: as the views")


class EarlyConfig(Section):
    """Smaller views at first, which cost less by their area: a curriculum of sizes."""

    epochs: int = Field(ge=1, description="epochs whose views are of this size; those after have views.size")
    size: int = Field(ge=4, description="side in pixels of the views of these epochs, local crops not counted")


class ViewsConfig(ViewConfig):
    """The views of an image: the operations of the first, what differs in the others, how many."""

    second: ViewConfig | None = Field(
        None, description="operations of each view after the first, where they differ from the first's"
    )
    n_views: int = Field(2, ge=1, description="views of each image, local crops not counted")
    local: LocalConfig | None = Field(
        None, description="local crops after the views; operations where they differ from the first's; null: none"
    )
    size: int | None = Field(None, ge=4, description="side in pixels of views and clean images; null: the images' own")
    early: EarlyConfig | None = Field(
        None, description="another size in the first epochs; clean images keep views.size; null: none"
    )
    test_crop: float = Field(
        1.0, gt=0, le=1, description="side of the middle that is kept of clean images and uncropped views"
    )
    hue: Literal["yiq", "hsv"] = Field(
        "yiq", description="yiq: all colour operations as one matrix, fast; hsv: one by one, clamped, as torchvision"
    )
    normalize: bool = Field(True, description="subtract the data set's mean and divide by its std")
    sobel: bool = Field(False, description="edges instead of colours: two channels, of views and clean images")

    @model_validator(mode="before")
    @classmethod
    def _others_start_from_first(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        first = {key: value for key, value in given.items() if key in ViewConfig.model_fields}
        others = {key: {**first, **given[key]} for key in ("second", "local") if isinstance(given.get(key), dict)}
        return {**given, **others}
