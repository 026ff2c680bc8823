"""Labels as decisions: probabilities before and after calibration, and how much is answered under a promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from llmtune.evaluation.results import DecisionResult, EvaluationResult, MetricValue, Promise, SystemResult
from llmtune.metrics.calibration import Calibration
from llmtune.metrics.points import NotReported
from llmtune.report.format import count, number, pick_system, spread
from llmtune.report.html.calibration import SIDE, draw_figure, draw_line
from llmtune.report.html.elements import el, join
from llmtune.report.html.page import Section, table
from llmtune.report.verdicts import describe_decisions

#: Figures of the table, by metric, in its order.
_FIGURES = {
    "accuracy": "accuracy",
    "ece": "calibration error",
    "brier": "Brier score",
    "log_loss": "log loss",
    "score_error": "score off by",
}


def decisions(result: EvaluationResult, *, after: str = "tuned") -> Section:
    """Return the section about calibrated decisions; it is empty where nothing was calibrated."""
    tuned, owner = pick_system(result, after)
    if tuned is None or isinstance(tuned.decisions, NotReported):
        return Section("decisions", "Decisions", Markup(""))
    parts: list[Markup] = [el("p", sentence) for sentence in describe_decisions(tuned)]
    several = len(tuned.decisions.questions) > 1
    for number_of_question, question in enumerate(tuned.decisions.questions):
        systems = list(_systems_with_question(result, number_of_question))
        if several:
            parts.append(el("h3", question.rule.question.name))
        parts.append(el("div", _reliability(question), _coverage(systems, tuned.name), class_="pictures"))
        parts.append(_figures(result, systems, with_uncalibrated=not several))
    return Section("decisions", f"Decisions{owner}", join(parts), short="Decisions")


def _systems_with_question(
    result: EvaluationResult, number_of_question: int
) -> Iterator[tuple[SystemResult, DecisionResult]]:
    for name in result.systems:
        system = result.system(name)
        if system is not None and not isinstance(system.decisions, NotReported):
            yield system, system.decisions.questions[number_of_question]


def _reliability(question: DecisionResult) -> Markup:
    """Draw accuracy over confidence, before (grey) and after (blue); a dot grows with the rows of its bin."""
    after = question.calibration_after
    largest = max(group.rows for group in after.bins)
    dots = [
        el(
            "circle",
            el(
                "title",
                f"{number(group.confidence, 'share')} sure, {number(group.accuracy, 'share')} right, "
                f"{count(group.rows, 'row')}",
            ),
            cx=f"{SIDE * group.confidence:.2f}",
            cy=f"{SIDE * (1 - group.accuracy):.2f}",
            r=f"{1.2 + 1.8 * (group.rows / largest) ** 0.5:.2f}",
        )
        for group in after.bins
    ]
    shapes = [
        el("line", class_="ideal", x1="0", y1=SIDE, x2=SIDE, y2="0"),
        draw_line(_reliability_points(question.calibration_before), "before", "before"),
        draw_line(_reliability_points(after), "after", "after"),
        *dots,
    ]
    label = f"Reliability: {len(after.bins)} groups of rows by confidence, before and after calibration"
    return draw_figure("How often it is right, by how sure it is (grey: before; blue: after)", label, shapes, "sure")


def _reliability_points(calibration: Calibration) -> list[tuple[float, float]]:
    return [(SIDE * group.confidence, SIDE * (1 - group.accuracy)) for group in calibration.bins]


def _coverage(systems: Sequence[tuple[SystemResult, DecisionResult]], after: str) -> Markup:
    """Draw the error over the share of rows that are answered, and where the promise lies."""
    worst = max(1 - question.calibration_after.accuracy for _, question in systems)
    promises = [question.promise for system, question in systems if system.name == after]
    promise = promises[0] if promises else None
    promised = promise.threshold.error if promise is not None else 0.0
    scale = min(1.0, max(0.05, 1.25 * worst, 1.5 * promised))

    def down(error: float) -> float:
        return SIDE * max(0.0, 1 - error / scale)

    shapes = [
        draw_line(
            [(SIDE * point.coverage, down(point.error)) for point in question.calibration_after.coverage],
            "after" if system.name == after else "before",
            system.name,
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
        shapes.append(
            el("line", class_="ideal", x1="0", y1=f"{down(promised):.2f}", x2=SIDE, y2=f"{down(promised):.2f}")
        )
        if promise.coverage is not None:
            across = f"{SIDE * promise.coverage:.2f}"
            shapes.append(el("line", class_="ideal", x1=across, y1="0", x2=across, y2=SIDE))
    return draw_figure(title, label, shapes, "answered")


def _figures(
    result: EvaluationResult, systems: Sequence[tuple[SystemResult, DecisionResult]], *, with_uncalibrated: bool
) -> Markup:
    """Set all systems beside each other; those that were not calibrated with what they state themselves."""
    calibrated = {system.name: question for system, question in systems}
    promised = next((question.promise for _, question in systems if question.promise is not None), None)
    names = [
        name for name in _FIGURES if any(name == value.name for _, question in systems for value in question.after)
    ]
    headings = [*(_FIGURES[name] for name in names), "area under errors", "calibrated by"]
    if promised is not None:
        headings += [f"answered at {number(promised.threshold.error, 'share')} errors", "interval"]
    columns = {}
    for name in result.systems:
        system = result.system(name)
        if name in calibrated:
            columns[name] = _calibrated_cells(calibrated[name], names)
        elif with_uncalibrated and system is not None and system.calibration is not None:
            values = {value.name: value for value in system.metrics}
            columns[name] = [_show(values[figure]) if figure in values else "" for figure in names]
            columns[name] += [number(system.calibration.coverage_area, "share"), "not calibrated", "", ""]
    rows = [[heading, *(cells[row] for cells in columns.values())] for row, heading in enumerate(headings)]
    numbers = range(1, len(columns) + 1)
    return table(["", *columns], rows, numbers=numbers, caption="Before and after calibration", sortable=False)


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
