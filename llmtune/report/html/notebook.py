"""What a notebook shows of a job, a plan and a report: a title, a sentence or two, and a small table.

Fragments without style and script of their own: a notebook brings its own looks, and a saved one stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.report.document import Document, Inline, List, Table, spans
from llmtune.report.format import count, one_line
from llmtune.report.html.page import get_environment

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.provider.receipt import FieldReceipt, Receipt

#: Longest text of one cell, in characters, and most sentences and warnings of one table.
LONGEST = 200
MOST_LINES = 6
#: Rows of a table that are shown.
ROWS_SHOWN = 10


def card(
    title: str,
    sentences: Iterable[str] = (),
    *,
    pairs: Iterable[tuple[str, Any]] = (),
    headings: Sequence[str] = (),
    rows: Iterable[Sequence[Any]] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Return a fragment: a title, sentences, names with values (those without one are left out), a table, warnings."""
    notes = [one_line(note, LONGEST) for note in warnings[:MOST_LINES]]
    if len(warnings) > MOST_LINES:
        notes.append(count(len(warnings) - MOST_LINES, "more warning"))
    return (
        get_environment()
        .get_template("card.html")
        .render(
            title=one_line(title, LONGEST),
            sentences=[one_line(line, 2 * LONGEST) for line in list(sentences)[:MOST_LINES]],
            pairs=[(name, _text(value)) for name, value in pairs if value not in (None, "")],
            headings=[_text(heading) for heading in headings],
            rows=[[_text(cell) for cell in row] for row in rows],
            notes=notes,
        )
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return one_line(", ".join(f"{name}: {_text(inner)}" for name, inner in value.items()), LONGEST)
    if isinstance(value, list | tuple):
        return one_line(", ".join(map(_text, value)), LONGEST)
    return one_line(str(value), LONGEST)


def show_job(job: TuningJob) -> str:
    """Return the fields of a job that it sets."""
    return card(f"TuningJob {job.name}", pairs=job.to_dict().items())


def show_receipt(receipt: Receipt) -> str:
    """Return what a backend does with the fields that are set, what it would cost, and what stands against it."""
    target = receipt.target
    obstacles = receipt.obstacles()
    verdict = (
        f"would not start from here: {'; '.join(obstacles)}" if obstacles else "ready to start; a plan sends nothing"
    )
    data = receipt.data
    rows = ", ".join(f"{amount:,} {role}" for role, amount in data.rows.items() if amount)
    pairs = [
        ("method", f"{target.method}, {target.adapter}"),
        ("data", f"{rows} rows, sent as {data.format}" if rows else None),
        ("cost", receipt.cost.sentence()),
        ("time", receipt.duration.sentence() if receipt.duration is not None else None),
        ("service", receipt.lifecycle.sentence),
    ]
    return card(
        f"{receipt.job_name} at {target.provider}: {target.model}",
        [verdict],
        pairs=pairs,
        headings=("field", "job", "", "used"),
        rows=[_field_cells(row) for row in receipt.fields if row.is_set and row.support != "default"],
        warnings=receipt.warnings,
    )


def _field_cells(row: FieldReceipt) -> tuple[Any, ...]:
    used = row.reason if row.support == "unsupported" else row.rule or row.effective
    return row.field, row.requested, row.support.replace("_", " "), used


def show_document(document: Document) -> str:
    """Return the verdict of a document, and its figures; where it has none, its first table."""
    blocks = [block for section in document.sections for block in section.blocks]
    table = next((block for block in blocks if isinstance(block, Table)), None)
    shown = Table("", (), ()) if table is None or document.tiles else table.shown_in("terminal")
    warnings = [
        _flat(line)
        for section in document.sections
        if section.id == "warnings"
        for block in section.blocks
        if isinstance(block, List)
        for line in block.lines
    ]
    if (hidden := len(shown.rows) - ROWS_SHOWN) > 0:
        warnings.append(f"{hidden:,} more {shown.caption.lower()}: to_markdown() and to_html() list all")
    remarks = [
        line for remark in document.remarks for line in (remark.lines if isinstance(remark, List) else [remark.content])
    ]
    return card(
        document.heading,
        [
            " \u00b7 ".join(filter(None, [document.state, *map(_flat, document.line)])),
            document.verdict.text,
            *map(_flat, remarks),
        ],
        pairs=[(name.text, figure.text) for name, figure in document.tiles],
        headings=[column.heading for column in shown.columns],
        rows=[[_flat(cell) for cell in row] for row in shown.rows[:ROWS_SHOWN]],
        warnings=warnings,
    )


def _flat(content: Inline) -> str:
    return "".join(span.text for span in spans(content))
