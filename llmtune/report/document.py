"""The document behind every report: sections of blocks, which terminal, Markdown and web page render alike.

A block is data. Its texts are as they came from a job, a dataset or a model; the renderers escape them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from llmtune.evaluation.results import MetricValue

Style = Literal["", "strong", "code", "dim", "hint", "accent", "good", "bad", "doubt", "state"]


@dataclass(frozen=True)
class Span:
    """A piece of text.

    `note` stands below it in a column of numbers and behind it elsewhere, `title` is shown by a page when it is pointed
    at. A table is sorted by `value`, where that is not the text itself. `colour` is the number of a curve's colour.
    `live` is the name by which a page's script updates the text.
    """

    text: str
    style: Style = ""
    note: str = ""
    value: float | str | None = None
    title: str = ""
    href: str = ""
    colour: int | None = None
    live: str = ""


Inline: TypeAlias = "str | Span | Sequence[str | Span]"


class Block:
    """A part of a section; every renderer has a case for each kind."""


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    content: Inline
    style: Style = ""


@dataclass(frozen=True)
class List(Block):
    """Lines with a bullet each."""

    lines: Sequence[Inline]
    style: Style = ""


@dataclass(frozen=True)
class KeyValues(Block):
    """Names and values, one pair per line."""

    pairs: Sequence[tuple[str, Inline]]


@dataclass(frozen=True)
class Column:
    """A column of a table; `medium` is where it is shown, "" is everywhere.

    A "number" is aligned right, a "word" is never wrapped, a "label" or a "text" may be broken anywhere, and a "reason"
    needs room.
    """

    heading: str
    kind: Literal["", "number", "word", "label", "text", "reason"] = ""
    medium: Literal["", "page", "terminal"] = ""


@dataclass(frozen=True)
class Table(Block):
    """Rows of cells. A caption that is not `titled` is for screen readers only: the heading above says the same."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Inline]]
    titled: bool = True
    sortable: bool = True

    def shown_in(self, medium: Literal["page", "terminal"]) -> Table:
        """Return the table with the columns of one medium."""
        indices = [index for index, column in enumerate(self.columns) if column.medium in ("", medium)]
        columns = [self.columns[index] for index in indices]
        rows = [[row[index] for index in indices] for row in self.rows]
        return Table(self.caption, columns, rows, self.titled, self.sortable)


@dataclass(frozen=True)
class Charts(Block):
    """Curves over the steps, as `llmtune.report.html.charts` prepares them; text shows the losses of one run."""

    charts: Sequence[Mapping[str, Any]]

    @property
    def losses(self) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Training and validation loss of one run as (step, value); both are empty for several runs."""
        curves = {curve["name"]: curve for chart in self.charts if chart["id"] == "loss" for curve in chart["curves"]}

        def points(name: str) -> list[tuple[float, float]]:
            curve = curves.get(name, {"steps": (), "values": ()})
            return [(float(step), y) for step, y in zip(curve["steps"], curve["values"], strict=True) if y is not None]

        return points("train/loss"), points("validation/loss") or points("validation/full_loss")


@dataclass(frozen=True)
class Bars(Block):
    """Shares as bars with their intervals."""

    title: str
    bars: Sequence[tuple[Span, MetricValue]]


@dataclass(frozen=True)
class Card:
    """One of several things of a kind: a title, names and texts."""

    title: str
    pairs: Sequence[tuple[str, Inline]]


@dataclass(frozen=True)
class Cards(Block):
    """Cards, of which the first are shown at once."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Code(Block):
    """Text to be copied: never wrapped."""

    text: str
    name: str
    language: str = ""


@dataclass(frozen=True)
class Matrix(Block):
    """A confusion matrix: amounts by true label (rows) and answer (columns). Pages alone show it."""

    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    amounts: Sequence[Sequence[int]]


#: A line of a drawing: its name, its kind, and its points.
Line: TypeAlias = tuple[str, Literal["after", "before", "ideal"], Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Plot:
    """A square drawing of lines and dots; both axes go from 0 to 1.

    Lines are (name, kind, points): what it is about is the kind "after", what it is compared with "before", and what
    would be ideal or was promised "ideal". Dots are (x, y, radius, title); `axis` is the name of the horizontal axis,
    `label` describes all to those who cannot see it.
    """

    title: str
    label: str
    axis: str
    lines: Sequence[Line]
    dots: Sequence[tuple[float, float, float, str]] = ()


@dataclass(frozen=True)
class Plots(Block):
    """Drawings beside each other. Pages alone show them."""

    plots: Sequence[Plot]


@dataclass(frozen=True)
class Details(Block):
    """Blocks that a page and Markdown fold behind a summary, and that a terminal leaves out."""

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; without blocks it is left out.

    `id` is its anchor in a page, `short` its name in the bar at the top.
    `brief` are the blocks for a terminal, under the heading `brief_title`, where they are others than a page's. A
    `folded` section is folded in Markdown, and a terminal shows its `brief` alone.
    """

    id: str
    title: str
    blocks: Sequence[Block] = ()
    short: str = ""
    folded: bool = False
    brief: Sequence[Block] | None = None
    brief_title: str = ""

    def __bool__(self) -> bool:
        return bool(self.blocks)

    @property
    def brief_blocks(self) -> Sequence[Block]:
        """The blocks for a terminal."""
        return self.brief if self.brief is not None else () if self.folded else self.blocks


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report: what is known at a glance, and its sections.

    `title` names it among other pages, `heading` stands above it, `line` says of what it is (`aside`: where a terminal
    has no room for it), `verdict` what came of it. `tiles` are the figures that people look for first,
    as (name, figure). A document with a `state` is that of one run; a terminal frames its verdict. The others are shown
    there without headings, but for a section's `brief_title`.
    """

    title: str
    heading: str = ""
    state: str = ""
    line: Sequence[str | Span] = ()
    aside: Sequence[Span] = ()
    verdict: Span = Span("")
    remarks: Sequence[Text | List] = ()
    tiles: Sequence[tuple[Span, Span]] = ()
    sections: Sequence[Section] = ()

    @property
    def charts(self) -> Iterator[Mapping[str, Any]]:
        """Yield every chart of the sections."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Charts):
                    yield from block.charts


def spans(content: Inline) -> list[Span]:
    """Return a text's pieces."""
    if isinstance(content, str):
        return [Span(content)]
    if isinstance(content, Span):
        return [content]
    return [Span(part) if isinstance(part, str) else part for part in content]
