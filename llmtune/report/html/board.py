"""The page of a comparison: who is better, what that costs, and every member's curves in the same charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import NotReported
from llmtune.report.board import Board, Pair, Standing
from llmtune.report.boardtext import HEADINGS, cells
from llmtune.report.html.charts import chart_places, curve
from llmtune.report.html.elements import Child, el
from llmtune.report.html.page import Section, page, sorted_by, table
from llmtune.report.html.run import state_mark
from llmtune.report.words import difference, metric_name, p_words

_CURVES = (
    ("validation/loss", "Validation loss"),
    ("train/loss", "Training loss"),
    ("train/learning_rate", "Learning rate"),
    ("validation/token_accuracy", "Validation token accuracy"),
)


def render(board: Board) -> str:
    """The board as one HTML file."""
    charts = overlaid(board)
    first, *others = board.verdict or ("No member has a result.",)
    header = el(
        "header",
        el("h1", board.name),
        el("p", el("span", f"{len(board.standings)} side by side"), el("span", board.group), class_="line"),
        el("p", first, class_="verdict", id="headline"),
        el("ul", [el("li", each) for each in others]) if others else None,
    )
    return page(f"{board.name} \u00b7 comparison", sections(board, charts), header=header, data={"charts": charts})


def sections(board: Board, charts: list[dict[str, Any]]) -> Iterator[Section]:
    """Every section of the page."""
    yield Section("members", "Members", _members(board), short="Members")
    yield Section("curves", "Curves", chart_places(charts))
    yield Section("pairs", "Told apart?", _pairs(board))
    yield Section("lost", "Not used, or converted", _lost(board), short="Settings")
    yield Section("lifecycle", "Until when", _dates(board))
    notes = el("ul", [el("li", each) for each in board.warnings]) if board.warnings else Markup("")
    yield Section("notes", "Notes", notes)


def overlaid(board: Board) -> list[dict[str, Any]]:
    """One chart a series, one curve a member; a member keeps its colour from chart to chart."""
    tuned = [each for each in board.standings if each.kind == "tuned"]
    charts = []
    for name, title in _CURVES:
        curves = [
            curve(each.curves[name], each.label) | {"colour": place % 8}
            for place, each in enumerate(tuned)
            if name in each.curves and each.curves[name].points
        ]
        if curves:
            unit = next(each.curves[name].unit for each in tuned if name in each.curves)
            charts.append({"id": name, "title": title, "unit": unit, "curves": curves})
    return charts


def _members(board: Board) -> Markup:
    headings = [*HEADINGS, "model", "state"]
    headings[1] = metric_name(board.metric) or "quality"
    rows = [_row(each) for each in board.standings]
    caption = f"By {metric_name(board.metric)} on {board.rows} rows that no member was trained on"
    return table(headings, rows, numbers=(1, 3, 4, 5, 6, 7), caption=caption)


def _row(each: Standing) -> list[Child]:
    shown = cells(each)
    value = 0.0 if isinstance(each.quality, NotReported) else each.quality.value
    state = each.state.value if each.state is not None else ""
    return [
        el("td", el("b", shown[0]) if each.kind == "tuned" else shown[0], class_="label"),
        sorted_by(value, shown[1], class_="n"),
        *shown[2:],
        el("td", each.model, class_="label"),
        el("td", state_mark(state), el("small", f" {each.error}") if each.error else None)
        if state
        else each.error or "",
    ]


def _pairs(board: Board) -> Markup:
    if not board.pairs:
        return Markup("")
    unit = next((each.quality.unit for each in board.standings if not isinstance(each.quality, NotReported)), "")
    headings = ("a", "b", "b against a", "p", "p (Holm)", "")
    return table(
        headings,
        [_pair(each, unit) for each in board.pairs],
        numbers=(2, 3, 4),
        caption="Every pair, on the same rows; p-values corrected together",
    )


def _pair(pair: Pair, unit: str) -> list[Child]:
    found = pair.comparison
    return [
        found.name_a,
        found.name_b,
        sorted_by(found.difference, difference(found.difference, unit), class_="n"),
        "\u2013" if pair.p_value is None else sorted_by(pair.p_value, p_words(pair.p_value), class_="n"),
        "\u2013" if pair.p_holm is None else sorted_by(pair.p_holm, p_words(pair.p_holm), class_="n"),
        "told apart" if pair.separable else "not separable",
    ]


def _lost(board: Board) -> Markup:
    rows: list[list[Child]] = []
    for each in board.standings:
        rows += [[each.label, el("code", name), "not used", reason] for name, reason in each.lost.items()]
        rows += [[each.label, el("code", name), "converted", rule] for name, rule in each.converted.items()]
    if not rows:
        return Markup("")
    return table(("member", "setting", "", "what happens"), rows, caption="Settings", titled=False)


def _dates(board: Board) -> Markup:
    told = [each for each in board.standings if each.lifecycle]
    return el("ul", [el("li", el("b", each.label), ": ", each.lifecycle) for each in told]) if told else Markup("")
