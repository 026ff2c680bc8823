"""A gate for what tuning has cost outside the task: is the tuned model worse than its base by more than a margin?"""

from __future__ import annotations

from typing import Final

from llmtune._models import DocumentedModel
from llmtune.errors import EXIT_NOT_PASSED, InvalidJob, NotJudged, UnknownName
from llmtune.evaluation.panel.measure import UNITS, build_test
from llmtune.evaluation.results import EvaluationResult, PanelResult, PanelVerdict
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.points import NotReported, Number
from llmtune.report.format import count, difference, metric_name, number, spread
from llmtune.report.markdown import plain, table
from llmtune.report.schema import Report
from llmtune.report.verdicts import describe_little_to_lose, describe_panel_test

_MARKS: Final[dict[PanelVerdict, str]] = {
    "not worse": "\u2705 llmtune gate: passed",
    "worse": "\u274c llmtune gate: not passed",
    "undecided": "\u2754 llmtune gate: undecided",
}


class PanelGateResult(DocumentedModel):
    """Whether a run may pass by its panel (`passed`), by which `metric`, and why.

    `run` is its id and `panel` the panel's name. `low` and `high` are the ends of the interval of `delta`.
    """

    passed: bool
    verdict: PanelVerdict
    run: str
    panel: str
    metric: str
    unit: str
    """Of `margin`, `delta`, `low` and `high`: "points" for accuracy, "nats/token" for log_likelihood."""

    margin: Number
    """How much worse the tuned model may be."""

    delta: Number
    """Tuned model minus base model."""

    low: Number
    """Lower end of the interval of the difference."""

    high: Number
    comparison: Comparison
    """As it was computed, in the figure's own unit (shares are 0..1)."""

    reason: str
    """Why it passes or does not, in one sentence."""

    notes: tuple[str, ...] = ()
    """What the other figure says where the tuned model is worse by it, and whether there was anything to lose."""

    @property
    def exit_code(self) -> int:
        """0 when it passes, 5 when the tuned model is worse, 6 when the questions cannot tell."""
        return {"not worse": 0, "worse": EXIT_NOT_PASSED, "undecided": NotJudged.exit_code}[self.verdict]

    def to_markdown(self) -> str:
        """Return a comment for a pull request, in Markdown."""
        comparison = self.comparison
        unit = UNITS[self.metric]
        rows = [
            [
                plain(metric_name(self.metric)),
                number(comparison.a, unit),
                f"**{number(comparison.b, unit)}**",
                f"{difference(comparison.difference, unit)}<br>{spread(comparison.interval, unit)}",
                self.verdict,
            ]
        ]
        parts = [
            f"### {_MARKS[self.verdict]}",
            plain(self.reason, 600),
            table(["figure", "base", "tuned", "difference", "verdict"], rows, right=(1, 2, 3)),
            f"{count(comparison.rows, 'question')} of the panel {plain(self.panel, 80)}, compared one by one; interval"
            f" at {comparison.interval.level:.0%}.",
        ]
        if self.notes:
            parts.append("\n".join(f"- {plain(note, 400)}" for note in self.notes))
        return "\n\n".join(parts) + "\n"


def gate_panel(report: Report, *, margin: float, metric: str = "accuracy") -> PanelGateResult:
    """Test whether the tuned model of a run is worse than its base by more than a margin, outside the task.

    It passes where the whole interval of the difference lies above a loss of the margin. Where the interval lies below,
    the model is worse; between the two, the questions are too few to tell.

    Args:
        report: the run in question.
        margin: how much worse it may be, >= 0: points of accuracy (1.0 is one per cent point), or nats per token.
        metric: "accuracy" or "log_likelihood".

    Raises:
        NotJudged: the run has no panel, or a model was not asked.
        UnknownName: the panel has no such figure.
        InvalidJob: a margin below 0.
    """
    if not margin >= 0:
        raise InvalidJob(f"a margin is 0 or more, not {margin:g}", where="panel_margin")
    if metric not in UNITS:
        raise UnknownName("figure of the panel", metric, list(UNITS))
    result = _require_panel(report)
    test = result.test(metric)
    run = report.identity.run_id
    if test is None:
        raise NotJudged(f"run {run} has no {metric_name(metric)} on its panel: {_explain_missing(result, metric)}")
    scale = 100.0 if test.unit == "share" else 1.0
    test = build_test(test.comparison, margin / scale)
    interval = test.comparison.interval
    return PanelGateResult(
        passed=test.verdict == "not worse",
        verdict=test.verdict,
        run=run,
        panel=result.name,
        metric=metric,
        unit="points" if test.unit == "share" else test.unit,
        margin=margin,
        delta=scale * test.comparison.difference,
        low=scale * interval.low,
        high=scale * interval.high,
        comparison=test.comparison,
        reason=describe_panel_test(test),
        notes=tuple(_list_notes(result, metric)),
    )


def _list_notes(result: PanelResult, metric: str) -> list[str]:
    """Return what a reader should know beside the verdict by one figure: a loss by the other, and little to lose."""
    losses = [test for test in result.tests if test.comparison.metric != metric and test.verdict == "worse"]
    notes = [describe_panel_test(test) for test in losses]
    return notes + (describe_little_to_lose(result) if metric == "accuracy" else [])


def _require_panel(report: Report) -> PanelResult:
    """Return the panel of a run. Raises `NotJudged` where there is none."""
    run = report.identity.run_id
    if isinstance(report.evaluation, NotReported):
        raise NotJudged(f"run {run} was not evaluated: {report.evaluation.reason}")
    panel = report.evaluation.panel if isinstance(report.evaluation, EvaluationResult) else None
    if panel is None:
        raise NotJudged(
            f"run {run} was asked no panel", hint=f"llmtune evaluate {run} --panel general asks the one that is shipped"
        )
    if isinstance(panel, NotReported):
        raise NotJudged(f"run {run} was asked no panel: {panel.reason}")
    return panel


def _explain_missing(result: PanelResult, metric: str) -> str:
    """Return why a figure cannot be compared: a model that was not asked, or tells no likelihoods."""
    for name in ("base", "tuned"):
        system = result.systems.get(name)
        if not isinstance(system, NotReported) and system is not None:
            value = system.accuracy if metric == "accuracy" else system.log_likelihood
            if isinstance(value, NotReported):
                return f"the {name} model has none ({value.reason})"
        else:
            return f"the {name} model was not asked" + (f" ({system.reason})" if system is not None else "")
    return "the two models answered different questions"
