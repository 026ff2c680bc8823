"""Curves and bars drawn with characters: braille where the terminal can show it, plain ASCII where it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmtune.evaluation.results import MetricValue
from llmtune.report.format import number, one_line, spread

Points = Sequence[tuple[float, float]]

#: Dots of a braille cell, [column][row], as bits above U+2800.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
BLOCKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII_BLOCKS = " .:-=+*#@"


@dataclass(frozen=True)
class Cell:
    """One character of a chart, and which curve it belongs to (None: neither)."""

    char: str
    curve: int | None = None


@dataclass(frozen=True)
class Chart:
    """Rows of cells from the top, and the values at the edges."""

    rows: tuple[tuple[Cell, ...], ...]
    top: float
    bottom: float
    left: float
    right: float


#: Beyond this a difference of two values may be infinite; no loss worth drawing is.
_LARGEST = 1e150


def finite(points: Points) -> list[tuple[float, float]]:
    """Return the points that can be drawn, clipped so that differences cannot overflow."""
    return [(x, max(-_LARGEST, min(_LARGEST, y))) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def draw(line: Points, marks: Points, *, width: int, height: int, ascii_only: bool = False) -> Chart | None:
    """Draw a dense curve as a line (curve 0) and a sparse one as marks on it (curve 1); None without points.

    The line shows the mean of the points that fall into one column, so that noise of single steps does not hide it.
    """
    line, marks = finite(line), finite(marks)
    if not line and not marks:
        return None
    x_min, x_max = _range([x for x, _ in (*line, *marks)])
    columns, levels = (width, height) if ascii_only else (2 * width, 4 * height)
    means = _means(line, x_min, x_max, columns)
    values = [y for _, y in means] + [y for _, y in marks]
    bottom, top = min(values), max(values)
    span = top - bottom or 1.0

    def level(value: float) -> int:
        return min(levels - 1, max(0, round((top - value) / span * (levels - 1))))

    grid: list[list[int]] = [[0] * columns for _ in range(levels)]
    previous: tuple[int, int] | None = None
    for column, value in means:
        row = level(value)
        for x, y in _segment(previous, (column, row)):
            grid[y][x] = 1
        previous = (column, row)
    cells = _plain(grid) if ascii_only else _braille(grid, width, height)
    for x_value, value in marks:
        column = round((x_value - x_min) / (x_max - x_min or 1) * (width - 1))
        row = min(height - 1, level(value) * height // levels)
        cells[row][column] = Cell("o" if ascii_only else "\u25cf", 1)
    return Chart(tuple(tuple(row) for row in cells), top=top, bottom=bottom, left=x_min, right=x_max)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _means(line: Points, x_min: float, x_max: float, columns: int) -> list[tuple[int, float]]:
    sums: dict[int, tuple[float, int]] = {}
    for x, y in line:
        column = round((x - x_min) / (x_max - x_min or 1) * (columns - 1))
        total, amount = sums.get(column, (0.0, 0))
        sums[column] = (total + y, amount + 1)
    return [(column, total / amount) for column, (total, amount) in sorted(sums.items())]


def _segment(start: tuple[int, int] | None, end: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the dots from one point to the next."""
    if start is None:
        return [end]
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (
            round(start[0] + (end[0] - start[0]) * step / steps),
            round(start[1] + (end[1] - start[1]) * step / steps),
        )
        for step in range(steps + 1)
    ]


def _plain(grid: list[list[int]]) -> list[list[Cell]]:
    return [[Cell(".", 0) if dot else Cell(" ") for dot in row] for row in grid]


def _braille(grid: list[list[int]], width: int, height: int) -> list[list[Cell]]:
    cells = []
    for row in range(height):
        line = []
        for column in range(width):
            bits = sum(_DOTS[x][y] for x in range(2) for y in range(4) if grid[4 * row + y][2 * column + x])
            line.append(Cell(chr(0x2800 + bits), 0) if bits else Cell(" "))
        cells.append(line)
    return cells


def sparkline(values: Sequence[float], width: int = 16, *, ascii_only: bool = False) -> str:
    """Draw a curve in one line, its mean in each of at most `width` columns; empty when nothing is finite."""
    points = finite([(float(index), value) for index, value in enumerate(values)])
    if not points:
        return ""
    columns = min(width, len(points))
    means = [value for _, value in _means(points, points[0][0], points[-1][0], columns)]
    low, high = min(means), max(means)
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    return "".join(blocks[1 + round((value - low) / (high - low or 1) * 7)] for value in means)


def bar(value: float, low: float, high: float, width: int, *, ascii_only: bool = False) -> str:
    """Draw a share as a bar of `width` characters, its interval over the end: `#####|--|    `."""

    def place(share: float) -> int:
        return min(width - 1, max(0, round(share * width) - 1)) if share > 0 else -1

    full, left_end, dash, right_end = ("#", "|", "-", "|") if ascii_only else ("\u2588", "\u251c", "\u2500", "\u2524")
    cells = [full if position <= place(value) else " " for position in range(width)]
    start, end = max(0, place(low)), max(0, place(high))
    for position in range(max(start, place(value) + 1), end + 1):
        cells[position] = dash
    if end > place(value):
        cells[end] = right_end
    if start > place(value):
        cells[start] = left_end
    return "".join(cells)


#: A line of a drawing in pieces, each with the curve that it belongs to (None: neither).
Line = list[tuple[str, int | None]]


def draw_losses(train: Points, validation: Points, *, width: int, ascii_only: bool = False) -> list[Line]:
    """Draw training loss as a line and validation loss as marks, with axes and legend; empty with too few points."""
    drawn = draw(train, validation, width=width, height=8, ascii_only=ascii_only)
    if drawn is None or len(train) + len(validation) < 3:
        return []
    edge, corner, floor, mark, stroke = "|+-o." if ascii_only else "\u2502\u2514\u2500\u25cf\u28c0"
    labels = {0: number(drawn.top), len(drawn.rows) - 1: number(drawn.bottom)}
    lines: list[Line] = [
        [(f"{labels.get(index, ''):>7} {edge}", None), *((cell.char, cell.curve) for cell in row)]
        for index, row in enumerate(drawn.rows)
    ]
    lines.append([(f"{'':>8}{corner}{floor * width}", None)])
    legend: Line = [(stroke, 0), (" training loss  ", None)] if train else []
    legend += [(mark, 1), (" validation loss", None)] if validation else []
    start, end = f"step {drawn.left:g}", f"{drawn.right:g}"
    gap = width - len(start) - len(end) - sum(len(text) for text, _ in legend)
    if gap < 2:
        return [*lines, [(f"{'':>9}{start}", None)], [(f"{'':>9}", None), *legend]]
    before, after = " " * (gap // 2), " " * (gap - gap // 2)
    return [*lines, [(f"{'':>9}{start}{before}", None), *legend, (f"{after}{end}", None)]]


def draw_bars(
    bars: Sequence[tuple[str, MetricValue]], *, width: int, ascii_only: bool = False
) -> list[tuple[str, str, str, str]]:
    """Draw shares as bars under each other: name, bar, figure and interval of each."""
    names = min(20, max((len(name) for name, _ in bars), default=0))
    room = max(10, min(48, width - names - 27))
    lines = []
    for name, metric in bars:
        drawn = bar(metric.value, metric.interval.low, metric.interval.high, room, ascii_only=ascii_only)
        figure, interval = number(metric.value, metric.unit), spread(metric.interval, metric.unit)
        lines.append((f"{one_line(name, names):<{names}} ", drawn, f" {figure:>6}", f"  {interval}"))
    return lines
