"""A document on a terminal: what came of it first, then the numbers behind it, then the next steps.

Fits 80 columns; colours only where the console has them. Every text that comes from a job, a dataset or a model is
printed as text, never as markup, and its control characters are written out.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence

from rich.box import ASCII, ROUNDED
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text as Line

from llmtune.redaction.rendering import Renderable
from llmtune.report import terminal_chart
from llmtune.report.cells import DASH
from llmtune.report.document import (
    Bars,
    Block,
    Cards,
    Charts,
    Code,
    Document,
    Inline,
    KeyValues,
    List,
    Section,
    Span,
    Table,
    Text,
    spans,
)
from llmtune.report.format import escape_control_chars, one_line

#: Cards and lines of a list shown; the JSON report holds all.
CARDS_SHOWN = 3
LINES_SHOWN = 8
#: Columns that the first cell of a table may take before it is folded, for a label and for anything else.
LABEL_WIDTH, FOLDED_WIDTH = 30, 11

_STYLES = {
    "strong": "bold",
    "dim": "dim",
    "hint": "dim",
    "accent": "cyan",
    "good": "green",
    "bad": "red",
    "doubt": "yellow",
    "succeeded": "bold green",
    "failed": "bold red",
    "lost": "bold red",
    "cancelled": "bold yellow",
}
_LOSS_COLOURS = ("cyan", "magenta")
#: What llmtune's own sentences have that is no ASCII.
_ASCII = str.maketrans({"\u2013": "-", "\u2192": "->", "\u00b7": "-", "\u2026": "..."}) | str.maketrans(
    terminal_chart.BLOCKS, terminal_chart.ASCII_BLOCKS
)


def print_report(report: Renderable, console: Console | None = None) -> None:
    """Print a report to a console (None: standard output), with colours where it has them."""
    view = DocumentView(report.render("document"))
    (console or Console(highlight=False, emoji=False)).print(view, highlight=False, crop=False)


def to_text(document: Document, *, width: int = 80, ascii_only: bool = False) -> str:
    """Return a document as plain text of `width` columns."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, no_color=True, force_terminal=False, highlight=False, emoji=False)
    console.print(DocumentView(document, ascii_only=ascii_only), highlight=False, crop=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


class DocumentView:
    """A document that rich can print."""

    def __init__(self, document: Document, *, ascii_only: bool | None = None) -> None:
        self._document = document
        self._ascii = ascii_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ascii_only = options.ascii_only if self._ascii is None else self._ascii
        # A line of text runs easier on the eye when it is not as wide as the screen.
        width = min(options.max_width, 100) if self._document.state else options.max_width
        view = _View(self._document, width, ascii_only)
        for part in view.parts():
            yield from console.render(part, options.update_width(width))


class _Unwrapped:
    """A line that is copied or searched: never wrapped or cut, however narrow the terminal."""

    def __init__(self, line: Line) -> None:
        self._line = line
        line.no_wrap, line.overflow = True, "ignore"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._line


class _View:
    def __init__(self, document: Document, width: int, ascii_only: bool) -> None:
        self.document = document
        self.framed = bool(document.state)
        self.width = width
        self.ascii = ascii_only

    def parts(self) -> Iterator[RenderableType]:
        """Yield everything, from the top."""
        yield from self.top()
        for section in self.document.sections:
            if blocks := section.brief_blocks:
                yield from self.section(section, blocks)

    def top(self) -> Iterator[RenderableType]:
        document = self.document
        verdict = Line(escape_control_chars(document.verdict.text))
        if not self.framed:
            verdict.stylize("bold")
            if verdict:
                yield _Unwrapped(verdict)
            for remark in document.remarks:
                yield from self.block(remark)
            return
        title = Line(one_line(document.heading), style="bold")
        dot = " - " if self.ascii else " \u00b7 "
        for part in (Span(document.state, "state"), *document.line):
            title.append(dot, style="dim").append_text(self.inline(part))
        yield title
        colour = _STYLES.get(document.verdict.style, "dim")
        yield Panel(verdict, border_style=colour, padding=(0, 1), box=ASCII if self.ascii else ROUNDED)

    def section(self, section: Section, blocks: Sequence[Block]) -> Iterator[RenderableType]:
        heading = section.brief_title or (section.title if self.framed else "")
        if heading:
            yield Line()
            yield Line(escape_control_chars(heading), style="bold")
        for block in blocks:
            for part in self.block(block):
                indented = self.framed and not isinstance(part, _Unwrapped)
                yield Padding(part, (0, 0, 0, 2)) if indented else part

    def block(self, block: Block) -> Iterator[RenderableType]:
        match block:
            case Text():
                yield self.line(self.inline(block.content, block.style))
            case List():
                yield from self.lines(block)
            case KeyValues():
                yield self.pairs(block)
            case Table():
                yield from self.table(block)
            case Charts():
                yield from self.chart(block)
            case Bars():
                yield from self.bars(block)
            case Cards():
                yield from self.cards(block)
            case Code():
                yield from self.code(block)

    def inline(self, content: Inline, style: str = "", note: str = " ") -> Line:
        line = Line(style=_STYLES.get(style, ""))
        for span in spans(content):
            text = "-" if span.text == DASH else escape_control_chars(span.text)
            look = span.text if span.style == "state" else span.style
            line.append(text.translate(_ASCII) if self.ascii else text, _STYLES.get(look, ""))
            if span.note:
                line.append(note + escape_control_chars(span.note), "dim")
        return line

    def line(self, text: Line) -> RenderableType:
        return text if self.framed else _Unwrapped(text)

    def lines(self, block: List) -> Iterator[RenderableType]:
        for content in block.lines[: LINES_SHOWN if self.framed else None]:
            text = self.inline(content, block.style)
            yield (
                _beside(Line("-" if self.ascii else "\u2022", style="dim"), text, 1) if self.framed else self.line(text)
            )
        if self.framed and len(block.lines) > LINES_SHOWN:
            yield Line(f"and {len(block.lines) - LINES_SHOWN} more in the JSON report", style="dim")

    def pairs(self, block: KeyValues) -> RenderableType:
        grid = Grid.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in block.pairs:
            grid.add_row(Line(one_line(name, 24)), self.inline(value))
        return grid

    def table(self, block: Table) -> Iterator[RenderableType]:
        """Yield a table; one that is too wide in several, which all name their rows."""
        shown = block.shown_in("terminal")
        rows = [[self.inline(cell, note="\n") for cell in row] for row in shown.rows]
        if not self.framed:
            yield Line()
        for columns in _fit(shown, rows, self.width - 2 * self.framed):
            grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim" if self.framed else "bold")
            for index in columns:
                column = shown.columns[index]
                grid.add_column(
                    Line(one_line(column.heading, 24)),
                    justify="right" if column.kind == "number" else "left",
                    overflow="fold",
                    no_wrap=index > 0 and column.kind in ("number", "word"),
                )
            for row in rows:
                grid.add_row(*(row[index] for index in columns))
            yield grid
            if not self.framed:
                yield Line()

    def chart(self, block: Charts) -> Iterator[RenderableType]:
        width = max(20, min(68, self.width - 14))
        for line in terminal_chart.draw_losses(*block.losses, width=width, ascii_only=self.ascii):
            drawn = Line(no_wrap=True)
            for text, curve in line:
                drawn.append(text, style="dim" if curve is None else _LOSS_COLOURS[curve])
            yield drawn
        yield Line()

    def bars(self, block: Bars) -> Iterator[RenderableType]:
        best = max(metric.value for _, metric in block.bars)
        named = [(name.text, metric) for name, metric in block.bars]
        drawn = terminal_chart.draw_bars(named, width=self.width - 2, ascii_only=self.ascii)
        for (name, bar, figure, interval), (_, metric) in zip(drawn, block.bars, strict=True):
            colour = "green" if metric.value == best else "dim"
            yield Line.assemble(name, (bar, colour), (figure, "bold"), (interval, "dim"), no_wrap=True)
        if self.framed:
            yield Line()

    def cards(self, block: Cards) -> Iterator[RenderableType]:
        for card in block.cards[:CARDS_SHOWN]:
            yield Line(one_line(card.title, self.width), style="dim")
            for name, content in card.pairs:
                text = " ".join(one_line(span.text, 500) for span in spans(content))
                short = textwrap.shorten(text, self.width - 16, placeholder="..." if self.ascii else "\u2026")
                yield Line.assemble((f"  {one_line(name, 20):<9} ", "dim"), short, no_wrap=True, overflow="ellipsis")
        if (hidden := len(block.cards) - CARDS_SHOWN) > 0:
            yield Line(f"{hidden} more in the JSON report", style="dim")

    def code(self, block: Code) -> Iterator[RenderableType]:
        first, *others = block.text.splitlines() or [""]
        if others:
            yield Line(one_line(block.name), style="dim")
            yield from (_Unwrapped(Line(f"    {escape_control_chars(line)}")) for line in (first, *others))
        else:
            yield _Unwrapped(Line.assemble("  ", (f"{one_line(block.name):<13}", "dim"), escape_control_chars(first)))


def _beside(mark: Line, text: Line, width: int) -> Grid:
    grid = Grid.grid(padding=(0, 1))
    grid.add_column(width=width)
    grid.add_column(overflow="fold")
    grid.add_row(mark, text)
    return grid


def _fit(shown: Table, rows: Sequence[Sequence[Line]], width: int) -> list[list[int]]:
    """Return the columns in groups that fit next to the first one."""

    def measure(index: int) -> int:
        lines = [line for row in rows for line in row[index].plain.splitlines()]
        return max(map(len, [shown.columns[index].heading, *lines])) + 2

    if not shown.columns:
        return []
    if any(column.kind in ("text", "reason") for column in shown.columns):  # folded until it fits
        return [list(range(len(shown.columns)))]
    # A label is read in one piece; other first cells may be folded.
    first = min(measure(0), LABEL_WIDTH + 2 if shown.columns[0].kind == "label" else FOLDED_WIDTH + 2)
    groups, free = [[0]], width + 2 - first  # the last column needs no gap
    for index in range(1, len(shown.columns)):
        if measure(index) > free and len(groups[-1]) > 1:
            groups.append([0])
            free = width + 2 - first
        groups[-1].append(index)
        free -= measure(index)
    return groups
