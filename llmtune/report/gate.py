"""Compare two runs: a gate for a release pipeline, and the differences for people.

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
from llmtune.metrics.intervals import RESAMPLES, Interval, interval_between_seeds
from llmtune.metrics.points import NotReported, Number
from llmtune.metrics.sentences import fill_sentence
from llmtune.report.format import count, difference, metric_name, number, p_words, spread
from llmtune.report.markdown import plain, table
from llmtune.report.schema import Report
from llmtune.report.verdicts import amount, describe_rows_to_settle

#: What a gate can test: better and not by chance, or not worse by more than a margin and not by chance.
GateTest = Literal["better", "not-worse"]


class GateResult(DocumentedModel):
    """Whether a run may pass (`passed`), by which `test`, and why.

    `run` and `baseline` are the ids of the two runs, `metric` is what they were compared by. `low` and `high` are the
    ends of the interval of `delta`; `notes` are whatever the reader should know.
    """

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
        """0 when it passes, 5 when it does not; a run that cannot be judged raises `NotJudged` (6)."""
        return 0 if self.passed else EXIT_NOT_PASSED

    def to_markdown(self) -> str:
        """Return a comment for a pull request, in Markdown."""
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
    """One field in which two runs differ: `a` in the first, `b` in the second."""

    field: str
    a: Any = None
    b: Any = None


class DiffResult(DocumentedModel):
    """The differences between two runs, `run_a` and `run_b`: settings, data, results.

    `units` are those of the metrics, by name; `paired` is whether the same rows were compared one by one; `notes` are
    whatever the reader should know.
    """

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
    """Test whether the tuned model of `report` is better than that of `baseline`, or not worse by more than a margin.

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
    result, tuned = require_evaluation(report)
    baseline_result, baseline_tuned = require_evaluation(baseline)
    name = metric or result.main
    value, baseline_value = _require_metric(tuned, name, report), _require_metric(baseline_tuned, name, baseline)
    comparison, paired, notes = _compare(
        result, tuned, baseline_result, baseline_tuned, value, baseline_value, resamples
    )
    scale = 100.0 if value.unit == "share" else 1.0
    sign = scale if value.better == "higher" else -scale
    low, high = sorted((sign * comparison.interval.low, sign * comparison.interval.high))
    passed, reason = _decide(comparison, value, low, high, not_worse)
    seeds = _compare_seeds(report, baseline, name)
    if seeds is not None:
        seeds_low, seeds_high = sorted((sign * seeds.low, sign * seeds.high))
        limit = 0.0 if not_worse is None else -not_worse
        if passed and seeds_low < limit - 1e-9:
            passed, reason = False, _describe_seed_doubt(comparison, value, seeds, not_worse)
        notes.append(
            f"from seed to seed the difference lies between {seeds_low:+.3g} and {seeds_high:+.3g}"
            f" {'points' if value.unit == 'share' else value.unit}".rstrip()
        )
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
            return True, fill_sentence("better_passed", **values)
        if comparison.verdict == "worse":
            return False, fill_sentence("better_worse", **values)
        return False, fill_sentence("better_uncertain", **values, settle=describe_rows_to_settle(comparison))
    values["margin"] = amount(not_worse / 100 if unit == "share" else not_worse, unit)
    if low >= -not_worse - 1e-9:
        return True, fill_sentence("not_worse_passed", **values)
    return False, fill_sentence("not_worse_failed" if high < -not_worse else "not_worse_uncertain", **values)


def _compare_seeds(report: Report, baseline: Report, metric: str) -> Interval | None:
    """Compute the interval of the difference over seeds; None where neither run has several by this metric."""
    values = []
    for compared in (baseline, report):
        spread = compared.seeds
        if spread is not None and spread.metric == metric:
            values.append(spread.values)
        else:
            _, tuned = require_evaluation(compared)
            values.append([_require_metric(tuned, metric, compared).value])
    return interval_between_seeds(*values)


def _describe_seed_doubt(comparison: Comparison, value: MetricValue, seeds: Interval, not_worse: float | None) -> str:
    unit = value.unit
    margin = "" if not_worse is None else amount(not_worse / 100 if unit == "share" else not_worse, unit)
    return fill_sentence(
        "gate_within_seeds",
        what="better" if not_worse is None else f"no more than {margin} worse",
        moved=f"{metric_name(value.name)} {number(comparison.a, unit)} to {number(comparison.b, unit)}",
        change=difference(comparison.difference, unit),
        low=difference(seeds.low, unit),
        high=difference(seeds.high, unit),
    )


def diff(a: Report, b: Report, *, resamples: int = RESAMPLES) -> DiffResult:
    """Return how run `b` differs from run `a`: the settings asked for and used, the data, and the results.

    `resamples` is the number of bootstrap samples of each interval.
    """
    notes: list[str] = []
    comparisons: list[Comparison] = []
    units: dict[str, str] = {}
    paired = False
    try:
        result_a, tuned_a = require_evaluation(a)
        result_b, tuned_b = require_evaluation(b)
    except LlmtuneError as error:
        notes.append(f"the results cannot be compared: {error.message}")
    else:
        for value in tuned_b.metrics:
            old = tuned_a.get(value.name)
            if old is None:
                continue
            comparison, paired, comparison_notes = _compare(result_b, tuned_b, result_a, tuned_a, value, old, resamples)
            comparisons.append(comparison)
            units[value.name] = value.unit
            notes += [note for note in comparison_notes if note not in notes]
    return DiffResult(
        run_a=a.identity.run_id,
        run_b=b.identity.run_id,
        settings=tuple(_compare_settings(a, b)),
        facts=tuple(_compare_facts(a, b)),
        comparisons=tuple(comparisons),
        units=units,
        paired=paired,
        notes=tuple(notes),
    )


def require_evaluation(report: Report) -> tuple[EvaluationResult, SystemResult]:
    """Return the evaluation of a run, and its tuned model's result. Raises `NotJudged` where one is missing."""
    run = report.identity.run_id
    if isinstance(report.evaluation, NotReported):
        raise NotJudged(f"run {run} has no evaluation to compare: {report.evaluation.reason}")
    tuned = report.evaluation.system("tuned")
    if tuned is None:
        absent = report.evaluation.systems.get("tuned")
        why = f": {absent.reason}" if isinstance(absent, NotReported) else ""
        raise NotJudged(f"the tuned model of run {run} was not evaluated{why}")
    return report.evaluation, tuned


def _require_metric(system: SystemResult, name: str, report: Report) -> MetricValue:
    value = system.get(name)
    if value is not None:
        return value
    if name in system.not_reported:
        raise NotJudged(f"run {report.identity.run_id} has no {name}: {system.not_reported[name]}")
    raise UnknownName("metric", name, [metric.name for metric in system.metrics], where=f"run {report.identity.run_id}")


def _compare(
    result: EvaluationResult,
    tuned: SystemResult,
    baseline: EvaluationResult,
    baseline_tuned: SystemResult,
    value: MetricValue,
    baseline_value: MetricValue,
    resamples: int,
) -> tuple[Comparison, bool, list[str]]:
    """Compare the tuned models of two runs by one metric; return whether the rows are paired, and notes on that."""
    notes = []
    if result.scored_by != baseline.scored_by:
        notes.append(
            f"answers were scored by {baseline.scored_by} in the baseline and by {result.scored_by} in the run"
        )
    if result.labels != baseline.labels:
        notes.append("the two runs have different label sets")
    common = _find_common_rows(result, baseline)
    data, baseline_data = scoring.get_row_data(result, "tuned"), scoring.get_row_data(baseline, "tuned")
    if common and data is not None and baseline_data is not None and result.labels == baseline.labels:
        indices, baseline_indices = zip(*common, strict=True)
        comparison = scoring.compare_data(
            value.name,
            scoring.select_rows(baseline_data, baseline_indices),
            scoring.select_rows(data, indices),
            better=value.better,
            names=("baseline", "run"),
            level=result.level,
            resamples=resamples,
            seed=result.seed,
        )
        if comparison is not None:
            if len(common) < max(result.rows, baseline.rows):
                notes.append(f"compared on the {count(len(common), 'row')} that both were evaluated on")
            return comparison, True, notes
    notes.append("the two were evaluated on different rows, so only a larger difference can be shown")
    comparison = compare_unpaired(
        baseline_value.value,
        baseline_value.interval,
        value.value,
        value.interval,
        rows=min(value.rows, baseline_value.rows),
        metric=value.name,
        names=("baseline", "run"),
        better=value.better,
    )
    return comparison, False, notes


def _find_common_rows(result: EvaluationResult, baseline: EvaluationResult) -> list[tuple[int, int]]:
    """Return the indices of the rows that both were evaluated on, where those are nine in ten of each; else none."""
    baseline_index = {row: index for index, row in enumerate(baseline.row_ids)}
    common = [(index, baseline_index[row]) for index, row in enumerate(result.row_ids) if row in baseline_index]
    return common if len(common) >= 0.9 * max(result.rows, baseline.rows) else []


def _compare_settings(a: Report, b: Report) -> Iterable[Change]:
    rows_a = {row.field: row for row in a.receipt}
    rows_b = {row.field: row for row in b.receipt}
    for name in dict.fromkeys([*rows_a, *rows_b]):
        row_a, row_b = rows_a.get(name), rows_b.get(name)
        settings = [None if row is None else (row.support, row.requested, row.effective) for row in (row_a, row_b)]
        if settings[0] != settings[1]:
            yield Change(field=name, a=_used_value(row_a), b=_used_value(row_b))


def _used_value(row: Any) -> Any:
    if row is None:
        return None
    value = row.effective if row.effective is not None else row.requested
    return value if row.support in ("sent", "inherent") else f"{value} ({row.support.replace('_', ' ')})"


def _compare_facts(a: Report, b: Report) -> Iterable[Change]:
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
        value_a, value_b = (getattr(report.final.get(name), "value", None) for report in (a, b))
        pairs.append((f"final {name}", value_a, value_b))
    for name, value_a, value_b in pairs:
        if value_a != value_b:
            yield Change(field=name, a=_plain_value(value_a), b=_plain_value(value_b))


def _plain_value(value: Any) -> Any:
    return str(value) if isinstance(value, NotReported) else value
