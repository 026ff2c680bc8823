"""Cells of tables: a figure with its interval, an amount with its unit, and why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from llmtune.evaluation.results import MetricValue
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.points import NotReported
from llmtune.report.document import Inline, List, Span, Style
from llmtune.report.format import difference, number, spread

Value = TypeVar("Value", int, float, str)

DASH = "\u2013"

#: How a verdict of a comparison is coloured.
VERDICT_STYLES: dict[str, Style] = {"better": "good", "worse": "bad", "not separable": "doubt"}

#: How a verdict on the panel is coloured.
PANEL_STYLES: dict[str, Style] = {"not worse": "good", "worse": "bad", "undecided": "doubt"}


def figure_cell(metric: MetricValue | NotReported | None) -> Span:
    """Return a metric with its interval; a dash where there is none."""
    if metric is None or isinstance(metric, NotReported):
        return Span(DASH, title=str(metric or ""))
    return Span(number(metric.value, metric.unit), "strong", spread(metric.interval, metric.unit), metric.value)


def change_cell(comparison: Comparison, unit: str, style: Style = "") -> Span:
    """Return the difference of a comparison with its interval."""
    text = difference(comparison.difference, unit)
    return Span(text, style, spread(comparison.interval, unit), comparison.difference)


def amount_cell(value: Value | NotReported | None, describe: Callable[[Value], str]) -> Span:
    """Return an amount; a dash, with the reason for readers who point at it, where it is not reported."""
    if value is None:
        return Span("")
    if isinstance(value, NotReported):
        return Span(DASH, title=str(value))
    return Span(describe(value), value=value)


def reported(value: Value | NotReported, describe: Callable[[Value], str]) -> Span:
    """Return a value in words; the reason where it is not reported."""
    return Span(str(value), "dim") if isinstance(value, NotReported) else Span(describe(value))


def bullets(lines: Sequence[Inline], style: Style = "") -> tuple[List, ...]:
    """Return the lines as a list, and nothing where there are none."""
    return (List(lines, style),) if lines else ()
