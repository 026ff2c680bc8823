"""The page of a comparison: who is better and how sure that is, the costs, and the settings not used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from llmtune.metrics.points import NotReported
from llmtune.report.format import count, difference, metric_name, money, number, spread
from llmtune.report.html.charts import chart_figures, overlay_charts
from llmtune.report.html.elements import Child, el, join
from llmtune.report.html.evaluation import bar
from llmtune.report.html.notebook import card, grid
from llmtune.report.html.page import Section, page, sorted_by, table
from llmtune.report.html.run import state_mark
from llmtune.report.leaderboard.board import Board, LeaderboardRow, PairwiseResult
from llmtune.report.leaderboard.in_use import USE_HEADINGS, describe_use, list_unknown, use_cells
from llmtune.report.leaderboard.text import HEADINGS, cells, filled_columns


def render(board: Board) -> str:
    """Return the board as one HTML file."""
    charts = overlay_charts([(row.label, row.curves) for row in _tuned(board)])
    title = f"{board.name}: {len(board.standings)} side by side"
    return page(title, sections(board, charts), header=_header(board), data={"charts": charts})


def show_board(board: Board) -> Markup:
    """Return what a notebook shows of a board: the verdict and the table, without the curves."""
    rows = [cells(row) for row in board.standings]
    columns = filled_columns(rows)
    how = f"by {metric_name(board.metric)} on {count(board.rows, 'row')}"
    return card(
        f"{board.name}: {count(len(board.standings), 'model')} side by side, {how}",
        board.verdict,
        grid([HEADINGS[column] for column in columns], [[row[column] for column in columns] for row in rows]),
        warnings=board.warnings,
    )


def sections(board: Board, charts: list[dict[str, Any]]) -> Iterator[Section]:
    """Yield every section of a comparison's page."""
    colours = {row.label: colour for colour, row in enumerate(_tuned(board))}
    yield Section("standings", "Side by side", _bars(board) + _standings(board, colours))
    yield Section("pairs", "Told apart?", _pairs(board))
    yield Section("curves", "Curves", chart_figures(charts))
    yield Section("even", "When tuning pays", _break_even(board))
    yield Section("use", describe_use(board) or "In use", _use(board), short="In use")
    yield Section("fields", "What became of the settings", _fields(board), short="Settings")
    yield Section("until", "Until when", _until(board))
    warnings = [el("li", warning) for warning in board.warnings]
    yield Section("warnings", "Warnings", el("ul", warnings) if warnings else Markup(""))


def _use(board: Board) -> Markup:
    if not describe_use(board):
        return Markup("")
    rows: list[list[Child]] = [[el("td", cell) for cell in row] for row in use_cells(board)]
    headings = ("model", *USE_HEADINGS[1:])
    unknown = [el("li", sentence) for sentence in list_unknown(board)]
    costs = table(headings, rows, numbers=range(1, len(headings) - 1), caption=describe_use(board), titled=False)
    return costs + (el("ul", unknown) if unknown else Markup(""))


def _tuned(board: Board) -> list[LeaderboardRow]:
    return [row for row in board.standings if row.kind == "tuned"]


def _header(board: Board) -> Markup:
    first, *sentences = board.verdict or ("No member has a result.",)
    rows = f"by {metric_name(board.metric)} on {count(board.rows, 'row')} that no member was trained on"
    return el(
        "header",
        el("h1", board.name),
        el("p", el("span", f"{count(len(board.standings), 'model')} side by side"), el("span", rows), class_="line"),
        el("p", first, class_="verdict"),
        el("ul", [el("li", sentence) for sentence in sentences]) if sentences else None,
    )


def _bars(board: Board) -> Markup:
    rows = [
        el(
            "div",
            el("span", row.label, title=row.label),
            bar(row.quality),
            el("b", number(row.quality.value, "share")),
        )
        for row in board.standings
        if not isinstance(row.quality, NotReported) and row.quality.unit == "share"
    ]
    return (
        el("div", el("p", metric_name(board.metric), class_="bars-title"), rows, class_="bars") if rows else Markup("")
    )


def _standings(board: Board, colours: dict[str, int]) -> Markup:
    rows: list[list[Child]] = []
    for row in board.standings:
        plain = cells(row)
        mark = (
            el("span", "\u25a0 ", class_=f"k{colours[row.label] % 8}", aria_hidden="true")
            if row.label in colours
            else None
        )
        failed = state_mark(row.state.value) if row.state is not None and row.error else None
        rows.append(
            [
                el("td", mark, row.label, " ", failed, el("small", f" {row.kind}"), class_="label"),
                _quality(row),
                _amount(_paid(row), plain[3]),
                _amount(row.timing.queued if row.kind == "tuned" else None, plain[4]),
                _amount(row.timing.training if row.kind == "tuned" else None, plain[5]),
                _amount(row.trained_tokens if row.kind == "tuned" else None, plain[6]),
                _amount(None if isinstance(row.latency, NotReported) else row.latency.p50, plain[7]),
                _amount(row.price_per_1000, plain[8]),
            ]
        )
    headings = ["model", "quality", *HEADINGS[3:9]]
    rows_table = table(headings, rows, numbers=range(1, len(headings)), caption="Side by side", titled=False)
    reasons = [el("li", el("b", row.label), f": {row.error}") for row in board.standings if row.error]
    return rows_table + (el("ul", reasons, class_="bad") if reasons else Markup(""))


def _quality(row: LeaderboardRow) -> Markup:
    value = row.quality
    if isinstance(value, NotReported):
        return el("td", "\u2013", class_="n", title=str(value))
    within = el("small", spread(value.interval, value.unit))
    return sorted_by(value.value, el("b", number(value.value, value.unit)), within, class_="n two")


def _paid(row: LeaderboardRow) -> float | NotReported | None:
    if row.kind != "tuned":
        return None
    return row.cost.estimated if isinstance(row.cost.billed, NotReported) else row.cost.billed


def _amount(value: float | NotReported | None, text: str) -> Markup:
    if value is None:
        return el("td", text, class_="n")
    if isinstance(value, NotReported):
        return el("td", "\u2013", class_="n", title=str(value))
    return sorted_by(value, text, class_="n")


def _pairs(board: Board) -> Markup:
    if not board.pairs:
        return Markup("")
    unit = next((row.quality.unit for row in board.standings if not isinstance(row.quality, NotReported)), "")
    how = (
        "Compared row by row where both answered the same rows: McNemar's exact test for right and wrong, a sign-flip"
        " permutation test for means; p-values corrected by Holm's method, the members among themselves and all members"
        " against each baseline."
    )
    pairs_table = table(
        ["first", "second", "second against first", "p", "p (Holm)", "verdict"],
        [_pair(pair, unit) for pair in board.pairs],
        numbers=(2, 3, 4),
        caption="Pairs",
        titled=False,
    )
    return pairs_table + el("p", how, class_="hint")


def _pair(pair: PairwiseResult, unit: str) -> list[Child]:
    comparison = pair.comparison
    within = el("small", spread(comparison.interval, unit))
    verdict = el("span", "told apart", class_="good") if pair.separable else el("span", "not separable", class_="doubt")
    return [
        el("td", comparison.name_a, class_="label"),
        el("td", comparison.name_b, class_="label"),
        sorted_by(comparison.difference, difference(comparison.difference, unit), within, class_="n two"),
        *("\u2013" if p is None else sorted_by(p, f"{p:.3g}", class_="n") for p in (pair.p_value, pair.p_holm)),
        el("td", verdict),
    ]


def _break_even(board: Board) -> Markup:
    lines = [
        el(
            "li",
            f"{break_even.tuned} against {break_even.few_shot}: ",
            f"no break-even, {break_even.answers.reason}"
            if isinstance(break_even.answers, NotReported)
            else f"after {break_even.answers:,.0f} answers",
        )
        for break_even in board.break_even
    ]
    return el("ul", lines) if lines else Markup("")


def _fields(board: Board) -> Markup:
    rows: list[list[Child]] = [
        [
            el("td", row.label, class_="label"),
            el("td", el("code", field)),
            el("td", outcome, class_=f"word {outcome.replace('not used', 'unsupported')}"),
            el("td", why, class_="why"),
        ]
        for row in board.standings
        for outcome, fields in (("not used", row.lost), ("converted", row.converted))
        for field, why in fields.items()
    ]
    if not rows:
        return el("p", "Every member used every setting as it was given.", class_="hint")
    return table(["model", "field", "became", "what happens"], rows, caption="Settings", titled=False)


def _until(board: Board) -> Markup:
    lines = [el("li", el("b", row.label), f": {row.lifecycle}") for row in board.standings if row.lifecycle]
    estimates = [
        el("li", el("b", row.label), f": {row.cost.formula}", _dated(row)) for row in _tuned(board) if row.cost.formula
    ]
    return join(
        [
            el("ul", lines) if lines else None,
            el("p", "How the costs were estimated:") + el("ul", estimates) if estimates else None,
        ]
    )


def _dated(row: LeaderboardRow) -> str:
    prices = "" if row.cost.checked is None else f" (prices of {row.cost.checked.isoformat()})"
    billed = row.cost.billed
    return prices + ("" if isinstance(billed, NotReported) else f"; billed {money(billed, row.cost.currency)}")
