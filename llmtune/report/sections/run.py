"""The document of one run: the headline, the results, and everything behind them, in the order people ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.provider.types import RunState
from llmtune.report.cells import VERDICT_STYLES
from llmtune.report.document import Document, Section, Span, Style
from llmtune.report.format import difference, metric_name, money, number, seconds, spread
from llmtune.report.schema import Cost, Report
from llmtune.report.sections import (
    calibration,
    decisions,
    evaluation,
    facts,
    judge,
    panel,
    seeds,
    servers,
    settings,
    training,
)
from llmtune.report.verdicts import is_within_seeds


def _evaluation(report: Report) -> Section | None:
    if isinstance(report.evaluation, NotReported) and not report.identity.state.final:
        return None
    return evaluation.held_out(report.evaluation)


def _of_result(section: Callable[[EvaluationResult], Section | None]) -> Callable[[Report], Section | None]:
    """Return the section of an evaluation as one of a report; it is left out where there is none."""
    return lambda report: section(report.evaluation) if isinstance(report.evaluation, EvaluationResult) else None


#: Curves whose last values stand at the top, each with its name there.
_FOLLOWED_SERIES = (
    ("train/loss", "training loss"),
    ("validation/loss", "validation loss"),
    ("train/reward", "training reward"),
    ("validation/reward", "validation reward"),
)

#: The sections of a run, in order. Each returns None, or an empty section, where it has nothing to say.
SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    _evaluation,
    seeds.seeds,
    _of_result(judge.judge),
    _of_result(panel.panel),
    training.training,
    training.samples,
    training.diagnosis,
    servers.servers,
    _of_result(calibration.confidence),
    _of_result(decisions.decisions),
    _of_result(evaluation.by_label),
    _of_result(evaluation.confusion),
    _of_result(evaluation.worst),
    settings.settings,
    facts.cost,
    facts.timing,
    facts.facts,
    facts.warnings,
    facts.onwards,
)


def document(report: Report) -> Document:
    """Return the document of a run."""
    identity = report.identity
    backend = identity.provider if identity.provider == identity.kind else f"{identity.provider} ({identity.kind})"
    aside = []
    if identity.created is not None:
        aside.append(Span(f"{datetime.fromtimestamp(identity.created, UTC):%Y-%m-%d %H:%M} UTC", "dim"))
    if identity.url:
        aside.append(Span("at the backend", href=identity.url))
    return Document(
        title=f"{identity.job_name} \u00b7 {identity.run_id}",
        heading=identity.job_name,
        state=identity.state.value,
        line=[backend, identity.model, f"{identity.method}/{identity.adapter}", identity.run_id],
        aside=aside,
        verdict=Span(report.headline, _verdict_style(report)),
        tiles=list(_tiles(report)),
        sections=[part for section in SECTIONS if (part := section(report)) is not None],
    )


def _verdict_style(report: Report) -> Style:
    state = report.identity.state
    if state.final and not report.succeeded:
        return "doubt" if state is RunState.CANCELLED else "bad"
    result = report.evaluation
    comparison = result.comparison() if isinstance(result, EvaluationResult) else None
    if is_within_seeds(comparison, report.seeds):
        return VERDICT_STYLES["not separable"]
    return VERDICT_STYLES[comparison.verdict] if comparison is not None else ""


def _tiles(report: Report) -> Iterator[tuple[Span, Span]]:
    result = report.evaluation
    if isinstance(result, EvaluationResult):
        comparison = result.comparison()
        tuned = result.system("tuned")
        metric = tuned.get(result.main) if tuned is not None else None
        if metric is not None:
            figure = number(metric.value, metric.unit)
            yield Span(f"{metric_name(metric.name)}, {spread(metric.interval, metric.unit)}"), Span(figure)
        if comparison is not None and metric is not None:
            change, _, unit = difference(comparison.difference, metric.unit).partition(" ")
            within = spread(comparison.interval, metric.unit)
            yield Span(f"{unit} against base, {within}".lstrip()), Span(change)
    for name, title in _FOLLOWED_SERIES:
        point = report.final.get(name)
        if point is not None and not isinstance(point, NotReported):
            label = Span(f"{title} at step {point.step}", live=f"{name} step", title=title)
            yield label, Span(number(point.value), live=name)
    yield _cost(report.cost)
    if report.identity.state.final and not isinstance(report.timing.training, NotReported):
        yield Span("training"), Span(seconds(report.timing.training))


def _cost(cost: Cost) -> tuple[Span, Span]:
    if not isinstance(cost.billed, NotReported):
        return Span("billed"), Span(money(cost.billed, cost.currency))
    if not isinstance(cost.estimated, NotReported):
        return Span("estimated"), Span(money(cost.estimated, cost.currency))
    return Span("cost"), Span("not known")
