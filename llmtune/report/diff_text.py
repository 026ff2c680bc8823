"""The differences between two runs, on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmtune.report.format import difference, metric_name, number, one_line, p_words, spread
from llmtune.report.markdown import code, plain, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmtune.report.gate import Change, DiffResult

_COLOURS = {"better": "green", "worse": "red", "not separable": "yellow"}


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else one_line(str(value), 48)


def render(result: DiffResult) -> Iterator[RenderableType]:
    """Yield the tables for a terminal."""
    from rich.table import Table
    from rich.text import Text

    def change_table(title: str, differing: tuple[Change, ...]) -> Iterator[RenderableType]:
        if not differing:
            return
        yield Text(title, style="bold")
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
        for heading in ("", one_line(result.run_a, 24), one_line(result.run_b, 24)):
            grid.add_column(Text(heading), overflow="fold")
        for change in differing:
            grid.add_row(Text(change.field), Text(_format_value(change.a)), Text(_format_value(change.b)))
        yield grid
        yield Text()

    yield from change_table("Settings", result.settings)
    yield from change_table("Facts", result.facts)
    if result.comparisons:
        how = "the same held-out rows, compared one by one" if result.paired else "different held-out rows"
        yield Text(f"Results on {how}", style="bold")
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
        for heading in ("", one_line(result.run_a, 16), one_line(result.run_b, 16), "difference", "verdict"):
            grid.add_column(Text(heading), justify="left" if heading in ("", "verdict") else "right")
        for comparison in result.comparisons:
            unit = result.units.get(comparison.metric, "")
            moved = Text(difference(comparison.difference, unit))
            moved.append(f"\n{spread(comparison.interval, unit)}", style="dim")
            grid.add_row(
                Text(metric_name(one_line(comparison.metric, 24))),
                number(comparison.a, unit),
                number(comparison.b, unit),
                moved,
                Text(comparison.verdict, style=_COLOURS[comparison.verdict]),
            )
        yield grid
    if not (result.settings or result.facts or result.comparisons):
        yield Text("the two runs do not differ")
    for note in result.notes:
        yield Text(one_line(note, 400), style="dim")


def to_markdown(result: DiffResult) -> str:
    """Return the differences as GitHub-flavoured Markdown."""
    parts = [f"### {code(result.run_a)} and {code(result.run_b)}"]
    headings = ["", plain(result.run_a), plain(result.run_b)]
    for title, changes in (("Settings", result.settings), ("Facts", result.facts)):
        if changes:
            rows = [
                [plain(change.field), plain(_format_value(change.a)), plain(_format_value(change.b))]
                for change in changes
            ]
            parts.append(f"**{title}**\n\n{table(headings, rows)}")
    if result.comparisons:
        rows = []
        for comparison in result.comparisons:
            unit = result.units.get(comparison.metric, "")
            tested = f" ({p_words(comparison.p_value)})" if comparison.p_value is not None else ""
            rows.append(
                [
                    plain(metric_name(comparison.metric)),
                    number(comparison.a, unit),
                    number(comparison.b, unit),
                    f"{difference(comparison.difference, unit)}<br>{spread(comparison.interval, unit)}",
                    comparison.verdict + tested,
                ]
            )
        parts.append(f"**Results**\n\n{table([*headings, 'difference', 'verdict'], rows, right=(1, 2, 3))}")
    if result.notes:
        parts.append("\n".join(f"- {plain(note, 400)}" for note in result.notes))
    return "\n\n".join(parts) + "\n"
