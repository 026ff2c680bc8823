"""What became of the job's settings at the backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.report.document import Block, Column, Details, Inline, KeyValues, Section, Span, Style, Table, Text
from llmtune.report.format import one_line
from llmtune.report.schema import ReceiptRow, Report

#: How the words for what became of a setting are coloured.
SUPPORT_STYLES: dict[str, Style] = {"converted": "accent", "unsupported": "doubt", "invalid": "bad"}

_COLUMNS = (
    Column("field", "word"),
    Column("asked"),
    Column("became", "word"),
    Column("used"),
    Column("sent as"),
    Column("why", "reason"),
)


def settings(report: Report) -> Section:
    """Return the section with every field of the job: what was asked, what was sent, and why."""
    requested = [row for row in report.receipt if row.requested is not None and row.support != "inherent"]
    unset = [row for row in report.receipt if row not in requested]
    blocks: list[Block] = [_table("Settings of the job", requested)] if requested else []
    if unset:
        unset_table = _table("Settings left to the backend", unset)
        blocks.append(Details(f"{len(unset)} settings left to the backend", [unset_table]))
    title = "What became of the settings"
    return Section("receipt", title, blocks, short="Settings", brief=_brief(report, requested))


def _table(caption: str, rows: Sequence[ReceiptRow]) -> Table:
    cells: list[list[Inline]] = [
        [
            Span(row.field, "code"),
            _value(row.requested),
            Span(row.support.replace("_", " "), SUPPORT_STYLES.get(row.support, "")),
            _value(row.effective),
            Span(row.wire, "code") if row.wire else "",
            Span(row.rule or row.reason or "", note=row.source or ""),
        ]
        for row in rows
    ]
    return Table(caption, _COLUMNS, cells)


def _value(value: Any) -> Inline:
    if value is None:
        return ""
    return Span(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value), "code")


def _brief(report: Report, requested: Sequence[ReceiptRow]) -> list[Block]:
    """Return the settings in the width of a terminal: those that were sent as they are in one line."""
    plain = [row for row in requested if row.support == "sent" and "." not in row.field]
    pairs: list[tuple[str, Inline]] = []
    if plain:
        pairs.append(("sent", ", ".join(f"{row.field}={_short(row.requested)}" for row in plain)))
    for support in SUPPORT_STYLES:
        for row in requested:
            if row.support == support:
                used = f" \u2192 {_short(row.effective)}" if support == "converted" else ""
                reason = (row.rule if support == "converted" else row.reason) or "no reason given"
                pairs.append((support, f"{row.field}={_short(row.requested)}{used}: {one_line(reason, 300)}"))
    supports = [row.support for row in report.receipt]
    counts = {support: supports.count(support) for support in ("inherent", "default", "not_applicable")}
    unset = ", ".join(f"{amount} {support.replace('_', ' ')}" for support, amount in counts.items() if amount)
    return [
        *([KeyValues(pairs)] if pairs else []),
        *([Text(f"the other fields: {unset}", "dim")] if unset else []),
    ]


def _short(value: Any) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, dict) else str(value), 60)
