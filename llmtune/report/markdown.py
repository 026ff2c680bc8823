"""A document as GitHub-flavoured Markdown: for a pull request, a wiki or a mail.

Every text that comes from a job, a dataset or a model is escaped: it can neither break a table nor become a link, an
image or a mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llmtune.report import terminal_chart
from llmtune.report.document import (
    Bars,
    Block,
    Cards,
    Charts,
    Code,
    Details,
    Document,
    Inline,
    KeyValues,
    List,
    Span,
    Table,
    Text,
    spans,
)
from llmtune.report.format import escape_control_chars, one_line

_MARKS = {"succeeded": "\u2705", "failed": "\u274c", "lost": "\u2753"}

#: Most cards and rows of one table; the JSON report holds all.
CARDS_SHOWN = 5
ROWS_SHOWN = 40

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])|^([-+]|\d+(?=[.)]))")
_SPECIAL_WITHIN = re.compile(r"([\\`*_\[\]<>#|~&$])")


def plain(text: str, limit: int = 1000, *, within: bool = False) -> str:
    """Escape a text to one line of plain Markdown: no table, link, image, tag, formula or mention.

    A text that stands `within` a line, as in a cell of a table, cannot become an item of a list.
    """
    flat = (_SPECIAL_WITHIN if within else _SPECIAL).sub(_escaped, one_line(text, limit))
    flat = re.sub(r"(?i)\b(https?|www)(?=[:.])", lambda match: f"{match.group()}\u200b", flat)
    return flat.replace("@", "@\u200b").replace("\n", " ")


def _escaped(match: re.Match[str]) -> str:
    return f"{match.group()}\\" if match.group().isdigit() else f"\\{match.group()}"


def code(text: str, limit: int = 200) -> str:
    """Format a text as inline code, whatever backticks it holds; safe in a table."""
    flat = one_line(text, limit).replace("|", "\u2502")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") or not flat else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def block(text: str, language: str = "") -> str:
    """Format a text as a fenced block that no backtick in it can close."""
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}{language}\n{escape_control_chars(text).rstrip()}\n{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Format a table; `right` are the columns aligned right. Cells must be escaped already."""
    rule = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [headings, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(document: Document) -> str:
    """Return a document as Markdown."""
    return "\n\n".join(part for part in _parts(document) if part) + "\n"


def _parts(document: Document) -> Iterator[str]:
    yield f"# {plain(document.heading)}"
    mark = _MARKS.get(document.state, "\u23f8\ufe0f")
    if document.verdict.text:
        yield f"{f'{mark} ' if document.state else ''}**{plain(document.verdict.text)}**"
    yield " \u00b7 ".join(_inline(part) for part in (*document.line, *document.aside))
    yield from map(_block, document.remarks)
    for section in document.sections:
        body = _blocks(section.blocks)
        if body:
            yield _fold(section.title, body) if section.folded else f"## {plain(section.title)}\n\n{body}"


def _blocks(blocks: Sequence[Block]) -> str:
    return "\n\n".join(filter(None, map(_block, blocks)))


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{plain(summary)}</summary>\n\n{body}\n\n</details>"


def _block(part: Block) -> str:
    match part:
        case Text():
            return _inline(part.content)
        case List():
            return "\n".join(f"- {_inline(line)}" for line in part.lines)
        case KeyValues():
            return table(["", ""], [[_cell(name), _cell(value)] for name, value in part.pairs])
        case Table():
            return _table(part)
        case Charts():
            return _losses(part)
        case Bars():
            drawn = terminal_chart.draw_bars([(name.text, metric) for name, metric in part.bars], width=80)
            return block("\n".join("".join(line) for line in drawn))
        case Cards():
            return _cards(part)
        case Code():
            return block(part.text, part.language)
        case Details():
            body = _blocks(part.blocks)
            return _fold(part.summary, body) if body else ""
        case _:  # a drawing: what it shows stands in a table beside it
            return ""


def _inline(content: Inline) -> str:
    return "".join(_span(span, within=index > 0) for index, span in enumerate(spans(content)))


def _span(span: Span, gap: str = " ", *, within: bool = True) -> str:
    strong = span.style == "strong"
    text = code(span.text) if span.style == "code" else plain(span.text, within=within or strong)
    if strong and text:
        text = f"**{text}**"
    # The spaces at the ends of a piece separate it from the next.
    start, end = " " * span.text.startswith(" "), " " * span.text.endswith(" ")
    return f"{start}{text}{end}" + (f"{gap}{plain(span.note, within=True)}" if span.note else "")


def _cell(content: Inline) -> str:
    return "".join(_span(span, "<br>") for span in spans(content))


def _table(part: Table) -> str:
    shown = part.shown_in("page")
    rows = [[_cell(cell) for cell in row] for row in shown.rows[:ROWS_SHOWN]]
    right = [index for index, column in enumerate(shown.columns) if column.kind == "number"]
    hidden = len(shown.rows) - len(rows)
    more = f"\n\n{hidden:,} more rows are in the JSON report." if hidden > 0 else ""
    return table([plain(column.heading) for column in shown.columns], rows, right) + more


def _losses(part: Charts) -> str:
    lines = terminal_chart.draw_losses(*part.losses, width=72)
    return block("\n".join("".join(text for text, _ in line).rstrip() for line in lines)) if lines else ""


def _cards(part: Cards) -> str:
    names = list(dict.fromkeys(name for card in part.cards for name, _ in card.pairs))
    rows = [
        [
            plain(card.title),
            *(plain("".join(span.text for span in spans(dict(card.pairs).get(name, ""))), 160) for name in names),
        ]
        for card in part.cards[:CARDS_SHOWN]
    ]
    return table(["", *map(plain, names)], rows)
