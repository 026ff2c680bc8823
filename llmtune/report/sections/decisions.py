"""Labels as decisions: probabilities before and after calibration, and how much is answered under a promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmtune.evaluation.results import DecisionResult, EvaluationResult, MetricValue, Promise, SystemResult
from llmtune.metrics.calibration import Calibration
from llmtune.metrics.points import NotReported
from llmtune.report.document import Block, Column, Inline, Line, Plot, Plots, Section, Span, Table, Text
from llmtune.report.format import number, pick_system, spread
from llmtune.report.sections.calibration import draw_bins
from llmtune.report.verdicts import describe_decisions

#: Figures of the table, by metric, in its order.
_FIGURES = {
    "accuracy": "accuracy",
    "ece": "calibration error",
    "brier": "Brier score",
    "log_loss": "log loss",
    "score_error": "score off by",
}


def decisions(result: EvaluationResult, *, after: str = "tuned") -> Section | None:
    """Return the section about calibrated decisions; None where nothing was calibrated."""
    tuned, owner = pick_system(result, after)
    if tuned is None or isinstance(tuned.decisions, NotReported):
        return None
    sentences = [Text(sentence) for sentence in describe_decisions(tuned)]
    blocks: list[Block] = list(sentences)
    several = len(tuned.decisions.questions) > 1
    for position, question in enumerate(tuned.decisions.questions):
        systems = list(_systems_with_question(result, position))
        if several:
            blocks.append(Text(Span(question.rule.question.name, "strong")))
        blocks.append(Plots([_reliability(question), _coverage(systems, tuned.name)]))
        blocks.append(_figures(result, systems, with_uncalibrated=not several))
    return Section("decisions", f"Decisions{owner}", blocks, short="Decisions", brief=sentences)


def _systems_with_question(result: EvaluationResult, position: int) -> Iterator[tuple[SystemResult, DecisionResult]]:
    for name in result.systems:
        system = result.system(name)
        if system is not None and not isinstance(system.decisions, NotReported):
            yield system, system.decisions.questions[position]


def _reliability(question: DecisionResult) -> Plot:
    """Draw accuracy over confidence, before (grey) and after (blue); a dot grows with the rows of its bin."""
    after = question.calibration_after
    return Plot(
        "How often it is right, by how sure it is (grey: before; blue: after)",
        f"Reliability: {len(after.bins)} groups of rows by confidence, before and after calibration",
        "sure",
        lines=[
            ("", "ideal", [(0.0, 0.0), (1.0, 1.0)]),
            ("before", "before", _reliability_points(question.calibration_before)),
            ("after", "after", _reliability_points(after)),
        ],
        dots=draw_bins(after),
    )


def _reliability_points(calibration: Calibration) -> list[tuple[float, float]]:
    return [(group.confidence, group.accuracy) for group in calibration.bins]


def _coverage(systems: Sequence[tuple[SystemResult, DecisionResult]], after: str) -> Plot:
    """Draw the error over the share of rows that are answered, and where the promise lies."""
    worst = max(1 - question.calibration_after.accuracy for _, question in systems)
    promise = next((question.promise for system, question in systems if system.name == after), None)
    promised = promise.threshold.error if promise is not None else 0.0
    scale = min(1.0, max(0.05, 1.25 * worst, 1.5 * promised))
    lines: list[Line] = [
        (
            system.name,
            "after" if system.name == after else "before",
            [(point.coverage, min(1.0, point.error / scale)) for point in question.calibration_after.coverage],
        )
        for system, question in sorted(systems, key=lambda pair: pair[0].name == after)
        if len(question.calibration_after.coverage) > 1
    ]
    rivals = ", ".join(system.name for system, _ in systems if system.name != after)
    grey = f"; grey: {rivals}" if rivals else ""
    title = f"Errors when only the surest rows are answered (up to {number(scale, 'share')}; blue: {after}{grey})"
    label = "Risk and coverage, after calibration: " + "; ".join(
        f"{system.name}: {number(1 - question.calibration_after.accuracy, 'share')} of all rows wrong,"
        f" area {number(question.calibration_after.coverage_area, 'share')}"
        for system, question in systems
    )
    if promise is not None:
        title += f"; dashed: the promise of {number(promised, 'share')}"
        lines.append(("", "ideal", [(0.0, promised / scale), (1.0, promised / scale)]))
        if promise.coverage is not None:
            lines.append(("", "ideal", [(promise.coverage, 0.0), (promise.coverage, 1.0)]))
    return Plot(title, label, "answered", lines)


def _figures(
    result: EvaluationResult, systems: Sequence[tuple[SystemResult, DecisionResult]], *, with_uncalibrated: bool
) -> Table:
    """Set all systems beside each other; those that were not calibrated with what they state themselves."""
    calibrated = {system.name: question for system, question in systems}
    promised = next((question.promise for _, question in systems if question.promise is not None), None)
    names = [
        name for name in _FIGURES if any(name == value.name for _, question in systems for value in question.after)
    ]
    headings = [*(_FIGURES[name] for name in names), "area under errors", "calibrated by"]
    if promised is not None:
        headings += [f"answered at {number(promised.threshold.error, 'share')} errors", "interval"]
    cells_of = {}
    for name in result.systems:
        system = result.system(name)
        if name in calibrated:
            cells_of[name] = _calibrated_cells(calibrated[name], names)
        elif with_uncalibrated and system is not None and system.calibration is not None:
            values = {value.name: value for value in system.metrics}
            cells_of[name] = [_show(values[figure]) if figure in values else "" for figure in names]
            cells_of[name] += [number(system.calibration.coverage_area, "share"), "not calibrated", "", ""]
    rows: list[list[Inline]] = [
        [heading, *(cells[row] for cells in cells_of.values())] for row, heading in enumerate(headings)
    ]
    columns = [Column(""), *(Column(name, "number") for name in cells_of)]
    return Table("Before and after calibration", columns, rows, sortable=False)


def _calibrated_cells(question: DecisionResult, names: Sequence[str]) -> list[str]:
    before, after = ({value.name: value for value in values} for values in (question.before, question.after))
    cells = [" \u2192 ".join(_show(values[name]) for values in (before, after)) for name in names]
    area = number(question.calibration_after.coverage_area, "share")
    return [*cells, area, question.rule.calibrator.says, *_promise_cells(question.promise)]


def _show(value: MetricValue) -> str:
    return number(value.value, value.unit)


def _promise_cells(promise: Promise | None) -> tuple[str, str]:
    if promise is None or promise.coverage is None or promise.interval is None:
        return "none", ""
    return number(promise.coverage, "share"), spread(promise.interval, "share")
