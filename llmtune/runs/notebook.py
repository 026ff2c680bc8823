"""What a notebook shows of a run: its state and how far it is; once it has ended, its report."""

from __future__ import annotations

from datetime import UTC, datetime

from llmtune.errors import LlmtuneError
from llmtune.report.html.notebook import card
from llmtune.runs.figures import Figures
from llmtune.runs.run import Run


def show_run(run: Run) -> str:
    """Return a small table on a run; where its record cannot be read, why."""
    try:
        record = run.record
        figures = Figures()
        figures.apply(record, run.metrics())
    except LlmtuneError as error:
        return card(f"Run {run.id}", [error.message])
    pairs = [
        ("run", record.id),
        ("state", "  ".join(figures.texts())),
        ("backend", f"{record.provider}, {record.model}"),
        ("started", f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%d %H:%M} UTC"),
        ("error", record.error),
    ]
    return card(record.name, pairs=pairs, warnings=record.warnings)
