"""The report of a run, and how it is shown: terminal, Markdown, JSON, HTML, pandas."""

from __future__ import annotations

from llmtune.report.builder import build_report, receipt_rows
from llmtune.report.schema import (
    SCHEMA_VERSION,
    Check,
    Cost,
    DataSection,
    Environment,
    Identity,
    ReceiptRow,
    Report,
    Timing,
    schema,
)

__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "Cost",
    "DataSection",
    "Environment",
    "Identity",
    "ReceiptRow",
    "Report",
    "Timing",
    "build_report",
    "receipt_rows",
    "schema",
]
