"""The document of the differences between two runs."""

from __future__ import annotations

from typing import Any

from llmtune.report.cells import VERDICT_STYLES, bullets, change_cell
from llmtune.report.document import Column, Document, Inline, Section, Span, Table
from llmtune.report.format import metric_name, number, one_line, p_words
from llmtune.report.gate import Change, DiffResult


def document(result: DiffResult) -> Document:
    """Return the document of a comparison of two runs."""
    sections = [
        _changes("settings", "Settings", result, result.settings),
        _changes("facts", "Facts", result, result.facts),
        _results(result),
    ]
    differing = any(sections)
    return Document(
        title=f"{result.run_a} and {result.run_b}",
        heading=f"{result.run_a} and {result.run_b}",
        verdict=Span("" if differing else "the two runs do not differ"),
        sections=[*sections, Section("notes", "Notes", bullets(result.notes), brief=bullets(result.notes, "dim"))],
    )


def _changes(id: str, title: str, result: DiffResult, changes: tuple[Change, ...]) -> Section:
    columns = (Column(""), Column(result.run_a, "label"), Column(result.run_b, "label"))
    rows = [[change.field, _format_value(change.a), _format_value(change.b)] for change in changes]
    return Section(id, title, [Table(title, columns, rows, titled=False)] if rows else (), brief_title=title)


def _results(result: DiffResult) -> Section:
    rows: list[list[Inline]] = []
    for comparison in result.comparisons:
        unit = result.units.get(comparison.metric, "")
        test = "" if comparison.p_value is None else p_words(comparison.p_value)
        rows.append(
            [
                metric_name(comparison.metric),
                number(comparison.a, unit),
                number(comparison.b, unit),
                change_cell(comparison, unit),
                Span(comparison.verdict, VERDICT_STYLES[comparison.verdict], test),
            ]
        )
    columns = (
        Column("metric"),
        *(Column(heading, "number") for heading in (result.run_a, result.run_b, "difference")),
        Column("verdict"),
    )
    how = "the same held-out rows, compared one by one" if result.paired else "different held-out rows"
    table = Table("Results", columns, rows, titled=False)
    return Section("results", "Results", [table] if rows else (), brief_title=f"Results on {how}")


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else one_line(str(value), 48)
