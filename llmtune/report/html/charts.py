"""Curves for the page's script: which ones share a chart, and their points as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.metrics.points import MetricPoint, NotReported, Series

#: Most points of one curve in a page; a longer one is reduced to the lowest and highest of each stretch.
MOST_POINTS = 4000

#: Curves that share a chart though their names end differently.
_SHARED_CHARTS = {
    "full_loss": "loss",
    "full_token_accuracy": "token_accuracy",
    "reward_preferred": "reward",
    "reward_rejected": "reward",
}
_FIRST = ("loss", "reward", "learning_rate", "token_accuracy", "accuracy")
_TITLES = {
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "token_accuracy": "Token accuracy",
    "reward": "Reward",
    "reward_margin": "Reward margin",
    "reward_accuracy": "Preference accuracy",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Speed",
    "tokens": "Tokens",
}


def kind_of(series: str) -> str:
    """Return the chart of a series: one per measurement, whichever rows it was measured on."""
    last = series.rpartition("/")[2]
    return _SHARED_CHARTS.get(last, last)


def chart_data(series_by_name: Mapping[str, Series | NotReported], *, label: str = "") -> list[dict[str, Any]]:
    """Return the charts of some series: "id", "title", "unit", and curves with "name", "label", "steps", "values"."""
    charts: dict[str, dict[str, Any]] = {}
    for name, series in series_by_name.items():
        if not isinstance(series, Series) or not series.points:
            continue
        kind = kind_of(name)
        chart = charts.setdefault(kind, {"id": kind, "title": _title(kind), "unit": series.unit, "curves": []})
        chart["curves"].append(curve(series, label or series.info.title))
    order = {kind: index for index, kind in enumerate(_FIRST)}
    return sorted(charts.values(), key=lambda chart: order.get(chart["id"], len(order)))


def curve(series: Series, label: str) -> dict[str, Any]:
    """Return one curve as plain data. A value that no axis can show (NaN, infinite) is a gap."""
    points = thin_points(series.points)
    return {
        "name": series.name,
        "label": label,
        "steps": [point.step for point in points],
        "values": [plain_number(point.value) for point in points],
        "of": len(series.points),
    }


#: The series that several runs are compared by, and the titles of their charts.
OVERLAID_SERIES = (
    ("validation/loss", "Validation loss"),
    ("train/loss", "Training loss"),
    ("train/learning_rate", "Learning rate"),
    ("validation/token_accuracy", "Validation token accuracy"),
    ("validation/reward", "Validation reward"),
    ("train/reward", "Training reward"),
)


def overlay_charts(named: Sequence[tuple[str, Mapping[str, Series | NotReported]]]) -> list[dict[str, Any]]:
    """Return one chart per series with one curve per run; a run has the same colour in every chart."""
    charts = []
    for series_name, title in OVERLAID_SERIES:
        curves = []
        unit = ""
        for colour, (label, series_by_name) in enumerate(named):
            series = series_by_name.get(series_name)
            if isinstance(series, Series) and series.points:
                unit = series.unit
                curves.append(curve(series, label) | {"colour": colour})
        if curves:
            charts.append({"id": series_name, "title": title, "unit": unit, "curves": curves})
    return charts


def plain_number(value: float) -> float | None:
    """Return the value to seven significant digits; None when it is not finite, which JSON cannot hold."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def thin_points(points: Sequence[MetricPoint], limit: int = MOST_POINTS) -> Sequence[MetricPoint]:
    """Reduce a curve to `limit` points: first, last, lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        return points
    stretches = limit // 2 - 1
    indices = {0, len(points) - 1}
    for stretch in range(stretches):
        start, end = len(points) * stretch // stretches, len(points) * (stretch + 1) // stretches
        finite = [index for index in range(start, end) if math.isfinite(points[index].value)]
        if finite:
            indices.add(min(finite, key=lambda index: points[index].value))
            indices.add(max(finite, key=lambda index: points[index].value))
        else:
            indices.add(start)
    return [points[index] for index in sorted(indices)]


def _title(kind: str) -> str:
    return _TITLES.get(kind) or kind.replace("_", " ").capitalize()
