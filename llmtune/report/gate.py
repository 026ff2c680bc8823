"""Is one run better than another, by enough, and is that sure: what a release pipeline asks, and what people ask.

Two runs that were evaluated on the same rows are compared row by row, which finds far smaller differences than two
intervals side by side; otherwise their intervals decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from llmtune._models import DocumentedModel
from llmtune.errors import EXIT_NOT_PASSED, InvalidJob, LlmtuneError, NotJudged, UnknownName
from llmtune.evaluation import scoring
from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.comparison import Comparison, compare_unpaired
from llmtune.metrics.intervals import RESAMPLES
from llmtune.metrics.points import NotReported, Number
from llmtune.metrics.sentences import say
from llmtune.report.format import count, difference, metric_name, number, p_words, spread
from llmtune.report.markdown import plain, table
from llmtune.report.schema import Report
from llmtune.report.verdicts import amount, settle

#: What a gate can be asked: better and not by chance, or not worse by more than a margin and not by chance.
GateTest = Literal["better", "not-worse"]


class GateResult(DocumentedModel):
    """Whether a run may pass, and why."""

    passed: bool
    test: GateTest
    run: str
    baseline: str
    metric: str
    unit: str
    """Of `margin`, `delta`, `low` and `high`: "points" for a metric in per cent, else the metric's own."""

    margin: Number | None = None
    """How much worse the run may be; None for the test "better"."""

    delta: Number
    """Improvement; positive is better, whichever direction is good."""

    low: Number
    """Lower end of the interval of the improvement."""

    high: Number
    comparison: Comparison
    """As it was computed, in the metric's own unit (shares are 0..1)."""

    paired: bool
    """Whether the same rows were compared one by one."""

    reason: str
    """Why it passes or does not, in one sentence."""

    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when it passes, 5 when it does not; what cannot be judged is an error of its own (6)."""
        return 0 if self.passed else EXIT_NOT_PASSED

    def to_markdown(self) -> str:
        """A comment for a pull request."""
        mark = "\u2705" if self.passed else "\u274c"
        comparison = self.comparison
        unit = "share" if self.unit == "points" else self.unit
        rows = [
            [
                plain(metric_name(self.metric)),
                f"{number(comparison.a, unit)}",
                f"**{number(comparison.b, unit)}**",
                f"{difference(comparison.difference, unit)}<br>{spread(comparison.interval, unit)}",
                comparison.verdict + (f" ({p_words(comparison.p_value)})" if comparison.p_value is not None else ""),
            ]
        ]
        headings = ["metric", f"baseline {plain(self.baseline)}", f"run {plain(self.run)}", "difference", "verdict"]
        how = "the same rows, compared one by one" if self.paired else "different rows, compared by their intervals"
        parts = [
            f"### {mark} llmtune gate: {'passed' if self.passed else 'not passed'}",
            plain(self.reason, 600),
            table(headings, rows, right=(1, 2, 3)),
            f"{count(comparison.rows, 'held-out row')}, {how}; interval at {comparison.interval.level:.0%}.",
        ]
        if self.notes:
            parts.append("\n".join(f"- {plain(note, 400)}" for note in self.notes))
        return "\n\n".join(parts) + "\n"


class Change(DocumentedModel):
    """One field in which two runs differ."""

    field: str
    a: Any = None
    b: Any = None


class DiffResult(DocumentedModel):
    """In what two runs differ: settings, data, results."""

    run_a: str
    run_b: str
    settings: tuple[Change, ...] = ()
    """Fields of the job and what was used for them."""

    facts: tuple[Change, ...] = ()
    """Data, time, cost, environment."""

    comparisons: tuple[Comparison, ...] = ()
    """Tuned model of b against tuned model of a, by every metric both have."""

    units: dict[str, str] = {}
    paired: bool = False
    notes: tuple[str, ...] = ()


def gate(
    report: Report,
    baseline: Report,
    *,
    not_worse: float | None = None,
    metric: str | None = None,
    resamples: int = RESAMPLES,
) -> GateResult:
    """Whether the tuned model of `report` is better than that of `baseline`, or is not worse by more than a margin.

    Both are tests: "better" passes only where the difference is not chance; "not worse" only where the interval of the
    difference leaves out a loss of more than the margin, so that too few rows do not pass either.

    Args:
        report: the run in question.
        baseline: the run it is compared with.
        not_worse: how much worse it may be, >= 0: points (1.0 is one per cent point) for shares, the metric's own unit
            otherwise. None asks whether it is better.
        metric: which metric; None takes the first of the run's evaluation.
        resamples: bootstrap samples.

    Raises:
        NotJudged: one of the two was not evaluated, or has no such metric.
        UnknownName: there is no metric of that name.
        InvalidJob: a margin below 0.
    """
    if not_worse is not None and not not_worse >= 0:
        raise InvalidJob(f"a margin is 0 or more, not {not_worse:g}", where="not_worse")
    result, tuned = _evaluated(report)
    other, rival = _evaluated(baseline)
    name = metric or result.main
    value, old = _metric(tuned, name, report), _metric(rival, name, baseline)
    comparison, paired, notes = _compare(result, tuned, other, rival, value, old, resamples)
    scale = 100.0 if value.unit == "share" else 1.0
    sign = scale if value.better == "higher" else -scale
    low, high = sorted((sign * comparison.interval.low, sign * comparison.interval.high))
    passed, reason = _decide(comparison, value, low, high, not_worse)
    return GateResult(
        passed=passed,
        test="better" if not_worse is None else "not-worse",
        run=report.identity.run_id,
        baseline=baseline.identity.run_id,
        metric=name,
        unit="points" if value.unit == "share" else value.unit,
        margin=not_worse,
        delta=sign * comparison.difference,
        low=low,
        high=high,
        comparison=comparison,
        paired=paired,
        reason=reason,
        notes=tuple(notes),
    )


def _decide(
    comparison: Comparison, value: MetricValue, low: float, high: float, not_worse: float | None
) -> tuple[bool, str]:
    unit = value.unit
    level = f"{comparison.interval.level:.0%}"
    values = {
        "moved": f"{metric_name(value.name)} {number(comparison.a, unit)} to {number(comparison.b, unit)}",
        "change": f"{difference(comparison.difference, unit)}, {level} interval {spread(comparison.interval, unit)}",
        "rows": count(comparison.rows, "row"),
    }
    if not_worse is None:
        if comparison.verdict == "better":
            return True, say("better_passed", **values)
        if comparison.verdict == "worse":
            return False, say("better_worse", **values)
        return False, say("better_uncertain", **values, settle=settle(comparison))
    values["margin"] = amount(not_worse / 100 if unit == "share" else not_worse, unit)
    if low >= -not_worse - 1e-9:
        return True, say("not_worse_passed", **values)
    return False, say("not_worse_failed" if high < -not_worse else "not_worse_uncertain", **values)


def diff(a: Report, b: Report, *, resamples: int = RESAMPLES) -> DiffResult:
    """In what run `b` differs from run `a`: what was asked and used, on what data, and with what result."""
    notes: list[str] = []
    comparisons: list[Comparison] = []
    units: dict[str, str] = {}
    paired = False
    try:
        result_a, tuned_a = _evaluated(a)
        result_b, tuned_b = _evaluated(b)
    except LlmtuneError as error:
        notes.append(f"the results cannot be compared: {error.message}")
    else:
        for value in tuned_b.metrics:
            old = tuned_a.get(value.name)
            if old is None:
                continue
            found, paired, said = _compare(result_b, tuned_b, result_a, tuned_a, value, old, resamples)
            comparisons.append(found)
            units[value.name] = value.unit
            notes += [note for note in said if note not in notes]
    return DiffResult(
        run_a=a.identity.run_id,
        run_b=b.identity.run_id,
        settings=tuple(_settings(a, b)),
        facts=tuple(_facts(a, b)),
        comparisons=tuple(comparisons),
        units=units,
        paired=paired,
        notes=tuple(notes),
    )


def _evaluated(report: Report) -> tuple[EvaluationResult, SystemResult]:
    run = report.identity.run_id
    if isinstance(report.evaluation, NotReported):
        raise NotJudged(f"run {run} has no evaluation to compare: {report.evaluation.reason}")
    tuned = report.evaluation.system("tuned")
    if tuned is None:
        found = report.evaluation.systems.get("tuned")
        why = f": {found.reason}" if isinstance(found, NotReported) else ""
        raise NotJudged(f"the tuned model of run {run} was not evaluated{why}")
    return report.evaluation, tuned


def _metric(system: SystemResult, name: str, report: Report) -> MetricValue:
    found = system.get(name)
    if found is not None:
        return found
    if name in system.not_reported:
        raise NotJudged(f"run {report.identity.run_id} has no {name}: {system.not_reported[name]}")
    raise UnknownName("metric", name, [each.name for each in system.metrics], where=f"run {report.identity.run_id}")


def _compare(
    result: EvaluationResult,
    tuned: SystemResult,
    other: EvaluationResult,
    rival: SystemResult,
    value: MetricValue,
    old: MetricValue,
    resamples: int,
) -> tuple[Comparison, bool, list[str]]:
    """The tuned models of two runs by one metric; whether in pairs; and what there is to say about that."""
    notes = []
    if result.scored_by != other.scored_by:
        notes.append(f"answers were scored by {other.scored_by} in the baseline and by {result.scored_by} in the run")
    if result.labels != other.labels:
        notes.append("the two runs have different label sets")
    common = _common_rows(result, other)
    data, rival_data = scoring.data_of(result, "tuned"), scoring.data_of(other, "tuned")
    if common and data is not None and rival_data is not None and result.labels == other.labels:
        mine, theirs = zip(*common, strict=True)
        comparison = scoring.compare_data(
            value.name,
            scoring.pick(rival_data, theirs),
            scoring.pick(data, mine),
            better=value.better,
            name_a="baseline",
            name_b="run",
            level=result.level,
            resamples=resamples,
            seed=result.seed,
        )
        if comparison is not None:
            if len(common) < max(result.rows, other.rows):
                notes.append(f"compared on the {count(len(common), 'row')} that both were evaluated on")
            return comparison, True, notes
    notes.append("the two were evaluated on different rows, so only a larger difference could be told")
    comparison = compare_unpaired(
        old.value,
        old.interval,
        value.value,
        value.interval,
        rows=min(value.rows, old.rows),
        metric=value.name,
        name_a="baseline",
        name_b="run",
        better=value.better,
    )
    return comparison, False, notes


def _common_rows(result: EvaluationResult, other: EvaluationResult) -> list[tuple[int, int]]:
    """Places of the rows that both were evaluated on, where that is at least nine in ten of each; else none."""
    places = {row: place for place, row in enumerate(other.row_ids)}
    common = [(place, places[row]) for place, row in enumerate(result.row_ids) if row in places]
    return common if len(common) >= 0.9 * max(result.rows, other.rows) else []


def _settings(a: Report, b: Report) -> Iterable[Change]:
    rows_a = {row.field: row for row in a.receipt}
    rows_b = {row.field: row for row in b.receipt}
    for name in dict.fromkeys([*rows_a, *rows_b]):
        one, other = rows_a.get(name), rows_b.get(name)
        said = [None if row is None else (row.support, row.requested, row.effective) for row in (one, other)]
        if said[0] != said[1]:
            yield Change(field=name, a=_used(one), b=_used(other))


def _used(row: Any) -> Any:
    if row is None:
        return None
    value = row.effective if row.effective is not None else row.requested
    return value if row.support in ("sent", "inherent") else f"{value} ({row.support.replace('_', ' ')})"


def _facts(a: Report, b: Report) -> Iterable[Change]:
    pairs: list[tuple[str, Any, Any]] = [
        ("provider", a.identity.provider, b.identity.provider),
        ("base model", a.identity.model, b.identity.model),
        ("dataset", a.data.sha256 or a.data.source, b.data.sha256 or b.data.source),
        ("training rows", a.data.rows.get("train"), b.data.rows.get("train")),
        ("training seconds", a.timing.training, b.timing.training),
        ("estimated cost", a.cost.estimated, b.cost.estimated),
        ("billed cost", a.cost.billed, b.cost.billed),
        ("device", a.environment.device, b.environment.device),
        ("llmtune", a.environment.llmtune, b.environment.llmtune),
        ("diagnosis", a.diagnosis.verdict, b.diagnosis.verdict),
    ]
    for name in dict.fromkeys([*a.final, *b.final]):
        one, other = (getattr(report.final.get(name), "value", None) for report in (a, b))
        pairs.append((f"final {name}", one, other))
    for name, one, other in pairs:
        if one != other:
            yield Change(field=name, a=_plain(one), b=_plain(other))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, NotReported) else value
