"""Runs side by side: their numbers, their curves in one chart, and their settings where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from llmtune.errors import RunNotFound
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import count, metric_name, money, number, seconds, spread
from llmtune.report.html.charts import chart_figures, overlay_charts
from llmtune.report.html.elements import Child, el
from llmtune.report.html.page import Section, page, sorted_by, table
from llmtune.report.html.run import state_mark
from llmtune.report.schema import Report
from llmtune.runs.store.store import Store
from llmtune.web.run_page import load_report

#: Most runs in one comparison: nobody can tell more colours apart.
MAX_RUNS = 8


def render(store: Store, run_ids: Sequence[str]) -> str:
    """Return the page that compares the runs; one that is missing is reported on it."""
    reports: list[Report] = []
    missing: list[Child] = []
    for run_id in dict.fromkeys(run_ids):
        try:
            reports.append(load_report(store, store.resolve(run_id)))
        except RunNotFound as error:
            missing.append(el("p", error.message, class_="bad"))
    if len(reports) < 2 or len(reports) > MAX_RUNS:
        hint = f"Tick two to {MAX_RUNS} runs in the list; {count(len(reports), 'run')} came."
        return page("llmtune: compare", [Section("runs", "Nothing to compare", el("p", hint))], home="/", connect=True)
    charts = overlay_charts([(name, report.series) for name, report in zip(name_runs(reports), reports, strict=True)])
    page_sections = [
        Section("runs", "Runs", _render_runs(reports)),
        Section("curves", "Curves", chart_figures(charts)),
        Section("settings", "Settings that differ", _render_settings(reports), short="Settings"),
    ]
    title = " against ".join(name_runs(reports))
    top = el("header", el("h1", f"{count(len(reports), 'run')} side by side"), missing)
    return page(title, page_sections, header=top, data={"charts": charts}, home="/", connect=True)


def name_runs(reports: Sequence[Report]) -> list[str]:
    """Name each run by its job, with the run's id where several have the same job name."""
    job_names = [report.identity.job_name for report in reports]
    return [
        name if job_names.count(name) == 1 else f"{name} {report.identity.run_id[:6]}"
        for name, report in zip(job_names, reports, strict=True)
    ]


def _render_runs(reports: Sequence[Report]) -> Markup:
    metrics = list(
        dict.fromkeys(
            metric.name
            for report in reports
            if isinstance(report.evaluation, EvaluationResult) and (tuned := report.evaluation.system("tuned"))
            for metric in tuned.metrics
        )
    )
    headings = ["run", *map(metric_name, metrics), "training loss", "validation loss", "cost", "training time"]
    numbers = range(1, len(headings))
    headings += ["backend", "model", "state"]
    rows: list[list[Child]] = []
    for colour, (name, report) in enumerate(zip(name_runs(reports), reports, strict=True)):
        identity = report.identity
        link = el("a", name, href=f"/runs/{identity.run_id}")
        rows.append(
            [
                el("td", el("span", "\u25a0 ", class_=f"k{colour}", aria_hidden="true"), link, class_="label"),
                *(_metric_cell(report, metric) for metric in metrics),
                *(_last_point_cell(report, series) for series in ("train/loss", "validation/loss")),
                _cost_cell(report),
                _training_cell(report),
                identity.provider,
                el("td", identity.model, class_="label"),
                sorted_by(identity.state.value, state_mark(identity.state.value)),
            ]
        )
    return table(headings, rows, numbers=numbers, caption="Runs", titled=False)


def _metric_cell(report: Report, name: str) -> Child:
    tuned = report.evaluation.system("tuned") if isinstance(report.evaluation, EvaluationResult) else None
    metric = tuned.get(name) if tuned is not None else None
    if metric is None:
        return "\u2013"
    within = el("small", spread(metric.interval, metric.unit))
    return sorted_by(metric.value, el("b", number(metric.value, metric.unit)), within, class_="n two")


def _last_point_cell(report: Report, name: str) -> Child:
    point = report.final.get(name)
    if point is None or isinstance(point, NotReported):
        return el("td", "\u2013", class_="n", title=str(point or "not reported"))
    return sorted_by(point.value, number(point.value), el("small", f"at {point.step}"), class_="n two")


def _cost_cell(report: Report) -> Child:
    cost = report.cost
    if not isinstance(cost.billed, NotReported):
        return sorted_by(cost.billed, money(cost.billed, cost.currency), el("small", "billed"), class_="n two")
    if not isinstance(cost.estimated, NotReported):
        return sorted_by(cost.estimated, money(cost.estimated, cost.currency), el("small", "estimated"), class_="n two")
    return el("td", "\u2013", class_="n", title=str(cost.estimated))


def _training_cell(report: Report) -> Child:
    spent = report.timing.training
    if isinstance(spent, NotReported):
        return el("td", "\u2013", class_="n", title=str(spent))
    return sorted_by(spent, seconds(spent), class_="n")


def _render_settings(reports: Sequence[Report]) -> Markup:
    fields: dict[str, list[str]] = {}
    for index, report in enumerate(reports):
        for row in report.receipt:
            fields.setdefault(row.field, [""] * len(reports))[index] = _format_setting(row.effective, row.support)
        for name, value in (("dataset", report.data.sha256 or report.data.source), ("model", report.identity.model)):
            fields.setdefault(name, [""] * len(reports))[index] = str(value)[:24]
    differing = [[el("code", field), *values] for field, values in fields.items() if len(set(values)) > 1]
    if not differing:
        return el("p", "None: the same job, the same settings.", class_="hint")
    return table(["field", *name_runs(reports)], differing, caption="Settings that differ", titled=False)


def _format_setting(value: Any, support: str) -> str:
    if value is None:
        return f"({support.replace('_', ' ')})"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
