"""Numbers and verdicts in words: the same in every rendering."""

from __future__ import annotations

import math
import re

from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported
from llmtune.provider.types import RunState
from llmtune.redaction.control_chars import escape_controls
from llmtune.report.schema import Report


def seen(text: str) -> str:
    """The text with control characters written out, so that no terminal obeys them; tabs become two spaces."""
    return escape_controls(text.replace("\t", "  ")).replace("\r", "\\x0d")


def one_line(text: str, most: int = 200) -> str:
    """The text on one line, cut at `most` characters."""
    flat = " ".join(seen(text).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}\u2026"


def metric_name(name: str) -> str:
    """ "macro F1" for macro_f1, "rouge l" for rouge_l: as people write it."""
    spaced = re.sub(r"_f(\d)", r" F\1", name)
    return {"rouge_l": "ROUGE-L", "chrf": "chrF"}.get(name, spaced.replace("_", " "))


def number(value: float, unit: str = "") -> str:
    """A value in its unit: "91.0%" for a share, three decimals for small numbers, fewer for large ones."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    if unit == "share":
        return f"{100 * value:.1f}%"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def difference(value: float, unit: str = "") -> str:
    """A difference with its sign: "+4.0 points" between shares."""
    if unit == "share" and math.isfinite(value):
        points = round(100 * value, 1)
        return f"{points:+.1f} point{'' if abs(points) == 1 else 's'}"
    return ("+" if value > 0 else "") + number(value, unit)


def spread(interval: Interval, unit: str = "") -> str:
    """An interval without its level: "86.2 to 94.2" (per cent for shares)."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "unknown"
    if unit == "share":
        return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return f"{number(interval.low)} to {number(interval.high)}"


def p_words(p_value: float) -> str:
    """ "p < 0.001" or "p = 0.012"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def seconds(value: float) -> str:
    """A length of time: "850 ms", "9.4 s", "2 min 10 s", "1 h 05 min"."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def money(value: float, currency: str) -> str:
    """ "12.40 USD"."""
    return f"{value:,.2f} {currency}"


def count(amount: int, noun: str) -> str:
    """ "1 row", "3,080 rows"."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def measured(value: MetricValue) -> str:
    """ "91.0% (95% interval 86.2 to 94.2)"."""
    level = f"{value.interval.level:.0%}"
    return f"{number(value.value, value.unit)} ({level} interval {spread(value.interval, value.unit)})"


def headline(report: Report) -> str:
    """What happened, and what it is worth."""
    state = report.identity.state
    if state is RunState.FAILED:
        return f"The run failed: {one_line(report.error or 'the backend gives no reason', 400)}"
    if state is RunState.CANCELLED:
        return "The run was cancelled; there is no model."
    if state is RunState.LOST:
        return "The run is lost: it is not known whether the backend took the job."
    if not state.final:
        return f"The run is not over yet: it is {state.value}."
    if isinstance(report.evaluation, NotReported):
        return f"A model was tuned, and not evaluated: {one_line(report.evaluation.reason, 300)}"
    return judged(report.evaluation)


def judged(result: EvaluationResult) -> str:
    """The verdict of an evaluation, by its main metric; figures stand under the name of the system they are of."""
    after = judged_name(result)
    tuned = result.system(after)
    metric = tuned.get(result.main) if tuned is not None else None
    if metric is None:
        return _not_measured(result, after)
    comparison = result.comparison(a="base", b=after)
    if comparison is None:
        base = result.systems.get("base")
        why = f"; the base model was not asked: {_reason(base.reason)}" if isinstance(base, NotReported) else ""
        first = f"{_reaches(after, metric, result)}{why}."
    else:
        first = verdict(comparison, metric.unit)
    majority = result.comparison(metric="accuracy", a="majority", b=after)
    if majority is None or result.majority is None:
        return first
    label = one_line(result.majority.label, 40)
    always = f"Always answering '{label}' reaches {number(majority.a, 'share')}"
    if majority.verdict == "better":
        return f"{first} {always}."
    name = one_line(after, 40)
    worse = (
        f"more than the {name} model"
        if majority.verdict == "worse"
        else f"which is not separable from the {name} model"
    )
    return f"{first} {always}, {worse}."


def judged_name(result: EvaluationResult) -> str:
    """Return the name of the system an evaluation is about, whether it answered or not: "tuned", else the last."""
    return "tuned" if "tuned" in result.systems else next(reversed(result.systems), "tuned")


def pick_system(result: EvaluationResult, after: str) -> tuple[SystemResult | None, str]:
    """Return the system whose answers are shown, and " of the base model" where that is another than `after`."""
    system = result.system(after)
    if system is not None:
        return system, ""
    system = next((found for name in result.systems if (found := result.system(name))), None)
    return system, f" of the {one_line(system.name, 40)} model" if system is not None else ""


def not_asked(result: EvaluationResult, name: str) -> str:
    """Return "the tuned model could not be asked: ..." for a system without the main metric."""
    system = result.systems.get(name)
    who = f"the {one_line(name, 40)} model"
    if isinstance(system, NotReported):
        return f"{who} could not be asked: {_reason(system.reason)}"
    if system is None:
        return f"{who} was not asked"
    reason = system.not_reported.get(result.main)
    return f"{who} has no {metric_name(result.main)}" + (f": {_reason(reason)}" if reason else "")


def _not_measured(result: EvaluationResult, after: str) -> str:
    """The headline where the system in question has no figure: whose figures there are, and why its own are missing."""
    reached = [
        _reaches(name, metric, result)
        for name in result.systems
        if name != after and (system := result.system(name)) and (metric := system.get(result.main))
    ]
    if reached:
        return f"{'; '.join(reached)}; {not_asked(result, after)}."
    nothing = "A model was tuned; nothing could be measured on the held-out rows"
    reason = not_asked(result, after)
    return f"{nothing}. {reason[0].upper()}{reason[1:]}." if after in result.systems else f"{nothing}."


def _reaches(name: str, metric: MetricValue, result: EvaluationResult) -> str:
    figure = f"{metric_name(metric.name)} {measured(metric)}"
    return f"The {one_line(name, 40)} model reaches {figure} on {count(result.rows, 'held-out row')}"


def _reason(text: str) -> str:
    return one_line(text, 200).rstrip(".")


def verdict(comparison: Comparison, unit: str) -> str:
    """A comparison of base and tuned in a sentence."""
    name = metric_name(comparison.metric)
    before, after = number(comparison.a, unit), number(comparison.b, unit)
    interval = spread(comparison.interval, unit)
    level = f"{comparison.interval.level:.0%}"
    test = f", {p_words(comparison.p_value)} by McNemar's exact test" if comparison.p_value is not None else ""
    change = f"{difference(comparison.difference, unit)}, {level} interval {interval}{test}"
    if comparison.verdict == "not separable":
        rows = count(comparison.rows, "row")
        return (
            f"Base and tuned model are not separable: {name} was {before} and is {after} ({change});"
            f" with {rows} that can be chance."
        )
    helped = "helped" if comparison.verdict == "better" else "hurt"
    moved = "rose" if comparison.difference > 0 else "fell"
    return f"Tuning {helped}: {name} {moved} from {before} to {after} ({change})."
