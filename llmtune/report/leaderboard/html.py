"""The page of a comparison: who is better and whether that is luck, what it costs, and what each did not use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import NotReported
from llmtune.report.format import count, difference, metric_name, money, number, spread
from llmtune.report.html.charts import chart_places, overlaid
from llmtune.report.html.elements import Child, el, join
from llmtune.report.html.evaluation import bar
from llmtune.report.html.page import Section, page, sorted_by, table
from llmtune.report.html.run import state_mark
from llmtune.report.leaderboard.board import Board, Pair, Standing
from llmtune.report.leaderboard.text import HEADINGS, cells


def render(board: Board) -> str:
    """The board as one HTML file."""
    charts = overlaid([(each.label, each.curves) for each in _tuned(board)])
    title = f"{board.name}: {len(board.standings)} side by side"
    return page(title, sections(board, charts), header=_header(board), data={"charts": charts})


def sections(board: Board, charts: list[dict[str, Any]]) -> Iterator[Section]:
    """Every section of a comparison's page."""
    colours = {each.label: place for place, each in enumerate(_tuned(board))}
    yield Section("standings", "Side by side", _bars(board) + _standings(board, colours))
    yield Section("pairs", "Told apart?", _pairs(board))
    yield Section("curves", "Curves", chart_places(charts))
    yield Section("even", "When tuning pays", _break_even(board))
    yield Section("fields", "What became of the settings", _fields(board), short="Settings")
    yield Section("until", "Until when", _until(board))
    warnings = [el("li", each) for each in board.warnings]
    yield Section("warnings", "Warnings", el("ul", warnings) if warnings else Markup(""))


def _tuned(board: Board) -> list[Standing]:
    return [each for each in board.standings if each.kind == "tuned"]


def _header(board: Board) -> Markup:
    first, *others = board.verdict or ("No member has a result.",)
    rows = f"by {metric_name(board.metric)} on {count(board.rows, 'row')} that no member was trained on"
    return el(
        "header",
        el("h1", board.name),
        el("p", el("span", f"{count(len(board.standings), 'model')} side by side"), el("span", rows), class_="line"),
        el("p", first, class_="verdict"),
        el("ul", [el("li", each) for each in others]) if others else None,
    )


def _bars(board: Board) -> Markup:
    rows = [
        el(
            "div",
            el("span", each.label, title=each.label),
            bar(each.quality),
            el("b", number(each.quality.value, "share")),
        )
        for each in board.standings
        if not isinstance(each.quality, NotReported) and each.quality.unit == "share"
    ]
    return (
        el("div", el("p", metric_name(board.metric), class_="bars-title"), rows, class_="bars") if rows else Markup("")
    )


def _standings(board: Board, colours: dict[str, int]) -> Markup:
    rows: list[list[Child]] = []
    for each in board.standings:
        plain = cells(each)
        mark = (
            el("span", "\u25a0 ", class_=f"k{colours[each.label] % 8}", aria_hidden="true")
            if each.label in colours
            else None
        )
        failed = state_mark(each.state.value) if each.state is not None and each.error else None
        rows.append(
            [
                el("td", mark, each.label, " ", failed, el("small", f" {each.kind}"), class_="label"),
                _quality(each),
                _amount(_paid(each), plain[3]),
                _amount(each.timing.queued if each.kind == "tuned" else None, plain[4]),
                _amount(each.timing.training if each.kind == "tuned" else None, plain[5]),
                _amount(each.trained_tokens if each.kind == "tuned" else None, plain[6]),
                _amount(None if isinstance(each.latency, NotReported) else each.latency.p50, plain[7]),
                _amount(each.price_per_1000, plain[8]),
            ]
        )
    headings = ["model", "quality", *HEADINGS[3:9]]
    shown = table(headings, rows, numbers=range(1, len(headings)), caption="Side by side", titled=False)
    reasons = [el("li", el("b", each.label), f": {each.error}") for each in board.standings if each.error]
    return shown + (el("ul", reasons, class_="bad") if reasons else Markup(""))


def _quality(each: Standing) -> Markup:
    value = each.quality
    if isinstance(value, NotReported):
        return el("td", "\u2013", class_="n", title=str(value))
    within = el("small", spread(value.interval, value.unit))
    return sorted_by(value.value, el("b", number(value.value, value.unit)), within, class_="n two")


def _paid(each: Standing) -> float | NotReported | None:
    if each.kind != "tuned":
        return None
    return each.cost.estimated if isinstance(each.cost.billed, NotReported) else each.cost.billed


def _amount(value: float | NotReported | None, text: str) -> Markup:
    if value is None:
        return el("td", text, class_="n")
    if isinstance(value, NotReported):
        return el("td", "\u2013", class_="n", title=str(value))
    return sorted_by(value, text, class_="n")


def _pairs(board: Board) -> Markup:
    if not board.pairs:
        return Markup("")
    unit = next((each.quality.unit for each in board.standings if not isinstance(each.quality, NotReported)), "")
    how = (
        "Compared row by row where both answered the same rows: McNemar's exact test for right and wrong, a sign-flip"
        " permutation test for means; p-values corrected by Holm's method, the members among themselves and all members"
        " against each baseline."
    )
    shown = table(
        ["first", "second", "second against first", "p", "p (Holm)", "verdict"],
        [_pair(each, unit) for each in board.pairs],
        numbers=(2, 3, 4),
        caption="Pairs",
        titled=False,
    )
    return shown + el("p", how, class_="hint")


def _pair(pair: Pair, unit: str) -> list[Child]:
    found = pair.comparison
    within = el("small", spread(found.interval, unit))
    words = el("span", "told apart", class_="good") if pair.separable else el("span", "not separable", class_="doubt")
    return [
        el("td", found.name_a, class_="label"),
        el("td", found.name_b, class_="label"),
        sorted_by(found.difference, difference(found.difference, unit), within, class_="n two"),
        *("\u2013" if p is None else sorted_by(p, f"{p:.3g}", class_="n") for p in (pair.p_value, pair.p_holm)),
        el("td", words),
    ]


def _break_even(board: Board) -> Markup:
    lines = [
        el(
            "li",
            f"{each.tuned} against {each.few_shot}: ",
            f"no break-even, {each.answers.reason}"
            if isinstance(each.answers, NotReported)
            else f"after {each.answers:,.0f} answers",
        )
        for each in board.break_even
    ]
    return el("ul", lines) if lines else Markup("")


def _fields(board: Board) -> Markup:
    rows: list[list[Child]] = [
        [
            el("td", each.label, class_="label"),
            el("td", el("code", field)),
            el("td", word, class_=f"word {word.replace('not used', 'unsupported')}"),
            el("td", why, class_="why"),
        ]
        for each in board.standings
        for word, fields in (("not used", each.lost), ("converted", each.converted))
        for field, why in fields.items()
    ]
    if not rows:
        return el("p", "Every member used every setting as it was given.", class_="hint")
    return table(["model", "field", "became", "what happens"], rows, caption="Settings", titled=False)


def _until(board: Board) -> Markup:
    lines = [el("li", el("b", each.label), f": {each.lifecycle}") for each in board.standings if each.lifecycle]
    estimates = [
        el("li", el("b", each.label), f": {each.cost.formula}", _dated(each))
        for each in _tuned(board)
        if each.cost.formula
    ]
    return join(
        [
            el("ul", lines) if lines else None,
            el("p", "How the costs were estimated:") + el("ul", estimates) if estimates else None,
        ]
    )


def _dated(each: Standing) -> str:
    told = "" if each.cost.checked is None else f" (prices of {each.cost.checked.isoformat()})"
    billed = each.cost.billed
    return told + ("" if isinstance(billed, NotReported) else f"; billed {money(billed, each.cost.currency)}")
