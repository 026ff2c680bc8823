"""The HTML page of a rescue: the old model against the new one, and what could not be carried over."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.html.elements import Child, el
from llmtune.report.html.evaluation import by_label, confusion, held_out, worst
from llmtune.report.html.page import Section, facts_list, page, table
from llmtune.rescues.results import RescueReport
from llmtune.rescues.text import golden_set_sentence, leftover_lines, verdict


def render(report: RescueReport) -> str:
    """Render a rescue as one HTML page."""
    name = f"{report.source.model}, rescued"
    top = el(
        "header", el("h1", name), el("p", verdict(report), class_=f"verdict {_verdict_class(report)}"), _caution(report)
    )
    return page(name, _sections(report), header=top)


def _verdict_class(report: RescueReport) -> str:
    comparison = None if isinstance(report.labels, NotReported) else report.labels.comparison(a="old", b="new")
    return {"better": "good", "worse": "bad", "not separable": "doubt"}.get(
        comparison.verdict if comparison else "", ""
    )


def _caution(report: RescueReport) -> Markup | None:
    if not report.source.seen_in_training:
        return None
    says = (
        "The old model was trained on the rows it is judged by (no others were available), the new one was not: the old"
        " one's figures flatter it."
    )
    return el("p", says, class_="doubt")


def _sections(report: RescueReport) -> Iterator[Section]:
    yield Section("models", "Old and new", _models(report))
    yield _judged(report.labels, "labels-old-new", "Old against new, by the reference answers")
    if isinstance(report.labels, EvaluationResult):
        yield by_label(report.labels, before="old", after="new")
        yield confusion(report.labels, after="new")
        yield worst(report.labels, after="new")
    yield _judged(report.agreement, "agreement", "The new model, by the old model's answers")
    rows: list[list[Child]] = [
        [el("td", el("code", file.path)), f"{file.rows:,}", file.came_from, el("td", el("code", file.sha256[:12]))]
        for file in report.source.files.values()
    ]
    data_table = table(["file", "rows", "came from", "sha256"], rows, numbers=(1,), caption="Data", titled=False)
    yield Section("data", "Data", data_table if rows else Markup(""))
    lines = [el("li", line) for line in leftover_lines(report)]
    yield Section(
        "left", "What could not be carried over", el("ul", lines) if lines else Markup(""), short="Left behind"
    )


def _judged(result: EvaluationResult | NotReported, id: str, title: str) -> Section:
    if isinstance(result, NotReported):
        return Section(id, title, el("p", str(result), class_="dim"))
    return held_out(result, before="old", after="new", id=id, title=title)


def _models(report: RescueReport) -> Markup:
    source = report.source
    return facts_list(
        [
            ("old model", [el("code", source.model), f" at {source.provider}, from ", el("code", source.base)]),
            ("new model", [f"run {report.run} at {report.provider}, from ", el("code", report.model)]),
            ("job", el("code", source.job) if source.job else "\u2013"),
            ("cost of the new run", report.cost),
            ("golden set", golden_set_sentence(report)),
        ]
    )
