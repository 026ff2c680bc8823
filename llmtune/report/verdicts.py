"""Which sentence is so: the headline of a report, who leads whom, whether a gate is passed.

The sentences themselves are templates in `llmtune.metrics.sentences`. A verdict always carries the difference and its
interval, and one that is not certain says how many rows would settle it.
"""

from __future__ import annotations

import math
from typing import Final

from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.comparison import Comparison, fewest_rows, rows_needed, rows_to_settle, smallest_difference
from llmtune.metrics.intervals import LEVEL, Interval
from llmtune.metrics.points import NotReported
from llmtune.metrics.sentences import say
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
from llmtune.report.schema import Report

#: A pair is told apart when its corrected p-value is at most this.
ALPHA: Final = 0.05

#: More rows than this are not asked for by number.
MOST_ROWS: Final = 100_000

#: The baselines that cost next to nothing, and what they are called at the beginning of a sentence.
CHEAP: Final[dict[str, str]] = {
    "linear": "A linear model (TF-IDF and logistic regression)",
    "nearest": "Copying the answer of the nearest training row",
    "few_shot": "The base model with examples in its prompt",
}

#: A cheap baseline within so much of the tuned model, at worst, does as well (2 points of a share).
AS_WELL: Final = 0.02


# --- a report --------------------------------------------------------------------------------------------------------
def headline(report: Report) -> str:
    """What happened, and what it is worth."""
    state = report.identity.state
    if state is RunState.FAILED:
        return say("failed", reason=one_line(report.error or "the backend gives no reason", 400))
    if state is RunState.CANCELLED:
        checkpoints = [id for name, id in report.artifacts.items() if name.startswith("checkpoint:")]
        return say("cancelled_checkpoint", model=one_line(checkpoints[-1])) if checkpoints else say("cancelled")
    if state is RunState.LOST:
        return say("lost_because", reason=one_line(report.error, 400)) if report.error else say("lost")
    if not state.final:
        return say("unfinished", state=state.value)
    if isinstance(report.evaluation, NotReported):
        return say("not_evaluated", reason=one_line(report.evaluation.reason, 300))
    return judged(report.evaluation)


def judged(result: EvaluationResult) -> str:
    """The verdict of an evaluation, by its main metric; figures stand under the name of the system they are of."""
    after = judged_name(result)
    tuned = result.system(after)
    metric = tuned.get(result.main) if tuned is not None else None
    if tuned is None or metric is None:
        return _not_measured(result, after)
    comparison = result.comparison(a="base", b=after)
    if comparison is None:
        base = result.systems.get("base")
        why = f"; {say('base_not_asked', reason=_reason(base.reason))}" if isinstance(base, NotReported) else ""
        first = f"{_reaches(after, metric, result)}{why}."
    else:
        first = verdict(comparison, metric.unit)
        if result.labels_told is False:
            first = f"{first} {say('untold_base')}"
    parts = (first, _outside(tuned), _majority(result, after), *cheap_baselines(result))
    return " ".join(part for part in parts if part)


def _outside(tuned: SystemResult) -> str:
    found = tuned.classification
    if found is None or not found.outside:
        return ""
    likeliest = tuned.get("likelihood_accuracy")
    return say(
        "outside",
        amount=f"{found.outside:,}",
        rows=f"{found.rows:,}",
        share=number(found.outside / found.rows, "share"),
        labels=len(found.labels),
        likelihood="" if likeliest is None else say("likelihood", figure=number(likeliest.value, "share")),
    )


def outside_shares(result: EvaluationResult) -> str:
    """How many answers of each system were none of the labels: one line; empty where no answer was."""
    found = {
        name: system.classification
        for name in result.systems
        if (system := result.system(name)) is not None and system.classification is not None
    }
    if not any(each.outside for each in found.values()):
        return ""
    shares = (f"{one_line(name, 40)} {number(each.outside / each.rows, 'share')}" for name, each in found.items())
    return say("outside_shares", shares=", ".join(shares))


def _majority(result: EvaluationResult, after: str) -> str:
    comparison = result.comparison(metric="accuracy", a="majority", b=after)
    if comparison is None or result.majority is None:
        return ""
    name = {"better": "majority", "worse": "majority_more", "not separable": "majority_alike"}[comparison.verdict]
    label = one_line(result.majority.label, 40)
    return say(name, label=label, figure=number(comparison.a, "share"), name=one_line(after, 40))


def cheap_baselines(result: EvaluationResult) -> list[str]:
    """What models that cost next to nothing reach beside the tuned one, a sentence each."""
    after = judged_name(result)
    tuned = result.system(after)
    metric = tuned.get(result.main) if tuned is not None else None
    if metric is None:
        return []
    pairs = [(who, result.comparison(a=name, b=after)) for name, who in CHEAP.items()]
    return [cheap(who, comparison, metric.unit) for who, comparison in pairs if comparison is not None]


def cheap(who: str, comparison: Comparison, unit: str) -> str:
    """A cheap baseline (a) beside the tuned model (b)."""
    ahead, within = _ahead(comparison)  # of the tuned model
    values = {
        "who": who,
        "figure": number(comparison.a, unit),
        "gap": amount(abs(ahead), unit),
        "within": _within(within, unit),
        "signed": f"{amount(abs(ahead), unit)} {'less' if ahead > 0 else 'more'}",
    }
    if comparison.verdict == "better":
        return say("cheap_less", **values)
    if comparison.verdict == "worse":
        return say("cheap_more", **(values | {"within": _within(_turned(within), unit)}))
    if ahead < 0:
        rows = count(comparison.rows, "row")
        return say("cheap_ahead", **(values | {"within": _within(_turned(within), unit)}), rows=rows)
    if ahead == 0 or (unit == "share" and within.high <= AS_WELL):
        return say("cheap_alike", **values)
    return say("cheap_unclear", **values, settle=settle(comparison))


def _not_measured(result: EvaluationResult, after: str) -> str:
    """The headline where the system in question has no figure: whose figures there are, and why its own are missing."""
    reached = [
        _reaches(name, metric, result)
        for name in result.systems
        if name not in (after, *CHEAP) and (system := result.system(name)) and (metric := system.get(result.main))
    ]
    if reached:
        return f"{'; '.join(reached)}; {not_asked(result, after)}."
    if after not in result.systems:
        return say("nothing_measured")
    reason = not_asked(result, after)
    return f"{say('nothing_measured')} {reason[0].upper()}{reason[1:]}."


def _reaches(name: str, metric: MetricValue, result: EvaluationResult) -> str:
    return say(
        "reaches",
        name=one_line(name, 40),
        metric=metric_name(metric.name),
        figure=measured(metric),
        rows=count(result.rows, "held-out row"),
    )


def not_asked(result: EvaluationResult, name: str) -> str:
    """Return "the tuned model could not be asked: ..." for a system without the main metric."""
    system = result.systems.get(name)
    who = one_line(name, 40)
    if isinstance(system, NotReported):
        return say("could_not_ask", name=who, reason=_reason(system.reason))
    if system is None:
        return say("was_not_asked", name=who)
    reason = system.not_reported.get(result.main)
    clause = say("no_metric", name=who, metric=metric_name(result.main))
    return clause + (f": {_reason(reason)}" if reason else "")


def _reason(text: str) -> str:
    return one_line(text, 200).rstrip(".")


def verdict(comparison: Comparison, unit: str) -> str:
    """A comparison of base and tuned in a sentence."""
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
        return say("not_separable", **values, settle=settle(comparison))
    return say("helped" if comparison.verdict == "better" else "hurt", **values)


# --- one against another ---------------------------------------------------------------------------------------------
def lead(comparison: Comparison, unit: str, *, certain: bool, level: float = LEVEL) -> str:
    """Who leads whom, by how much, within which interval; and how many rows would settle it, where it is not certain.

    Args:
        comparison: of the two, in any order.
        unit: of the metric.
        certain: whether the two are told apart, all corrections made.
        level: the level that the correction asks for, for the number of rows.
    """
    ahead, within = _ahead(comparison)
    first, second = comparison.name_b, comparison.name_a
    if ahead <= 0:
        first, second, within = second, first, _turned(within)
    values = {
        "first": first,
        "second": second,
        "size": amount(abs(ahead), unit),
        "metric": metric_name(comparison.metric),
        "within": _within(within, unit),
        "rows": count(comparison.rows, "row"),
    }
    if certain:
        return say("leads", **values)
    if ahead == 0:
        return say("equal", **values)
    return say("leads_uncertain", **values, settle=settle(comparison, level=level))


def settle(comparison: Comparison, *, level: float = LEVEL) -> str:
    """How many rows such a difference would need: a clause."""
    rows = count(comparison.rows, "row")
    needed = rows_to_settle(comparison, level=level)
    if needed is None:
        return say("settle_never", rows=rows)
    if needed > MOST_ROWS:
        return say("settle_many", rows=rows, needed=f"{MOST_ROWS:,}")
    return say("settle", rows=rows, needed=f"{_rounded(needed):,}")


def held_out_power(rows: int) -> str:
    """What so many held-out rows can tell, before anything is paid for; the answers of one row in four differ."""
    size = smallest_difference(rows)
    if rows < fewest_rows():
        return say("held_out_too_few", rows=count(rows, "held-out row"), fewest=f"{fewest_rows():,}")
    goal = next((goal for goal in (0.05, 0.02, 0.01) if goal < size), 0.005)
    return say(
        "held_out",
        rows=count(rows, "held-out row"),
        size=amount(size, "share"),
        goal=amount(goal, "share"),
        needed=f"{_rounded(rows_needed(goal)):,}",
    )


def worst_loss(comparison: Comparison) -> float:
    """Return how much the one that is behind may lose at worst, by the interval."""
    ahead, within = _ahead(comparison)
    return within.high if ahead >= 0 else -within.low


def amount(size: float, unit: str) -> str:
    """A difference without a sign: "4.0 points" between shares."""
    if unit == "share":
        points = round(100 * size, 1)
        return f"{points:.1f} point{'' if points == 1 else 's'}"
    return number(size, unit)


def _ahead(comparison: Comparison) -> tuple[float, Interval]:
    """Return how far b is ahead of a, positive where b is the better one, and the interval of that."""
    if comparison.better == "higher":
        return comparison.difference, comparison.interval
    return -comparison.difference, _turned(comparison.interval)


def _turned(interval: Interval) -> Interval:
    return interval.model_copy(update={"low": -interval.high, "high": -interval.low})


def _within(interval: Interval, unit: str) -> str:
    return f"{interval.level:.0%} interval {spread(interval, unit)}"


def _rounded(rows: int) -> int:
    """A number of rows to two digits, upwards: more would pretend to know."""
    step = int(10 ** max(0, math.floor(math.log10(rows)) - 1))
    return math.ceil(rows / step) * step
