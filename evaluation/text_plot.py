"""A curve in characters: eight dots a character in braille, two in plain ASCII."""

import unicodedata

BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode's bit of the dot at [row][column]
ASCII = " '.:"  # neither, the upper, the lower dot, both
AXES = ("│", "└", "─"), ("|", "+", "-")
Points = list[tuple[float, float]]


def draw_curve(title: str, points: Points, width: int, height: int, *, plain: bool) -> list[str]:
    """The title with the last value, `height` lines of curve with its bounds, and an axis below.

    points: one (x, y) or more, in ascending x, all finite. plain: ASCII alone. Each line is `width` columns or shorter.
    """
    high, low = max(y for _, y in points), min(y for _, y in points)
    labels = {height // 2: number(high)} if high == low else {0: number(high), height - 1: number(low)}
    gutter = max(map(len, labels.values()))
    upright, corner, flat = AXES[plain]
    rows = dots(points, max(1, width - gutter - 1), height, plain=plain)
    lines = [f"{labels.get(place, ''):>{gutter}}{upright}{row}".rstrip() for place, row in enumerate(rows)]
    first, last = number(points[0][0]), number(points[-1][0])
    between = flat * (width - gutter - 1 - len(first) - len(last))
    lines = [f"{title}  {number(points[-1][1])}", *lines, f"{'':{gutter}}{corner}{first}{between}{last}"]
    return [clip(line, width) for line in lines]


def dots(points: Points, width: int, height: int, *, plain: bool) -> list[str]:
    """`height` lines of `width` characters in which neighbouring points are joined."""
    across, down = (1, 2) if plain else (2, 4)
    (left, right), (low, high) = (points[0][0], points[-1][0]), (min(y for _, y in points), max(y for _, y in points))
    n_columns, n_rows = width * across, height * down

    def place(x: float, y: float) -> tuple[int, int]:
        along = (x - left) / (right - left) if right > left else 0.0
        fall = (high - y) / (high - low) if high > low else 0.5
        return round(along * (n_columns - 1)), round(fall * (n_rows - 1))

    cells = [[0] * width for _ in range(height)]
    spots = [place(x, y) for x, y in points]
    for (x, y), (next_x, next_y) in zip(spots, [*spots[1:], spots[-1]], strict=True):
        steps = max(abs(next_x - x), abs(next_y - y), 1)
        for step in range(steps + 1):
            row, column = y + round(step * (next_y - y) / steps), x + round(step * (next_x - x) / steps)
            bit = row % down + 1 if plain else BRAILLE[row % down][column % across]
            cells[row // down][column // across] |= bit
    return ["".join((ASCII[cell] if plain else chr(0x2800 + cell)) if cell else " " for cell in row) for row in cells]


def number(value: float) -> str:
    """About four digits: 0.9638, 12.5, 1,905, 2.5e+07."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def clip(text: str, width: int) -> str:
    """The text up to `width` columns; Chinese characters take two. What a terminal would obey becomes '?'."""
    kept, taken = [], 0
    for character in text:
        taken += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if taken > width:
            break
        kept.append(character if character.isprintable() else "?")
    return "".join(kept)
