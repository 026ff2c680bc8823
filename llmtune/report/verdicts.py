"""Choose the sentences about results: the headline of a report, who leads whom, how many rows would settle it.

The sentences themselves are templates in `llmtune.metrics.sentences`. A verdict always carries the difference and its
interval, and one that is not certain says how many rows would settle it.
"""

from __future__ import annotations

import math
from typing import Final

from llmtune.evaluation.results import EvaluationResult, MetricValue, PanelResult, PanelTest, Promise, SystemResult
from llmtune.metrics.comparison import Comparison, fewest_rows, rows_needed, rows_to_settle, smallest_difference
from llmtune.metrics.intervals import LEVEL, Interval
from llmtune.metrics.points import NotReported
from llmtune.metrics.sentences import fill_sentence
from llmtune.provider.types import RunState
from llmtune.report.format import (
    count,
    difference,
    judged_name,
    measured,
    metric_name,
    number,
    one_line,
    p_words,
    spread,
)
from llmtune.report.schema import Report, SeedSpread

#: A pair is separable when its corrected p-value is at most this.
ALPHA: Final = 0.05

#: Above this the number of rows needed is not named.
MOST_ROWS: Final = 100_000

#: The baselines that cost next to nothing, as the subject of a sentence.
CHEAP: Final[dict[str, str]] = {
    "linear": "A linear model (TF-IDF and logistic regression)",
    "nearest": "Copying the answer of the nearest training row",
    "few_shot": "The base model with examples in its prompt",
}

#: A cheap baseline within so much of the tuned model, at worst, does as well (2 points of a share).
AS_WELL: Final = 0.02


# --- a report --------------------------------------------------------------------------------------------------------
def headline(report: Report) -> str:
    """Return what happened, and what it is worth, in one or two sentences."""
    state = report.identity.state
    if state is RunState.FAILED:
        return fill_sentence("failed", reason=one_line(report.error or "the backend gives no reason", 400))
    if state is RunState.CANCELLED:
        checkpoints = [id for name, id in report.artifacts.items() if name.startswith("checkpoint:")]
        return (
            fill_sentence("cancelled_checkpoint", model=one_line(checkpoints[-1]))
            if checkpoints
            else fill_sentence("cancelled")
        )
    if state is RunState.LOST:
        return (
            fill_sentence("lost_because", reason=one_line(report.error, 400)) if report.error else fill_sentence("lost")
        )
    if not state.final:
        return fill_sentence("unfinished", state=state.value)
    if isinstance(report.evaluation, NotReported):
        return fill_sentence("not_evaluated", reason=one_line(report.evaluation.reason, 300))
    return describe_evaluation(report.evaluation, report.seeds)


def describe_evaluation(result: EvaluationResult, seeds: SeedSpread | None = None) -> str:
    """Describe an evaluation by its main metric: verdict, spread over seeds, cheap baselines, what was lost."""
    after = judged_name(result)
    tuned = result.system(after)
    metric = tuned.get(result.main) if tuned is not None else None
    if tuned is None or metric is None:
        return _describe_missing_figure(result, after)
    comparison = result.comparison(a="base", b=after)
    within_seeds = ""
    if comparison is None:
        base = result.systems.get("base")
        why = (
            f"; {fill_sentence('base_not_asked', reason=_shorten_reason(base.reason))}"
            if isinstance(base, NotReported)
            else ""
        )
        first = f"{_describe_figure(after, metric, result)}{why}."
    else:
        within_seeds = _describe_within_seeds(comparison, metric.unit, seeds)
        first = within_seeds or describe_comparison(comparison, metric.unit)
        if result.labels_told is False:
            first = f"{first} {fill_sentence('untold_base')}"
    parts = (
        first,
        "" if seeds is None or within_seeds else describe_seeds(seeds),
        _describe_outside(tuned),
        _describe_majority(result, after),
        *cheap_baselines(result),
        *_describe_panel_losses(result),
    )
    return " ".join(part for part in parts if part)


def is_within_seeds(comparison: Comparison | None, seeds: SeedSpread | None) -> bool:
    """Return whether base and tuned model differ on these rows, but by no more than another seed may undo."""
    if comparison is None or seeds is None or comparison.verdict == "not separable" or len(seeds.values) < 2:
        return False
    return not seeds.separates(comparison.a)


def _describe_within_seeds(comparison: Comparison, unit: str, seeds: SeedSpread | None) -> str:
    """Describe a difference that another seed may undo, in place of the verdict on the rows; "" for any other."""
    if seeds is None or isinstance(seeds.interval, NotReported) or isinstance(seeds.mean, NotReported):
        return ""
    if not is_within_seeds(comparison, seeds):
        return ""
    return fill_sentence(
        "within_seeds",
        metric=metric_name(comparison.metric),
        before=number(comparison.a, unit),
        seeds=count(len(seeds.results), "seed"),
        mean=number(seeds.mean, unit),
        within=_format_interval(seeds.interval, unit),
    )


def describe_seeds(seeds: SeedSpread) -> str:
    """Describe the figures over the seeds in one sentence; "" where no run has one."""
    runs = count(len(seeds.results), "seed")
    if not seeds.values:
        return ""
    if isinstance(seeds.interval, NotReported) or isinstance(seeds.mean, NotReported):
        return fill_sentence("one_seed", seeds=runs)
    return fill_sentence(
        "over_seeds",
        seeds=runs,
        metric=metric_name(seeds.metric),
        mean=number(seeds.mean, seeds.unit),
        within=_format_interval(seeds.interval, seeds.unit),
        lowest=number(min(seeds.values), seeds.unit),
        highest=number(max(seeds.values), seeds.unit),
    )


def _describe_outside(tuned: SystemResult) -> str:
    classification = tuned.classification
    if classification is None or not classification.outside:
        return ""
    likeliest = tuned.get("likelihood_accuracy")
    return fill_sentence(
        "outside",
        amount=f"{classification.outside:,}",
        rows=f"{classification.rows:,}",
        share=number(classification.outside / classification.rows, "share"),
        labels=len(classification.labels),
        likelihood="" if likeliest is None else fill_sentence("likelihood", figure=number(likeliest.value, "share")),
    )


def describe_outside_answers(result: EvaluationResult) -> str:
    """Describe in one line how many answers of each system are none of the labels; empty where all are labels."""
    classifications = {
        name: system.classification
        for name in result.systems
        if (system := result.system(name)) is not None and system.classification is not None
    }
    if not any(classification.outside for classification in classifications.values()):
        return ""
    shares = (
        f"{one_line(name, 40)} {number(classification.outside / classification.rows, 'share')}"
        for name, classification in classifications.items()
    )
    return fill_sentence("outside_shares", shares=", ".join(shares))


def describe_calibration(system: SystemResult) -> str:
    """Describe how sure a system is, how often it is right, and what answering half of the rows would do; or ""."""
    calibration = system.calibration
    if calibration is None:
        return ""
    half = next((point for point in calibration.coverage if point.coverage >= 0.5), calibration.coverage[-1])
    return fill_sentence(
        "calibration",
        name=one_line(system.name, 40),
        accuracy=number(calibration.accuracy, "share"),
        confidence=number(calibration.confidence, "share"),
        half=number(half.error, "share"),
        all=number(1 - calibration.accuracy, "share"),
    )


def describe_decisions(system: SystemResult) -> list[str]:
    """Describe how a system's labels were calibrated and what can be promised of them; nothing where nothing was."""
    name = one_line(system.name, 40)
    if isinstance(system.decisions, NotReported):
        return []
    sentences = []
    several = len(system.decisions.questions) > 1
    for result in system.decisions.questions:
        question = one_line(result.rule.question.name, 40)
        who = f"The {name} model" + (f", asked for '{question}'," if several else "")
        before, after = ({value.name: value for value in values} for values in (result.before, result.after))
        sentences.append(
            fill_sentence(
                "calibrated",
                who=who,
                rows=count(result.rule.calibrator.rows, "row"),
                says=result.rule.calibrator.says,
                before=number(before["ece"].value, "share"),
                after=number(after["ece"].value, "share"),
                loss_before=number(before["log_loss"].value),
                loss_after=number(after["log_loss"].value),
            )
        )
        if result.promise is not None:
            sentences.append(describe_promise(result.promise, who))
    return sentences


def describe_promise(promise: Promise, who: str) -> str:
    """Describe what can be promised: the share of rows that is answered, or why nothing can be."""
    threshold = promise.threshold
    error = number(threshold.error, "share")
    if promise.coverage is None or promise.interval is None:
        return fill_sentence("no_promise", who=who, error=error, reason=threshold.reason)
    return fill_sentence(
        "promise",
        who=who,
        coverage=number(promise.coverage, "share"),
        interval=spread(promise.interval, "share"),
        error=error,
        confidence=f"{threshold.confidence:.0%}",
        answered=f"{promise.answered:,}",
        wrong=f"{promise.wrong:,} are" if promise.wrong != 1 else "1 is",
    )


def _describe_majority(result: EvaluationResult, after: str) -> str:
    comparison = result.comparison(metric="accuracy", a="majority", b=after)
    if comparison is None or result.majority is None:
        return ""
    name = {"better": "majority", "worse": "majority_more", "not separable": "majority_alike"}[comparison.verdict]
    label = one_line(result.majority.label, 40)
    return fill_sentence(name, label=label, figure=number(comparison.a, "share"), name=one_line(after, 40))


def cheap_baselines(result: EvaluationResult) -> list[str]:
    """Describe in one sentence each how far models that cost next to nothing get beside the tuned one."""
    after = judged_name(result)
    tuned = result.system(after)
    metric = tuned.get(result.main) if tuned is not None else None
    if metric is None:
        return []
    pairs = [(who, result.comparison(a=name, b=after)) for name, who in CHEAP.items()]
    return [
        describe_cheap_baseline(who, comparison, metric.unit) for who, comparison in pairs if comparison is not None
    ]


def describe_cheap_baseline(who: str, comparison: Comparison, unit: str) -> str:
    """Describe a cheap baseline (a) beside the tuned model (b)."""
    ahead, within = _compute_lead(comparison)  # of the tuned model
    values = {
        "who": who,
        "figure": number(comparison.a, unit),
        "gap": amount(abs(ahead), unit),
        "within": _format_interval(within, unit),
        "signed": f"{amount(abs(ahead), unit)} {'less' if ahead > 0 else 'more'}",
    }
    if comparison.verdict == "better":
        return fill_sentence("cheap_less", **values)
    if comparison.verdict == "worse":
        return fill_sentence("cheap_more", **(values | {"within": _format_interval(_negate_interval(within), unit)}))
    if ahead < 0:
        rows = count(comparison.rows, "row")
        return fill_sentence(
            "cheap_ahead", **(values | {"within": _format_interval(_negate_interval(within), unit)}), rows=rows
        )
    if ahead == 0 or (unit == "share" and within.high <= AS_WELL):
        return fill_sentence("cheap_alike", **values)
    return fill_sentence("cheap_unclear", **values, settle=describe_rows_to_settle(comparison))


def _describe_missing_figure(result: EvaluationResult, after: str) -> str:
    """Return the headline of an evaluation that has no figure for the system: the other figures, and the reason."""
    reached = [
        _describe_figure(name, metric, result)
        for name in result.systems
        if name not in (after, *CHEAP) and (system := result.system(name)) and (metric := system.get(result.main))
    ]
    if reached:
        return f"{'; '.join(reached)}; {explain_missing_figure(result, after)}."
    if after not in result.systems:
        return fill_sentence("nothing_measured")
    reason = explain_missing_figure(result, after)
    return f"{fill_sentence('nothing_measured')} {reason[0].upper()}{reason[1:]}."


def _describe_figure(name: str, metric: MetricValue, result: EvaluationResult) -> str:
    return fill_sentence(
        "reaches",
        name=one_line(name, 40),
        metric=metric_name(metric.name),
        figure=measured(metric),
        rows=count(result.rows, "held-out row"),
    )


def explain_missing_figure(result: EvaluationResult, name: str) -> str:
    """Return "the tuned model could not be asked: ..." for a system without the main metric."""
    system = result.systems.get(name)
    who = one_line(name, 40)
    if isinstance(system, NotReported):
        return fill_sentence("could_not_ask", name=who, reason=_shorten_reason(system.reason))
    if system is None:
        return fill_sentence("was_not_asked", name=who)
    reason = system.not_reported.get(result.main)
    clause = fill_sentence("no_metric", name=who, metric=metric_name(result.main))
    return clause + (f": {_shorten_reason(reason)}" if reason else "")


def _shorten_reason(text: str) -> str:
    return one_line(text, 200).rstrip(".")


def describe_comparison(comparison: Comparison, unit: str) -> str:
    """Describe a comparison of base and tuned model in one sentence."""
    interval = spread(comparison.interval, unit)
    test = f", {p_words(comparison.p_value)} by McNemar's exact test" if comparison.p_value is not None else ""
    level = f"{comparison.interval.level:.0%}"
    values = {
        "metric": metric_name(comparison.metric),
        "moved": "rose" if comparison.difference > 0 else "fell",
        "before": number(comparison.a, unit),
        "after": number(comparison.b, unit),
        "change": f"{difference(comparison.difference, unit)}, {level} interval {interval}{test}",
    }
    if comparison.verdict == "not separable":
        return fill_sentence("not_separable", **values, settle=describe_rows_to_settle(comparison))
    return fill_sentence("helped" if comparison.verdict == "better" else "hurt", **values)


# --- one against another ---------------------------------------------------------------------------------------------
def describe_lead(comparison: Comparison, unit: str, *, certain: bool, level: float = LEVEL) -> str:
    """Describe who leads whom, by how much and within which interval; if uncertain, how many rows would settle it.

    Args:
        comparison: of the two, in any order.
        unit: of the metric.
        certain: whether the two are told apart, all corrections made.
        level: the level that the correction asks for, for the number of rows.
    """
    ahead, within = _compute_lead(comparison)
    first, second = comparison.name_b, comparison.name_a
    if ahead <= 0:
        first, second, within = second, first, _negate_interval(within)
    values = {
        "first": first,
        "second": second,
        "size": amount(abs(ahead), unit),
        "metric": metric_name(comparison.metric),
        "within": _format_interval(within, unit),
        "rows": count(comparison.rows, "row"),
    }
    if certain:
        return fill_sentence("leads", **values)
    if ahead == 0:
        return fill_sentence("equal", **values)
    return fill_sentence("leads_uncertain", **values, settle=describe_rows_to_settle(comparison, level=level))


def describe_rows_to_settle(comparison: Comparison, *, level: float = LEVEL) -> str:
    """Describe, as a clause, how many rows such a difference would need."""
    rows = count(comparison.rows, "row")
    needed = rows_to_settle(comparison, level=level)
    if needed is None:
        return fill_sentence("settle_never", rows=rows)
    if needed > MOST_ROWS:
        return fill_sentence("settle_many", rows=rows, needed=f"{MOST_ROWS:,}")
    return fill_sentence("settle", rows=rows, needed=f"{_round_up(needed):,}")


def held_out_power(rows: int) -> str:
    """Describe which difference so many held-out rows can show; assumes that the answers to one row in four differ."""
    size = smallest_difference(rows)
    if rows < fewest_rows():
        return fill_sentence("held_out_too_few", rows=count(rows, "held-out row"), fewest=f"{fewest_rows():,}")
    goal = next((goal for goal in (0.05, 0.02, 0.01) if goal < size), 0.005)
    return fill_sentence(
        "held_out",
        rows=count(rows, "held-out row"),
        size=amount(size, "share"),
        goal=amount(goal, "share"),
        needed=f"{_round_up(rows_needed(goal)):,}",
    )


def worst_loss(comparison: Comparison) -> float:
    """Return how much the one that is behind may lose at worst, by the interval."""
    ahead, within = _compute_lead(comparison)
    return within.high if ahead >= 0 else -within.low


def amount(size: float, unit: str) -> str:
    """Format a difference without a sign: "4.0 points" between shares."""
    if unit == "share":
        points = round(100 * size, 1)
        return f"{points:.1f} point{'' if points == 1 else 's'}"
    return number(size, unit)


def _compute_lead(comparison: Comparison) -> tuple[float, Interval]:
    """Return how far b is ahead of a, positive where b is the better one, and the interval of that."""
    if comparison.better == "higher":
        return comparison.difference, comparison.interval
    return -comparison.difference, _negate_interval(comparison.interval)


def _negate_interval(interval: Interval) -> Interval:
    return interval.model_copy(update={"low": -interval.high, "high": -interval.low})


def _format_interval(interval: Interval, unit: str) -> str:
    return f"{interval.level:.0%} interval {spread(interval, unit)}"


def _round_up(rows: int) -> int:
    """Round a number of rows up to two digits: more would pretend to be exact."""
    step = int(10 ** max(0, math.floor(math.log10(rows)) - 1))
    return math.ceil(rows / step) * step


# --- the panel -------------------------------------------------------------------------------------------------------
#: A base model that answers a smaller share of the panel right has little to lose by accuracy.
_LITTLE_TO_LOSE: Final = 0.2


def describe_margin(test: PanelTest) -> str:
    """Format a margin with its unit: "5.0 points", "0.100 nats per token"."""
    size = amount(test.margin, test.unit)
    return size if test.unit == "share" else f"{size} {test.unit.replace('/', ' per ')}"


def describe_panel_test(test: PanelTest) -> str:
    """Describe whether the tuned model is worse than its base by more than the margin, in one sentence."""
    comparison, unit = test.comparison, test.unit
    level = f"{comparison.interval.level:.0%}"
    return fill_sentence(
        f"panel_{test.verdict}",
        margin=describe_margin(test),
        moved=f"{metric_name(comparison.metric)} {number(comparison.a, unit)} to {number(comparison.b, unit)}",
        change=f"{difference(comparison.difference, unit)}, {level} interval {spread(comparison.interval, unit)}",
        questions=count(comparison.rows, "question"),
    )


def _describe_panel_losses(result: EvaluationResult) -> list[str]:
    """Describe the figures by which the tuned model is worse than its base outside the task."""
    tests = result.panel.tests if isinstance(result.panel, PanelResult) else ()
    return [describe_panel_test(test) for test in tests if test.verdict == "worse"]


def describe_panel(result: PanelResult) -> list[str]:
    """Describe all tests of a panel, and whether there was anything to lose."""
    return [*(describe_panel_test(test) for test in result.tests), *describe_little_to_lose(result)]


def describe_little_to_lose(result: PanelResult) -> list[str]:
    """Say that accuracy has little to lose, where the base model answers few of the questions right."""
    base = result.system("base")
    if not result.tests or base is None or base.accuracy.value >= _LITTLE_TO_LOSE:
        return []
    likelihood = "" if result.test("log_likelihood") is None else fill_sentence("panel_floor_likelihood")
    return [fill_sentence("panel_floor", share=number(base.accuracy.value, "share"), likelihood=likelihood)]
