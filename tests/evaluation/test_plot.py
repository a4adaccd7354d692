from pathlib import Path

import pytest
from PIL import Image

from evaluation.plot import COLORS, MARK, Line, Panel, draw, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (2, 50, [10, 20, 30, 40, 50]), (0.61, 0.64, [0.61, 0.62, 0.63, 0.64])],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def color(name: str) -> tuple[int, ...]:
    return tuple(int(name[place : place + 2], 16) for place in (1, 3, 5))


def test_each_line_is_drawn_in_its_place_and_color(tmp_path: Path) -> None:
    rising = Line("up", [(0.0, 0.0), (1.0, 1.0)])
    falling = Line("down", [(0.0, 1.0), (1.0, 0.0)])
    flat = Panel("flat", "x", [Line("", [(3.0, 2.0)])], mark=3.0)
    draw(tmp_path / "curves.png", [Panel("one", "x", [rising, falling]), flat])
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (2 * 480, 320 + 8 + 2 * 16)
        pixels = picture.load()
        middle = (78 + 480 - 14) // 2
        dark = [y for y in range(300, 352) for x in range(middle - 9, middle + 9) if pixels[x, y] != (255, 255, 255)]
        assert dark and max(dark) < 318 and pixels[90, 328] == color(COLORS[0])  # the axis's name, room, the legend
        lower_left, upper_left = (78, 320 - 42), (78, 34)
        assert pixels[480 + (78 + 480 - 14) // 2, 300 - 42] == color(MARK)
        assert pixels[lower_left] == color(COLORS[0]) and pixels[upper_left] == color(COLORS[1])
