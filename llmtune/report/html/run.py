"""The page of one run: the headline, the results, and everything behind them, in the order people ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import difference, metric_name, money, number, seconds, spread
from llmtune.report.html import calibration, evaluation
from llmtune.report.html.charts import chart_data, chart_figures, series_table
from llmtune.report.html.elements import Child, el, join, link
from llmtune.report.html.page import Section, code_block, details, facts_list, page, table
from llmtune.report.schema import Cost, Report
from llmtune.report.summary import summary_rows
from llmtune.report.verification import difference_lines, figure_lines, headline


def render(report: Report) -> str:
    """Return the report as one HTML file."""
    charts = chart_data(report.series)
    title = f"{report.identity.job_name} \u00b7 {report.identity.run_id}"
    return page(title, sections(report, charts), header=header(report), data={"charts": charts})


def sections(report: Report, charts: list[dict[str, Any]]) -> Iterator[Section]:
    """Yield every section of a run's page; `charts` are those of `chart_data`."""
    result = report.evaluation
    if isinstance(result, EvaluationResult):
        yield evaluation.held_out(result)
    elif report.identity.state.final:
        yield Section("evaluation", "Held-out rows", el("p", str(result), class_="dim"))
    if not report.identity.state.final:  # sections that would soon be out of date are left out
        absent = {name: reason for name, reason in report.series.items() if isinstance(reason, NotReported)}
        yield Section("training", "Training", chart_figures(charts) + (series_table(absent) if absent else ""))
        yield _receipt(report)
        yield _money(report)
        yield _facts(report)
        yield _warnings(report)
        return
    yield Section("training", "Training", chart_figures(charts) + series_table(report.series))
    yield _diagnosis(report)
    yield _servers(report)
    if isinstance(result, EvaluationResult):
        yield calibration.confidence(result)
        yield evaluation.by_label(result)
        yield evaluation.confusion(result)
        yield evaluation.worst(result)
    yield _receipt(report)
    yield _money(report)
    yield _timing(report)
    yield _facts(report)
    yield _warnings(report)
    yield _reproduce(report)


# --- the top ---------------------------------------------------------------------------------------------------------
def header(report: Report) -> Markup:
    """Return name, state, headline, and the numbers that people look for first."""
    identity = report.identity
    who = identity.provider if identity.provider == identity.kind else f"{identity.provider} ({identity.kind})"
    line = [who, identity.model, f"{identity.method}/{identity.adapter}", identity.run_id]
    if identity.created is not None:
        line.append(f"{datetime.fromtimestamp(identity.created, UTC):%Y-%m-%d %H:%M} UTC")
    parts: list[Child] = [el("span", text) for text in line]
    if identity.url:
        parts.append(link(identity.url, "at the backend"))
    return el(
        "header",
        el("h1", identity.job_name, " ", state_mark(identity.state.value)),
        el("p", parts, class_="line"),
        el("p", report.headline, class_=f"verdict {_state_class(report)}", id="headline"),
        el("div", [el("div", el("b", value), el("span", name)) for name, value in _tiles(report)], class_="tiles"),
    )


def state_mark(state: str) -> Markup:
    """Return a state as a small mark."""
    return el("span", state, class_=f"state {state}", data_live="state")


def _state_class(report: Report) -> str:
    if report.identity.state.final and not report.succeeded:
        return "bad"
    result = report.evaluation
    comparison = result.comparison() if isinstance(result, EvaluationResult) else None
    return {"better": "good", "worse": "bad", "not separable": "doubt"}.get(
        comparison.verdict if comparison else "", ""
    )


def _tiles(report: Report) -> Iterator[tuple[Child, Child]]:
    result = report.evaluation
    if isinstance(result, EvaluationResult):
        comparison = result.comparison()
        tuned = result.system("tuned")
        metric = tuned.get(result.main) if tuned is not None else None
        if metric is not None:
            yield (
                f"{metric_name(metric.name)}, {spread(metric.interval, metric.unit)}",
                number(metric.value, metric.unit),
            )
        if comparison is not None and metric is not None:
            moved, _, unit = difference(comparison.difference, metric.unit).partition(" ")
            yield f"{unit} against base, {spread(comparison.interval, metric.unit)}".lstrip(), moved
    for name, title in (("train/loss", "training loss"), ("validation/loss", "validation loss")):
        point = report.final.get(name)
        if point is not None and not isinstance(point, NotReported):
            label = el("span", f"{title} at step {point.step}", data_live=f"{name} step", data_title=title)
            yield label, el("span", number(point.value), data_live=name)
    yield _cost(report.cost)
    if report.identity.state.final and not isinstance(report.timing.training, NotReported):
        yield "training", seconds(report.timing.training)


def _cost(cost: Cost) -> tuple[Child, Child]:
    if not isinstance(cost.billed, NotReported):
        return "billed", money(cost.billed, cost.currency)
    if not isinstance(cost.estimated, NotReported):
        return "estimated", money(cost.estimated, cost.currency)
    return "cost", "not known"


# --- what is behind it -----------------------------------------------------------------------------------------------
def _diagnosis(report: Report) -> Section:
    diagnosis = report.diagnosis
    if diagnosis.verdict == "unclear" and not report.succeeded:
        return Section("diagnosis", "Diagnosis", Markup(""))
    kind = {"good fit": "good", "overfit": "doubt", "underfit": "doubt", "diverged": "bad"}.get(diagnosis.verdict)
    lines = [*diagnosis.evidence, *(spike.sentence() for spike in diagnosis.spikes)]
    checks = [
        el(
            "li",
            el("b", "ok" if check.passed else "FAILED", class_="good" if check.passed else "bad"),
            f" {check.name}: {check.says}",
        )
        for check in report.checks
    ]
    body = join(
        [
            el("p", diagnosis.sentence, class_=f"said {kind or ''}".strip()),
            el("ul", [el("li", line) for line in lines]) if lines else None,
            el("p", "Worth trying:") + el("ul", [el("li", advice) for advice in diagnosis.advice])
            if diagnosis.advice
            else None,
            el("ul", checks, class_="checks") if checks else None,
        ]
    )
    return Section("diagnosis", "Diagnosis", body)


def _servers(report: Report) -> Section:
    parts: list[Markup] = []
    for verification in report.verifications:
        kind = {"same": "good", "drift": "bad"}.get(verification.verdict, "doubt")
        lines = [*difference_lines(verification), *figure_lines(verification)]
        parts.append(el("p", headline(verification), class_=f"said {kind}"))
        parts.append(el("ul", [el("li", line) for line in lines]))
    return Section("servers", "Servers", join(parts))


def _receipt(report: Report) -> Section:
    requested = [row for row in report.receipt if row.requested is not None and row.support != "inherent"]
    unset = [row for row in report.receipt if row not in requested]

    def lines(rows: list[Any]) -> list[list[Child]]:
        return [
            [
                el("td", el("code", row.field)),
                _value(row.requested),
                el("td", row.support.replace("_", " "), class_=f"word {row.support}"),
                _value(row.effective),
                el("td", el("code", row.wire) if row.wire else None),
                el("td", row.rule or row.reason, el("small", f" {row.source}") if row.source else None, class_="why"),
            ]
            for row in rows
        ]

    headings = ["field", "asked", "became", "used", "sent as", "why"]
    parts: list[Child] = []
    if requested:
        parts.append(table(headings, lines(requested), caption="Settings of the job"))
    if unset:
        unset_table = table(headings, lines(unset), caption="Settings left to the backend")
        parts.append(details(f"{len(unset)} settings left to the backend", unset_table))
    return Section("receipt", "What became of the settings", join(parts), short="Settings")


def _value(value: Any) -> Markup:
    if value is None:
        return el("td")
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return el("td", el("code", text))


def _money(report: Report) -> Section:
    cost = report.cost
    pairs: list[tuple[str, Child]] = [
        ("estimated", _format_reported(cost.estimated, lambda value: money(value, cost.currency))),
        ("billed", _format_reported(cost.billed, lambda value: money(value, cost.currency))),
        ("computed from billed tokens", _format_reported(cost.computed, lambda value: money(value, cost.currency))),
        ("tokens billed", _format_reported(cost.billed_tokens, lambda value: f"{value:,}")),
    ]
    if cost.difference:
        pairs.append(("difference", cost.difference))
    if cost.formula:
        pairs.append(("how", cost.formula))
    if cost.source:
        pairs.append(("source", cost.source))
    if cost.checked is not None:
        pairs.append(("prices of", cost.checked.isoformat()))
    return Section("cost", "Cost", facts_list(pairs))


def _timing(report: Report) -> Section:
    timing = report.timing
    pairs = [
        (name, _format_reported(value, seconds))
        for name, value in (
            ("queued", timing.queued),
            ("training", timing.training),
            ("evaluating", timing.evaluating),
            ("in all", timing.total),
        )
    ]
    pairs.append(("speed", _format_reported(timing.tokens_per_second, lambda value: f"{value:,.0f} tokens/s")))
    return Section("timing", "Time", facts_list(pairs))


def _format_reported(value: Any, format_value: Any) -> Child:
    return el("span", str(value), class_="dim") if isinstance(value, NotReported) else format_value(value)


def _facts(report: Report) -> Section:
    identity, here, data = report.identity, report.environment, report.data
    tuned = identity.tuned_model
    pairs: list[tuple[str, Child]] = [
        ("base model", el("code", identity.model)),
        ("tuned model", el("span", str(tuned), class_="dim") if isinstance(tuned, NotReported) else el("code", tuned)),
    ]
    pairs += [(name, value) for name, value in summary_rows(report) if name not in ("time", "cost", "machine")]
    pairs += [("device", _format_reported(here.device, str))]
    pairs += [
        (name, value)
        for name, value in (
            ("host", here.host),
            ("platform", here.platform),
            ("python", here.python),
            ("llmtune", here.llmtune),
        )
        if value
    ]
    pairs += [(name, version) for name, version in here.versions.items()]
    if data.sha256:
        pairs.append(("dataset", el("code", f"sha256 {data.sha256}")))
    foldouts = [
        details(title, el("ul", [el("li", line) for line in lines]))
        for title, lines in (
            ("What the dataset check found", data.findings),
            ("What the row format could not carry", data.lossy),
        )
        if lines
    ]
    return Section("facts", "Data and environment", facts_list(pairs) + join(foldouts), short="Data")


def _warnings(report: Report) -> Section:
    lines = [el("li", warning) for warning in report.warnings]
    return Section("warnings", "Warnings", el("ul", lines) if lines else Markup(""))


def _reproduce(report: Report) -> Section:
    parts: list[Child] = []
    if report.reproduce:
        parts += [el("p", "Run the same job again:"), code_block(report.reproduce, "the command")]
    if isinstance(report.snippet, str) and report.snippet:
        parts += [el("p", "Call the tuned model:"), code_block(report.snippet, "the code")]
    return Section("again", "Again, and onwards", join(parts), short="Again")
