"""Numbers as text: the same in every rendering."""

from __future__ import annotations

import math
import re

from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult
from llmtune.metrics.intervals import Interval
from llmtune.redaction.control_chars import escape_controls
from llmtune.redaction.secrets import scrub


def escape_control_chars(text: str) -> str:
    """Return the text without secrets and with its control characters written out, so that no terminal obeys them.

    Tabs become two spaces.
    """
    return escape_controls(scrub(text).replace("\t", "  ")).replace("\r", "\\x0d")


def one_line(text: str, limit: int = 200) -> str:
    """Return the text on one line, cut at `limit` characters."""
    flat = " ".join(escape_control_chars(text).split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}\u2026"


def metric_name(name: str) -> str:
    """Return a metric's name as people write it: "macro F1" for macro_f1, "ROUGE-L" for rouge_l."""
    spaced = re.sub(r"_f(\d)", r" F\1", name)
    return {"rouge_l": "ROUGE-L", "chrf": "chrF", "ece": "calibration error", "brier": "Brier score"}.get(
        name, spaced.replace("_", " ")
    )


def number(value: float, unit: str = "") -> str:
    """Format a value in its unit: "91.0%" for a share, three decimals for small numbers, fewer for large ones."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    if unit == "share":
        return f"{100 * value:.1f}%"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def difference(value: float, unit: str = "") -> str:
    """Format a difference with its sign: "+4.0 points" between shares."""
    if unit == "share" and math.isfinite(value):
        points = round(100 * value, 1)
        return f"{points:+.1f} point{'' if abs(points) == 1 else 's'}"
    return ("+" if value > 0 else "") + number(value, unit)


def spread(interval: Interval, unit: str = "") -> str:
    """Format an interval without its level: "86.2 to 94.2" (per cent for shares)."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "unknown"
    if unit == "share":
        return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return f"{number(interval.low)} to {number(interval.high)}"


def p_words(p_value: float) -> str:
    """Format a p-value: "p < 0.001" or "p = 0.012"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def seconds(value: float) -> str:
    """Format a length of time in seconds: "850 ms", "9.4 s", "2 min 10 s", "1 h 05 min"."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    total = round(value)
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def money(value: float, currency: str) -> str:
    """Format an amount of money: "12.40 USD"."""
    return f"{value:,.2f} {currency}"


def count(amount: int, noun: str) -> str:
    """Format a number of things: "1 row", "3,080 rows"."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def measured(value: MetricValue) -> str:
    """Format a metric with its interval: "91.0% (95% interval 86.2 to 94.2)"."""
    level = f"{value.interval.level:.0%}"
    return f"{number(value.value, value.unit)} ({level} interval {spread(value.interval, value.unit)})"


def judged_name(result: EvaluationResult) -> str:
    """Return the name of the system an evaluation is about, whether it answered or not: "tuned", else the last."""
    return "tuned" if "tuned" in result.systems else next(reversed(result.systems), "tuned")


def pick_system(result: EvaluationResult, after: str) -> tuple[SystemResult | None, str]:
    """Return the system whose answers are shown, and " of the base model" where that is another than `after`."""
    system = result.system(after)
    if system is not None:
        return system, ""
    system = next((candidate for name in result.systems if (candidate := result.system(name))), None)
    return system, f" of the {one_line(system.name, 40)} model" if system is not None else ""
