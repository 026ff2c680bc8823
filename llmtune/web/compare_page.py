"""Runs side by side: their numbers, their curves in one chart, and their settings where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.errors import RunNotFound
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.cells import DASH, amount_cell, figure_cell
from llmtune.report.document import Block, Charts, Column, Document, Inline, Section, Span, Table, Text
from llmtune.report.format import count, metric_name, money, number, seconds
from llmtune.report.html import page
from llmtune.report.html.charts import overlay_charts
from llmtune.report.schema import Report
from llmtune.runs.store.store import Store
from llmtune.web.run_page import load_report

#: Most runs in one comparison: nobody can tell more colours apart.
MAX_RUNS = 8


def render(store: Store, run_ids: Sequence[str]) -> str:
    """Return the page that compares the runs; one that is missing is reported on it."""
    reports: list[Report] = []
    missing: list[Text] = []
    for run_id in dict.fromkeys(run_ids):
        try:
            reports.append(load_report(store, store.resolve(run_id)))
        except RunNotFound as error:
            missing.append(Text(error.message, "bad"))
    amount = count(len(reports), "run")
    if len(reports) < 2 or len(reports) > MAX_RUNS:
        hint = Text(f"Tick two to {MAX_RUNS} runs in the list; {amount} came.")
        document = Document(title="llmtune: compare", sections=[Section("runs", "Nothing to compare", [hint])])
        return page.render(document, home="/", connect=True)
    charts = overlay_charts([(name, report.series) for name, report in zip(name_runs(reports), reports, strict=True)])
    document = Document(
        title=" against ".join(name_runs(reports)),
        heading=f"{amount} side by side",
        remarks=missing,
        sections=[
            Section("runs", "Runs", [_list_runs(reports)]),
            Section("curves", "Curves", [Charts(charts)] if charts else ()),
            Section("settings", "Settings that differ", [_list_settings(reports)], short="Settings"),
        ],
    )
    return page.render(document, home="/", connect=True)


def name_runs(reports: Sequence[Report]) -> list[str]:
    """Name each run by its job, with the run's id where several have the same job name."""
    job_names = [report.identity.job_name for report in reports]
    return [
        name if job_names.count(name) == 1 else f"{name} {report.identity.run_id[:6]}"
        for name, report in zip(job_names, reports, strict=True)
    ]


def _list_runs(reports: Sequence[Report]) -> Block:
    metrics = list(
        dict.fromkeys(
            metric.name
            for report in reports
            if isinstance(report.evaluation, EvaluationResult) and (tuned := report.evaluation.system("tuned"))
            for metric in tuned.metrics
        )
    )
    headings = [*map(metric_name, metrics), "training loss", "validation loss", "cost", "training time"]
    rows: list[list[Inline]] = []
    for colour, (name, report) in enumerate(zip(name_runs(reports), reports, strict=True)):
        identity = report.identity
        tuned = report.evaluation.system("tuned") if isinstance(report.evaluation, EvaluationResult) else None
        rows.append(
            [
                Span(name, href=f"/runs/{identity.run_id}", colour=colour),
                *(figure_cell(tuned.get(metric) if tuned is not None else None) for metric in metrics),
                *(_last_point(report, series) for series in ("train/loss", "validation/loss")),
                _cost(report),
                amount_cell(report.timing.training, seconds),
                identity.provider,
                identity.model,
                Span(identity.state.value, "state", value=identity.state.value),
            ]
        )
    numbers = [Column(heading, "number") for heading in headings]
    columns = [Column("run", "label"), *numbers, Column("backend"), Column("model", "label"), Column("state")]
    return Table("Runs", columns, rows, titled=False)


def _last_point(report: Report, name: str) -> Span:
    point = report.final.get(name)
    if point is None or isinstance(point, NotReported):
        return Span(DASH, title=str(point or "not reported"))
    return Span(number(point.value), note=f"at {point.step}", value=point.value)


def _cost(report: Report) -> Span:
    cost = report.cost
    for kind, amount in (("billed", cost.billed), ("estimated", cost.estimated)):
        if not isinstance(amount, NotReported):
            return Span(money(amount, cost.currency), note=kind, value=amount)
    return Span(DASH, title=str(cost.estimated))


def _list_settings(reports: Sequence[Report]) -> Block:
    fields: dict[str, list[str]] = {}
    for index, report in enumerate(reports):
        for row in report.receipt:
            fields.setdefault(row.field, [""] * len(reports))[index] = _format_setting(row.effective, row.support)
        for name, value in (("dataset", report.data.sha256 or report.data.source), ("model", report.identity.model)):
            fields.setdefault(name, [""] * len(reports))[index] = str(value)[:24]
    differing: list[list[Inline]] = [
        [Span(field, "code"), *values] for field, values in fields.items() if len(set(values)) > 1
    ]
    if not differing:
        return Text("None: the same job, the same settings.", "hint")
    columns = [Column("field"), *(Column(name) for name in name_runs(reports))]
    return Table("Settings that differ", columns, differing, titled=False)


def _format_setting(value: Any, support: str) -> str:
    if value is None:
        return f"({support.replace('_', ' ')})"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
