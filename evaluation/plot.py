"""Curves as a PNG, drawn with Pillow: panels side by side, each with its lines, two axes and a legend."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from utils.files import write_bytes

WIDE, HIGH, PER_ROW = 480, 320, 3  # pixels of a panel, panels beside each other
LEFT, RIGHT, TOP, BOTTOM = 78, 14, 34, 42  # around what is drawn
LEGEND_LINE, LEGEND_GAP = 16, 8  # of a legend: a line, and the room above the first
INK, GRID, MARK = "#202020", "#e2e2e2", "#c02020"
COLORS = ("#1f5fa8", "#d9761c", "#2f8f46", "#8a4fb0", "#8c564b", "#c94f9b", "#5f6b6d", "#a8a020", "#1b9aa8", "#303030")
TICKS = 5


@dataclass(frozen=True)
class Line:
    """points: (x, y) in ascending x; all finite. name: in the legend; empty: no legend."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """mark: an x at which a vertical line stands."""

    title: str
    x_name: str
    lines: list[Line]
    mark: float | None = None


def draw(path: Path, panels: list[Panel]) -> None:
    """Write the panels as a PNG, whole or not at all."""
    across = min(PER_ROW, len(panels))
    legends = max(sum(bool(line.name) for line in panel.lines) for panel in panels)
    high = HIGH + (LEGEND_GAP + LEGEND_LINE * legends if legends else 0)
    picture = Image.new("RGB", (across * WIDE, -(-len(panels) // across) * high), "white")
    for place, panel in enumerate(panels):
        _draw_panel(ImageDraw.Draw(picture), panel, place % across * WIDE, place // across * high)
    data = io.BytesIO()
    picture.save(data, "PNG")
    write_bytes(path, data.getvalue())


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _draw_panel(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    points = [point for line in panel.lines for point in line.points]
    x_low, x_high = _range([x for x, _ in points])
    y_low, y_high = _range([y for _, y in points])
    x_first, x_last = left + LEFT, left + WIDE - RIGHT
    y_first, y_last = top + HIGH - BOTTOM, top + TOP

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return x_first + across * (x_last - x_first), y_first + up * (y_last - y_first)

    pen.text((left + WIDE / 2, top + TOP / 2), panel.title, INK, _font(15), anchor="mm")
    pen.text(((x_first + x_last) / 2, top + HIGH - 10), panel.x_name, INK, _font(13), anchor="mm")
    for x in ticks(x_low, x_high):
        pen.line([place(x, y_low), place(x, y_high)], GRID)
        pen.text((place(x, y_low)[0], y_first + 10), f"{x:g}", INK, _font(12), anchor="mm")
    for y in ticks(y_low, y_high):
        pen.line([place(x_low, y), place(x_high, y)], GRID)
        pen.text((x_first - 6, place(x_low, y)[1]), f"{y:.4g}", INK, _font(12), anchor="rm")
    pen.rectangle([x_first, y_last, x_first + (x_last - x_first), y_first], outline=INK)
    if panel.mark is not None:
        pen.line([place(panel.mark, y_low), place(panel.mark, y_high)], MARK)
    for number, line in enumerate(panel.lines):
        color, spots = COLORS[number % len(COLORS)], [place(x, y) for x, y in line.points]
        pen.line(spots, color, width=2)
        if len(spots) <= 60:
            for x, y in spots:
                pen.ellipse([x - 2.5, y - 2.5, x + 2.5, y + 2.5], fill=color)
        if line.name:
            at = top + HIGH + LEGEND_GAP + LEGEND_LINE * number
            pen.line([x_first, at, x_first + 22, at], color, width=3)
            pen.text((x_first + 30, at), line.name, INK, _font(12), anchor="lm")


def _range(values: list[float]) -> tuple[float, float]:
    """From the least to the greatest; of one value alone, a little around it."""
    low, high = min(values), max(values)
    if high > low:
        return low, high
    around = abs(low) * 0.1 or 1.0
    return low - around, high + around


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
