"""What a notebook shows of a job, a plan and a report: a title, a sentence or two, and a small table.

Fragments without style and script of their own: a notebook brings its own looks, and a saved one stays small. `el`
escapes every text, masks its secrets and writes out its control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import count, measured, metric_name, money, number, one_line, seconds
from llmtune.report.html.elements import Child, el

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.provider.receipt import FieldReceipt, Receipt
    from llmtune.report.schema import Report

#: Longest text of one cell, in characters, and most sentences and warnings of one table.
LONGEST = 200
MOST_LINES = 6


def card(title: str, sentences: Iterable[str], *parts: Child, warnings: Iterable[str] = ()) -> Markup:
    """Return a fragment: a title, sentences, parts such as a `grid`, and warnings."""
    lines, notes = list(sentences), list(warnings)
    return el(
        "div",
        el("p", el("b", one_line(title, LONGEST))),
        [el("p", one_line(line, 2 * LONGEST)) for line in lines[:MOST_LINES]],
        parts,
        el("ul", [el("li", one_line(note, LONGEST)) for note in notes[:MOST_LINES]]) if notes else None,
        el("p", f"{count(len(notes) - MOST_LINES, 'more warning')}") if len(notes) > MOST_LINES else None,
    )


def grid(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """Return a table of texts."""
    head = el("thead", el("tr", [el("th", _text(heading)) for heading in headings]))
    return el("table", head, el("tbody", [el("tr", [el("td", _text(cell)) for cell in row]) for row in rows]))


def facts(pairs: Iterable[tuple[str, Any]]) -> Markup:
    """Return a table of names and values; a pair without a value is left out."""
    rows = [el("tr", el("th", name), el("td", _text(value))) for name, value in pairs if value not in (None, "")]
    return el("table", el("tbody", rows))


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


def show_job(job: TuningJob) -> Markup:
    """Return the fields of a job that it sets."""
    return card(f"TuningJob {job.name}", (), facts((name, value) for name, value in job.to_dict().items()))


def show_receipt(receipt: Receipt) -> Markup:
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
    fields = [row for row in receipt.fields if row.is_set and row.support != "default"]
    table = grid(("field", "job", "", "used"), [_field_cells(row) for row in fields]) if fields else None
    title = f"{receipt.job_name} at {target.provider}: {target.model}"
    return card(title, [verdict], facts(pairs), table, warnings=receipt.warnings)


def _field_cells(row: FieldReceipt) -> tuple[Any, ...]:
    used = row.reason if row.support == "unsupported" else row.rule or row.effective
    return row.field, row.requested, row.support.replace("_", " "), used


def show_report(report: Report) -> Markup:
    """Return the headline of a report and the figures that people look for first."""
    identity = report.identity
    pairs: list[tuple[str, Any]] = [
        ("run", identity.run_id),
        ("state", identity.state.value),
        ("backend", f"{identity.provider}, {identity.model} ({identity.method}, {identity.adapter})"),
        ("tuned model", identity.tuned_model),
    ]
    result = report.evaluation
    if isinstance(result, EvaluationResult):
        for name in result.systems:
            metric = system.get(result.main) if (system := result.system(name)) is not None else None
            if metric is not None:
                pairs.append((f"{metric_name(metric.name)}, {name}", measured(metric)))
    for name, title in (("train/loss", "training loss"), ("validation/loss", "validation loss")):
        point = report.final.get(name)
        if point is not None and not isinstance(point, NotReported):
            pairs.append((title, f"{number(point.value)} at step {point.step}"))
    for kind, amount in (("billed", report.cost.billed), ("estimated", report.cost.estimated)):
        if not isinstance(amount, NotReported):
            pairs.append((f"cost, {kind}", money(amount, report.cost.currency)))
    if not isinstance(report.timing.training, NotReported):
        pairs.append(("training time", seconds(report.timing.training)))
    sentences = [report.headline] if report.error is None else [report.headline, report.error]
    return card(identity.job_name, sentences, facts(pairs), warnings=report.warnings)
