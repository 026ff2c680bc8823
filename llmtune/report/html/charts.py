"""Curves as the page's script draws them: which ones share a chart, and their points as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import MetricPoint, NotReported, Series, series_info
from llmtune.report.format import count, number
from llmtune.report.html.elements import el
from llmtune.report.html.page import sorted_by, table

#: Points of one curve in a page, at most; of a longer one the lowest and highest of each stretch are kept.
MOST_POINTS = 4000

#: Curves that belong into one chart though their names end differently.
_TOGETHER = {
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
    """Which chart a series is drawn in: that of its measurement, whatever was measured on."""
    last = series.rpartition("/")[2]
    return _TOGETHER.get(last, last)


def chart_data(series: Mapping[str, Series | NotReported], *, label: str = "") -> list[dict[str, Any]]:
    """The charts of some series: "id", "title", "unit", and curves with "name", "label", "steps" and "values"."""
    charts: dict[str, dict[str, Any]] = {}
    for name, each in series.items():
        if not isinstance(each, Series) or not each.points:
            continue
        kind = kind_of(name)
        chart = charts.setdefault(kind, {"id": kind, "title": _title(kind), "unit": each.unit, "curves": []})
        chart["curves"].append(curve(each, label or each.info.title))
    order = {kind: place for place, kind in enumerate(_FIRST)}
    return sorted(charts.values(), key=lambda chart: order.get(chart["id"], len(order)))


def curve(series: Series, label: str) -> dict[str, Any]:
    """One curve. A value that no axis can show (NaN, infinite) is a gap."""
    kept = thinned(series.points)
    return {
        "name": series.name,
        "label": label,
        "steps": [point.step for point in kept],
        "values": [plain_number(point.value) for point in kept],
        "of": len(series.points),
    }


#: The curves that several runs are laid over each other in, and what they are called.
OVERLAID = (
    ("validation/loss", "Validation loss"),
    ("train/loss", "Training loss"),
    ("train/learning_rate", "Learning rate"),
    ("validation/token_accuracy", "Validation token accuracy"),
)


def overlaid(named: Sequence[tuple[str, Mapping[str, Series | NotReported]]]) -> list[dict[str, Any]]:
    """One chart a series, one curve a run, under the run's name; a run keeps its colour from chart to chart."""
    charts = []
    for series_name, title in OVERLAID:
        curves = []
        unit = ""
        for place, (label, found) in enumerate(named):
            series = found.get(series_name)
            if isinstance(series, Series) and series.points:
                unit = series.unit
                curves.append(curve(series, label) | {"colour": place})
        if curves:
            charts.append({"id": series_name, "title": title, "unit": unit, "curves": curves})
    return charts


def plain_number(value: float) -> float | None:
    """The value to seven significant digits, as JSON can hold it; None when it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def thinned(points: Sequence[MetricPoint], most: int = MOST_POINTS) -> Sequence[MetricPoint]:
    """At most `most` points: first, last, and of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretches = most // 2 - 1
    kept = {0, len(points) - 1}
    for stretch in range(stretches):
        start, end = len(points) * stretch // stretches, len(points) * (stretch + 1) // stretches
        finite = [place for place in range(start, end) if math.isfinite(points[place].value)]
        if finite:
            kept.add(min(finite, key=lambda place: points[place].value))
            kept.add(max(finite, key=lambda place: points[place].value))
        else:
            kept.add(start)
    return [points[place] for place in sorted(kept)]


def chart_places(charts: Sequence[Mapping[str, Any]]) -> Markup:
    """Where the script draws: the first chart wide, the others beside each other."""
    figures = [
        el(
            "figure",
            el(
                "figcaption",
                str(chart["title"]),
                el("small", f" {chart['unit']}") if chart["unit"] not in ("", "share") else None,
            ),
            el("div", class_="plot", data_chart=chart["id"]),
            class_="first" if place == 0 else None,
        )
        for place, chart in enumerate(charts)
    ]
    if not figures:
        return Markup("")
    how = "Drag to zoom, double-click to see all; with the keyboard: arrows move the cursor, + and - zoom, 0 shows all."
    return el("div", figures, class_="charts") + el("p", how, class_="hint screen")


def series_table(series: Mapping[str, Series | NotReported]) -> Markup:
    """First, last and best of each series with its source, and the reason of those that are not there."""
    rows = []
    thin = []
    for name, each in series.items():
        if isinstance(each, NotReported) or not each.points:
            why = each if isinstance(each, NotReported) else NotReported("no point was reported")
            rows.append([series_info(name).title, "", "", "", "", el("span", str(why), class_="dim")])
            continue
        if len(each.points) > MOST_POINTS:
            thin.append(f"{each.info.title} ({count(len(each.points), 'point')})")
        unit = each.unit if each.unit == "share" else ""
        first, last, best = each.first, each.last, each.best
        rows.append(
            [
                el("td", each.info.title, title=f"{name}: {each.info.meaning}"),
                sorted_by(first.value, number(first.value, unit), class_="n") if first else "",
                sorted_by(last.value, number(last.value, unit), class_="n") if last else "",
                sorted_by(best.value, number(best.value, unit), el("small", f" at {best.step}"), class_="n")
                if best
                else "",
                sorted_by(len(each.points), f"{len(each.points):,}", class_="n"),
                ", ".join(source.replace("_", " ") for source in each.sources),
            ]
        )
    shown = table(
        ["series", "first", "last", "best", "points", "source"],
        rows,
        numbers=(1, 2, 3, 4),
        caption="Series",
    )
    if not thin:
        return shown
    says = f"Drawn with the lowest and highest value of each stretch: {', '.join(thin)}. The JSON report holds all."
    return shown + el("p", says, class_="hint")


def _title(kind: str) -> str:
    return _TITLES.get(kind) or kind.replace("_", " ").capitalize()
