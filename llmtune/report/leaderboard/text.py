"""A board in words: the verdict, Markdown for a pull request, a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmtune.metrics.points import NotReported
from llmtune.metrics.sentences import fill_sentence
from llmtune.report.format import difference, metric_name, money, number, seconds, spread
from llmtune.report.leaderboard.in_use import USE_HEADINGS, describe_use, list_unknown, use_cells
from llmtune.report.markdown import code, plain, table
from llmtune.report.verdicts import ALPHA, AS_WELL, describe_lead, worst_loss

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.report.leaderboard.board import Board, LeaderboardRow, PairwiseResult

#: Columns of the terminal that a member's name may take before it is folded.
LABEL_WIDTH = 30

HEADINGS = ("", "quality", "interval", "cost", "queue", "training", "tokens", "p50 / p95", "per 1,000", "not used")


def write_verdict(board: Board) -> list[str]:
    """Write the verdict: who leads whom, by how much, whether that is certain, and at what price."""
    ranked = [row for row in board.standings if not isinstance(row.quality, NotReported)]
    if not ranked:
        return [fill_sentence("no_result_at_all"), *_list_failures(board)]
    best = ranked[0]
    members = [row for row in ranked if row.kind == "tuned"]
    untuned = [row for row in ranked if row.kind != "tuned"]
    lines = []
    if len(ranked) == 1:
        lines.append(fill_sentence("only_one_result", name=best.label))
    elif not members:
        lines.append(fill_sentence("no_tuned_result", name=best.label))
    else:
        lines += _compare_tuned(board, members)
        lines += _compare_with_untuned(board, members, untuned)
        if best.kind != "tuned":
            lines.insert(0, _advise_against_tuning(board, best, members))
    reasons = []
    for even in board.break_even:
        if isinstance(even.answers, NotReported):
            reasons.append(even.answers.reason)
        elif even.answers:
            lines.append(
                fill_sentence("paid_for_itself", name=even.tuned, other=even.few_shot, answers=f"{even.answers:,.0f}")
            )
    lines += [fill_sentence("break_even_unknown", reason=reason) for reason in dict.fromkeys(reasons)]
    return [*lines, *_list_failures(board)]


def _compare_tuned(board: Board, members: list[LeaderboardRow]) -> list[str]:
    """Compare the best tuned model with the other tuned models."""
    first, *rivals = members
    return [
        f"{_describe_pair(pair, first)}{_describe_price(first, rival, pair)}"
        for rival in rivals
        if (pair := _find_pair(board, first.label, rival.label)) is not None
    ]


def _compare_with_untuned(board: Board, members: list[LeaderboardRow], untuned: list[LeaderboardRow]) -> list[str]:
    """Compare the best tuned model with the best model without tuning, and with each one that costs nothing."""
    first = members[0]
    pairs = [(row, pair) for row in untuned if (pair := _find_pair(board, first.label, row.label)) is not None]
    every = len(pairs) > 1 and all(pair.separable and _is_ahead(first, row) for row, pair in pairs)
    lines = []
    for rank, (row, pair) in enumerate(pairs):  # they stand best first
        if rank == 0 or row.kind in ("linear", "nearest"):
            sentence = _describe_pair(pair, first)
            lines.append(fill_sentence("ahead_of_all", lead=sentence) if every and rank == 0 else sentence)
    return lines


def _advise_against_tuning(board: Board, best: LeaderboardRow, members: list[LeaderboardRow]) -> str:
    pairs = [pair for member in members if (pair := _find_pair(board, best.label, member.label)) is not None]
    certain = bool(pairs) and all(pair.separable for pair in pairs)
    reaches = fill_sentence("ahead_of_tuned" if _is_ahead(best, members[0]) else "as_well_as_tuned")
    return fill_sentence("tuning_did_not_help" if certain else "tuning_not_shown", name=best.label, reaches=reaches)


def _is_ahead(first: LeaderboardRow, rival: LeaderboardRow) -> bool:
    assert not isinstance(first.quality, NotReported)
    assert not isinstance(rival.quality, NotReported)
    ahead = first.quality.value - rival.quality.value
    return ahead > 0 if first.quality.better == "higher" else ahead < 0


def _list_failures(board: Board) -> list[str]:
    failed = [
        fill_sentence("made_no_model", name=row.label, reason=str(row.error or row.state).rstrip("."))
        for row in board.failed
    ]
    unmeasured = [
        fill_sentence("has_no_result", name=row.label, reason=row.quality.reason.rstrip("."))
        for row in board.standings
        if row.kind == "tuned" and row not in board.failed and isinstance(row.quality, NotReported)
    ]
    return failed + unmeasured


def _find_pair(board: Board, label_a: str, label_b: str) -> PairwiseResult | None:
    return next(
        (pair for pair in board.pairs if {pair.comparison.name_a, pair.comparison.name_b} == {label_a, label_b}), None
    )


def _describe_pair(pair: PairwiseResult, of: LeaderboardRow) -> str:
    assert not isinstance(of.quality, NotReported)
    return describe_lead(pair.comparison, of.quality.unit, certain=pair.separable, level=1 - ALPHA / pair.family)


def _describe_price(best: LeaderboardRow, rival: LeaderboardRow, pair: PairwiseResult) -> str:
    """Describe the price of a rival that is as good or, at worst, nearly so; "" for any other.

    A lower price is no reason to take a model that is probably worse.
    """
    if pair.comparison.difference and (pair.separable or worst_loss(pair.comparison) > AS_WELL):
        return ""
    best_cost, rival_cost = best.cost.billed, rival.cost.billed
    if isinstance(best_cost, NotReported) or isinstance(rival_cost, NotReported):
        best_cost, rival_cost = best.cost.estimated, rival.cost.estimated
    if isinstance(best_cost, NotReported) or isinstance(rival_cost, NotReported) or best_cost == rival_cost:
        return ""
    if rival_cost == 0:
        return " " + fill_sentence("free_to_train", name=rival.label)
    if not best_cost:
        return " " + fill_sentence("price_to_train", name=rival.label, price=money(rival_cost, rival.cost.currency))
    return " " + fill_sentence("price_factor", name=rival.label, factor=f"{rival_cost / best_cost:.2g}")


def cells(row: LeaderboardRow) -> tuple[str, ...]:
    """Return one row of the table."""
    quality = row.quality
    value = "-" if isinstance(quality, NotReported) else number(quality.value, quality.unit)
    interval = "-" if isinstance(quality, NotReported) else spread(quality.interval, quality.unit)
    return (
        row.label,
        value,
        interval,
        _cost(row),
        _time(row.timing.queued) if row.kind == "tuned" else "",
        _time(row.timing.training) if row.kind == "tuned" else "",
        _tokens(row),
        "-" if isinstance(row.latency, NotReported) else f"{seconds(row.latency.p50)} / {seconds(row.latency.p95)}",
        "-" if isinstance(row.price_per_1000, NotReported) else money(row.price_per_1000, row.cost.currency),
        ", ".join(row.lost) or "",
    )


def filled_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the columns that are not empty in every row; the first is the name."""
    return [
        column for column in range(len(HEADINGS)) if column == 0 or any(row[column] not in ("", "-") for row in rows)
    ]


def _fit_columns(rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Return the filled columns in groups that fit next to the name; what is not used is written below the table."""
    columns = [column for column in filled_columns(rows) if column not in (0, len(HEADINGS) - 1)]
    widths = {column: max(len(HEADINGS[column]), *(len(row[column]) for row in rows)) + 2 for column in columns}
    label = min(max(len(row[0]) for row in rows), LABEL_WIDTH) + 1
    groups: list[list[int]] = [[0]]
    width_free = width - label
    for column in columns:
        if widths[column] > width_free and len(groups[-1]) > 1:
            groups.append([0])
            width_free = width - label
        groups[-1].append(column)
        width_free -= widths[column]
    return groups


def _cost(row: LeaderboardRow) -> str:
    if row.kind != "tuned":
        return ""
    estimated, billed = row.cost.estimated, row.cost.billed
    estimate = "unknown" if isinstance(estimated, NotReported) else money(estimated, row.cost.currency)
    return estimate if isinstance(billed, NotReported) else f"{estimate}, billed {money(billed, row.cost.currency)}"


def _tokens(row: LeaderboardRow) -> str:
    if row.kind != "tuned":
        return ""
    return "-" if isinstance(row.trained_tokens, NotReported) else f"{row.trained_tokens:,}"


def _time(value: float | NotReported) -> str:
    return "-" if isinstance(value, NotReported) else seconds(value)


def to_markdown(board: Board) -> str:
    """Return the board as Markdown."""
    return "\n\n".join(part for part in _parts(board) if part) + "\n"


def _parts(board: Board) -> Iterator[str]:
    yield f"# {plain(board.name)}: {len(board.standings)} side by side"
    first, *remarks = (plain(sentence, 1000) for sentence in board.verdict)
    yield "\n".join([f"- **{first}**", *(f"- {remark}" for remark in remarks)])
    yield f"By {plain(metric_name(board.metric))} on {board.rows} rows that no member was trained on."
    unit = next((row.quality.unit for row in board.standings if not isinstance(row.quality, NotReported)), "")
    table_rows = [cells(row) for row in board.standings]
    columns = filled_columns(table_rows)
    rows = [[plain(row[column]) for column in columns] for row in table_rows]
    right = [number for number, column in enumerate(columns) if column in (1, 3, 4, 5, 6, 8)]
    yield table([HEADINGS[column] for column in columns], rows, right=right)
    if heading := describe_use(board):
        yield f"## {heading}"
        used = [[plain(cell) for cell in row] for row in use_cells(board)]
        yield table(USE_HEADINGS, used, right=(1, 2, 3, 4))
        yield "\n".join(f"- {plain(sentence, 1000)}" for sentence in list_unknown(board))
    if board.pairs:
        yield "## Told apart?"
        yield table(
            ["first", "second", "second against first", "interval", "p", "p (Holm)", "verdict"],
            [_pair_cells(pair, unit) for pair in board.pairs],
            right=(2, 3, 4, 5),
        )
    lost = [
        [plain(row.label), code(field), plain(reason)] for row in board.standings for field, reason in row.lost.items()
    ]
    if lost:
        yield "## Not used"
        yield table(["", "field", "what happens instead"], lost)
    dates = [f"- {plain(row.label)}: {plain(row.lifecycle)}" for row in board.standings if row.lifecycle]
    if dates:
        yield "## Until when"
        yield "\n".join(dates)
    if board.warnings:
        yield "\n".join(f"- {plain(warning, 1000)}" for warning in board.warnings)


def _pair_cells(pair: PairwiseResult, unit: str) -> list[str]:
    comparison = pair.comparison
    p = "-" if pair.p_value is None else f"{pair.p_value:.3g}"
    fixed = "-" if pair.p_holm is None else f"{pair.p_holm:.3g}"
    verdict = "told apart" if pair.separable else "not separable"
    moved, within = difference(comparison.difference, unit), spread(comparison.interval, unit)
    return [plain(comparison.name_a), plain(comparison.name_b), moved, within, p, fixed, verdict]


def print_board(board: Board, console: Console) -> None:
    """Print the board on a terminal."""
    from rich.markup import escape
    from rich.table import Table

    for index, sentence in enumerate(board.verdict):
        console.print(f"[bold]{escape(sentence)}[/]" if index == 0 else escape(sentence), soft_wrap=True)
    console.print()
    rows = [cells(standing) for standing in board.standings]
    for columns in _fit_columns(rows, console.width):
        grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        for column in columns:
            grid.add_column(
                HEADINGS[column], overflow="fold", no_wrap=column != 0, justify="left" if column == 0 else "right"
            )
        for row, standing in zip(rows, board.standings, strict=True):
            style = None if standing.kind == "tuned" else "dim"
            grid.add_row(*(escape(row[column]) for column in columns), style=style)
        console.print(grid)
        console.print()
    _print_use(board, console)
    for standing in board.standings:
        if standing.lost:
            console.print(f"{escape(standing.label)} does not use {escape(', '.join(standing.lost))}", soft_wrap=True)
    for warning in board.warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


def _print_use(board: Board, console: Console) -> None:
    """Print the costs in use, where traffic was given."""
    from rich.markup import escape
    from rich.table import Table

    if not (heading := describe_use(board)):
        return
    console.print(f"[bold]{heading}[/]")
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for heading in USE_HEADINGS:
        grid.add_column(heading, overflow="fold", justify="right" if heading else "left")
    for row in use_cells(board):
        grid.add_row(*map(escape, row))
    console.print(grid)
    for sentence in list_unknown(board):
        console.print(f"[dim]{escape(sentence)}[/]", soft_wrap=True)
    console.print()
