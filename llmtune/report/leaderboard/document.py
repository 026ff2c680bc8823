"""The document of a comparison: who is better and how sure that is, the costs, and the settings not used."""

from __future__ import annotations

from collections.abc import Callable

from llmtune.metrics.points import NotReported
from llmtune.report.cells import DASH, PANEL_STYLES, amount_cell, bullets, change_cell, figure_cell
from llmtune.report.document import (
    Bars,
    Block,
    Charts,
    Column,
    Document,
    Inline,
    Section,
    Span,
    Table,
    Text,
)
from llmtune.report.format import count, metric_name, money, number, seconds, spread
from llmtune.report.html.charts import overlay_charts
from llmtune.report.leaderboard.board import Board, LeaderboardRow
from llmtune.report.leaderboard.in_use import USE_HEADINGS, describe_use, list_unknown, use_cells

_HOW_COMPARED = (
    "Compared row by row where both answered the same rows: McNemar's exact test for right and wrong, a sign-flip"
    " permutation test for means; p-values corrected by Holm's method, the members among themselves and all members"
    " against each baseline."
)


def document(board: Board) -> Document:
    """Return the document of a board."""
    first, *sentences = board.verdict or ("No member has a result.",)
    models = f"{count(len(board.standings), 'model')} side by side"
    rows = f"by {metric_name(board.metric)} on {count(board.rows, 'row')} that no member was trained on"
    sections = [section(board) for section in SECTIONS]
    return Document(
        title=f"{board.name}: {len(board.standings)} side by side",
        heading=board.name,
        line=[models, rows],
        verdict=Span(first),
        remarks=bullets(sentences),
        sections=sections,
    )


def _tuned(board: Board) -> list[LeaderboardRow]:
    return [row for row in board.standings if row.kind == "tuned"]


def standings(board: Board) -> Section:
    """Return the section with every model: quality, cost, times, and why one failed."""
    bars = [
        (Span(row.label), row.quality)
        for row in board.standings
        if not isinstance(row.quality, NotReported) and row.quality.unit == "share"
    ]
    colours = {row.label: colour for colour, row in enumerate(_tuned(board))}
    if not board.standings:
        return Section("standings", "Side by side")
    table = _drop_empty(Table("Side by side", _COLUMNS, [_row(row, colours) for row in board.standings], titled=False))
    blocks: list[Block] = [Bars(metric_name(board.metric), bars)] if bars else []
    failures: list[Inline] = [[Span(row.label, "strong"), f": {row.error}"] for row in board.standings if row.error]
    return Section("standings", "Side by side", [*blocks, table, *bullets(failures, "bad")], brief=[table])


#: The columns of the standings. The interval stands below the quality, and on a terminal beside it.
_COLUMNS = (
    Column("model", "label"),
    Column("kind", "word", medium="page"),
    Column("quality", "number", medium="page"),
    Column("quality", "number", medium="terminal"),
    Column("interval", "number", medium="terminal"),
    Column("panel", "number"),
    Column("win rate", "number"),
    *(Column(heading, "number") for heading in ("cost", "queue", "training", "tokens", "p50 / p95", "per 1,000")),
)


def _row(row: LeaderboardRow, colours: dict[str, int]) -> list[Inline]:
    quality = None if isinstance(row.quality, NotReported) else row.quality
    tuned = row.kind == "tuned"
    failed = row.state is not None and row.error
    latency = None if isinstance(row.latency, NotReported) else row.latency
    return [
        Span(row.label, "" if tuned else "dim", colour=colours.get(row.label)),
        Span(row.state.value, "state") if row.state is not None and failed else row.kind,
        figure_cell(row.quality),
        DASH if quality is None else number(quality.value, quality.unit),
        DASH if quality is None else spread(quality.interval, quality.unit),
        _panel(row),
        _win_rate(row),
        _cost(row) if tuned else "",
        amount_cell(row.timing.queued, seconds) if tuned else "",
        amount_cell(row.timing.training, seconds) if tuned else "",
        amount_cell(row.trained_tokens, "{:,}".format) if tuned else "",
        DASH if latency is None else Span(f"{seconds(latency.p50)} / {seconds(latency.p95)}", value=latency.p50),
        amount_cell(row.price_per_1000, lambda price: money(price, row.cost.currency)),
    ]


def _panel(row: LeaderboardRow) -> Span:
    """Return the accuracy on the panel and, of a tuned model, the verdict against its base."""
    if isinstance(row.panel, NotReported):
        return Span(DASH, title=str(row.panel))
    verdicts = [test.verdict for test in row.panel_tests]
    verdict = next((name for name in ("worse", "undecided") if name in verdicts), "not worse") if verdicts else ""
    return Span(number(row.panel.value, row.panel.unit), PANEL_STYLES.get(verdict, ""), verdict, row.panel.value)


def _win_rate(row: LeaderboardRow) -> Span:
    """Return how often a judge prefers the model's answers to its base's."""
    figure = row.win_rate
    if isinstance(figure, NotReported):
        return Span(DASH, title=str(figure))
    return Span(number(figure.value, "share"), note=spread(figure.interval, "share"), value=figure.value)


def _cost(row: LeaderboardRow) -> Span:
    """Return the estimate, and the bill where there is one, by which the column is then sorted."""
    estimated, billed, currency = row.cost.estimated, row.cost.billed, row.cost.currency
    text = "unknown" if isinstance(estimated, NotReported) else money(estimated, currency)
    if not isinstance(billed, NotReported):
        return Span(f"{text}, billed {money(billed, currency)}", value=billed)
    return Span(text, title=str(estimated)) if isinstance(estimated, NotReported) else Span(text, value=estimated)


def _drop_empty(table: Table) -> Table:
    """Return the table without the columns that say nothing in any row."""

    def is_filled(cell: Inline) -> bool:
        return (cell.text if isinstance(cell, Span) else cell) not in ("", DASH)

    indices = [index for index in range(len(table.columns)) if any(is_filled(row[index]) for row in table.rows)]
    rows = [[row[index] for index in indices] for row in table.rows]
    return Table(table.caption, [table.columns[index] for index in indices], rows, titled=False)


def pairs(board: Board) -> Section:
    """Return the section that says which models are told apart."""
    unit = next((row.quality.unit for row in board.standings if not isinstance(row.quality, NotReported)), "")
    rows: list[list[Inline]] = [
        [
            pair.comparison.name_a,
            pair.comparison.name_b,
            change_cell(pair.comparison, unit),
            *(DASH if p is None else Span(f"{p:.3g}", value=p) for p in (pair.p_value, pair.p_holm)),
            Span("told apart", "good") if pair.separable else Span("not separable", "doubt"),
        ]
        for pair in board.pairs
    ]
    columns = (
        Column("first", "label"),
        Column("second", "label"),
        *(Column(heading, "number") for heading in ("second against first", "p", "p (Holm)")),
        Column("verdict"),
    )
    blocks = [Table("Pairs", columns, rows, titled=False), Text(_HOW_COMPARED, "hint")] if rows else []
    return Section("pairs", "Told apart?", blocks, brief=())


def curves(board: Board) -> Section:
    """Return the section with the curves of all members."""
    charts = overlay_charts([(row.label, row.curves) for row in _tuned(board)])
    return Section("curves", "Curves", [Charts(charts)] if charts else (), brief=())


def break_even(board: Board) -> Section:
    """Return the section that says from how many answers on a tuned model is the cheaper one."""
    lines = [
        f"{pair.tuned} against {pair.few_shot}: no break-even, {pair.answers.reason}"
        if isinstance(pair.answers, NotReported)
        else f"{pair.tuned} against {pair.few_shot}: after {pair.answers:,.0f} answers"
        for pair in board.break_even
    ]
    return Section("even", "When tuning pays", bullets(lines), brief=())


def in_use(board: Board) -> Section:
    """Return the section with what the models cost under the traffic that was given, at the tokens measured."""
    title = describe_use(board)
    if not title:
        return Section("use", "In use")
    columns = (Column("model", "label"), *(Column(heading, "number") for heading in USE_HEADINGS))
    costs = Table(title, columns, use_cells(board), titled=False, sortable=False)
    return Section("use", title, [costs, *bullets(list_unknown(board))], short="In use", brief_title=title)


def settings(board: Board) -> Section:
    """Return the section with the settings that a backend did not use, or converted."""
    rows: list[list[Inline]] = [
        [row.label, Span(field, "code"), outcome, reason]
        for row in board.standings
        for outcome, fields in (
            (Span("not used", "doubt"), row.lost),
            (Span("converted", "accent"), row.converted),
        )
        for field, reason in fields.items()
    ]
    columns = (
        Column("model", "label"),
        Column("field"),
        Column("became", "word"),
        Column("what happens", "reason"),
    )
    blocks: list[Block] = [Text("Every member used every setting as it was given.", "hint")]
    if rows:
        blocks = [Table("Settings", columns, rows, titled=False)]
    lost = [f"{row.label} does not use {', '.join(row.lost)}" for row in board.standings if row.lost]
    return Section("fields", "What became of the settings", blocks, short="Settings", brief=bullets(lost))


def until(board: Board) -> Section:
    """Return the section that says until when each backend takes jobs, and how the costs were estimated."""
    dates: list[Inline] = [
        [Span(row.label, "strong"), f": {row.lifecycle}"] for row in board.standings if row.lifecycle
    ]
    estimates: list[Inline] = [
        [Span(row.label, "strong"), f": {row.cost.formula}{_dated(row)}"] for row in _tuned(board) if row.cost.formula
    ]
    blocks: list[Block] = [*bullets(dates)]
    blocks += [Text("How the costs were estimated:"), *bullets(estimates)] if estimates else []
    return Section("until", "Until when", blocks, brief=())


def _dated(row: LeaderboardRow) -> str:
    prices = "" if row.cost.checked is None else f" (prices of {row.cost.checked.isoformat()})"
    billed = row.cost.billed
    return prices + ("" if isinstance(billed, NotReported) else f"; billed {money(billed, row.cost.currency)}")


def warnings(board: Board) -> Section:
    """Return the section with whatever weakens the verdict."""
    return Section("warnings", "Warnings", bullets(board.warnings), brief=bullets(board.warnings, "doubt"))


#: The sections of a board, in order.
SECTIONS: tuple[Callable[[Board], Section], ...] = (
    standings,
    pairs,
    curves,
    break_even,
    in_use,
    settings,
    until,
    warnings,
)
