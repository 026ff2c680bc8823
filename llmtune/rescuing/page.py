"""A rescue as one HTML file, beside its Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from llmtune.evaluation.model import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.html import Section, page
from llmtune.report.html.elements import Child, el
from llmtune.report.html.page import facts_list, sorted_by, table
from llmtune.report.words import metric_name, number, spread
from llmtune.rescuing.model import RescueReport
from llmtune.rescuing.words import golden_words, left_behind, verdict


def render(report: RescueReport) -> str:
    """The page."""
    source = report.source
    header = el(
        "header",
        el("h1", source.model),
        el("p", el("span", f"from {source.provider}"), el("span", f"to {report.provider}"), class_="line"),
        el("p", verdict(report), class_="verdict", id="headline"),
    )
    return page(f"{source.model} \u00b7 rescued", _sections(report), header=header)


def _sections(report: RescueReport) -> Iterator[Section]:
    source = report.source
    facts: list[tuple[str, Child]] = [
        ("old model", f"{source.model} at {source.provider}, from {source.base}"),
        ("new model", f"run {report.run} at {report.provider}, from {report.model}"),
        ("job", source.job or "\u2013"),
        ("golden set", golden_words(report)),
        ("cost of the new run", report.cost),
    ]
    yield Section("models", "Models", facts_list(facts))
    yield Section("labels", "Old against new, by the reference answers", _scores(report.labels), short="By reference")
    yield Section("answers", "The new model, by the old one's answers", _scores(report.agreement), short="By old")
    yield Section("data", "Data", _files(report))
    lines = [*left_behind(report)]
    yield Section(
        "left", "What did not come along", el("ul", [el("li", each) for each in lines]) if lines else Markup("")
    )


def _scores(result: EvaluationResult | NotReported) -> Markup:
    if isinstance(result, NotReported):
        return el("p", str(result), class_="dim")
    rows: list[list[Child]] = []
    for name, system in result.systems.items():
        if isinstance(system, NotReported):
            rows.append([name, "", system.reason, ""])
            continue
        rows += [
            [
                name,
                metric_name(each.name),
                sorted_by(each.value, number(each.value, each.unit), class_="n"),
                spread(each.interval, each.unit),
            ]
            for each in system.metrics
        ]
    level = f"{100 * result.level:.0f}% interval"
    return table(("", "metric", "value", level), rows, numbers=(2,), caption="Scores", titled=False)


def _files(report: RescueReport) -> Markup:
    rows: list[list[Child]] = [
        [file.path, str(file.rows), file.came_from, file.sha256[:12]] for file in report.source.files.values()
    ]
    return table(("file", "rows", "came from", "sha256"), rows, numbers=(1,), caption="Files", titled=False)
