"""Curves for the page's script: which ones share a chart, and their points as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import MetricPoint, NotReported, Series, series_info
from llmtune.report.format import count, number
from llmtune.report.html.elements import el
from llmtune.report.html.page import sorted_by, table

#: Most points of one curve in a page; a longer one is reduced to the lowest and highest of each stretch.
MOST_POINTS = 4000

#: Curves that share a chart though their names end differently.
_SHARED_CHARTS = {
    "full_loss": "loss",
    "full_token_accuracy": "token_accuracy",
    "reward_preferred": "reward",
    "reward_rejected": "reward",
}
_FIRST = ("loss", "learning_rate", "token_accuracy", "accuracy")
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


def chart_figures(charts: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the figures that the script draws in: the first one wide, the others beside each other."""
    figures = [
        el(
            "figure",
            el(
                "figcaption",
                str(chart["title"]),
                el("small", f" {chart['unit']}") if chart["unit"] not in ("", "share") else None,
            ),
            el("div", class_="plot", data_chart=chart["id"]),
            class_="first" if index == 0 else None,
        )
        for index, chart in enumerate(charts)
    ]
    if not figures:
        return Markup("")
    how = "Drag to zoom, double-click to see all; with the keyboard: arrows move the cursor, + and - zoom, 0 shows all."
    return el("div", figures, class_="charts") + el("p", how, class_="hint screen")


def series_table(series_by_name: Mapping[str, Series | NotReported]) -> Markup:
    """Return a table of first, last and best value of each series, and why a series is missing."""
    rows = []
    thin = []
    for name, series in series_by_name.items():
        if isinstance(series, NotReported) or not series.points:
            why = series if isinstance(series, NotReported) else NotReported("no point was reported")
            rows.append([series_info(name).title, "", "", "", "", el("span", str(why), class_="dim")])
            continue
        if len(series.points) > MOST_POINTS:
            thin.append(f"{series.info.title} ({count(len(series.points), 'point')})")
        unit = series.unit if series.unit == "share" else ""
        first, last, best = series.first, series.last, series.best
        rows.append(
            [
                el("td", series.info.title, title=f"{name}: {series.info.meaning}"),
                sorted_by(first.value, number(first.value, unit), class_="n") if first else "",
                sorted_by(last.value, number(last.value, unit), class_="n") if last else "",
                sorted_by(best.value, number(best.value, unit), el("small", f" at {best.step}"), class_="n")
                if best
                else "",
                sorted_by(len(series.points), f"{len(series.points):,}", class_="n"),
                ", ".join(source.replace("_", " ") for source in series.sources),
            ]
        )
    rows_table = table(
        ["series", "first", "last", "best", "points", "source"],
        rows,
        numbers=(1, 2, 3, 4),
        caption="Series",
    )
    if not thin:
        return rows_table
    says = f"Drawn with the lowest and highest value of each stretch: {', '.join(thin)}. The JSON report holds all."
    return rows_table + el("p", says, class_="hint")


def _title(kind: str) -> str:
    return _TITLES.get(kind) or kind.replace("_", " ").capitalize()
