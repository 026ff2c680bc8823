"""A board in words: the verdict, Markdown for a pull request, a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmtune.metrics.points import NotReported
from llmtune.metrics.sentences import say
from llmtune.report.format import difference, metric_name, money, number, seconds, spread
from llmtune.report.markdown import code, plain, table
from llmtune.report.verdicts import ALPHA, AS_WELL, lead, worst_loss

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.report.leaderboard.board import Board, Pair, Standing

HEADINGS = ("", "quality", "interval", "cost", "queue", "training", "tokens", "p50 / p95", "per 1,000", "not used")


def sentences(board: Board) -> list[str]:
    """Who leads whom, by how much and whether that is certain, and what that costs."""
    ranked = [each for each in board.standings if not isinstance(each.quality, NotReported)]
    if not ranked:
        return [say("no_result_at_all"), *_without_result(board)]
    best = ranked[0]
    members = [each for each in ranked if each.kind == "tuned"]
    untuned = [each for each in ranked if each.kind != "tuned"]
    said = []
    if len(ranked) == 1:
        said.append(say("only_one_result", name=best.label))
    elif not members:
        said.append(say("no_tuned_result", name=best.label))
    else:
        said += _among(board, members)
        said += _against(board, members, untuned)
        if best.kind != "tuned":
            said.insert(0, _no_tuning(board, best, members))
    reasons = []
    for even in board.break_even:
        if isinstance(even.answers, NotReported):
            reasons.append(even.answers.reason)
        elif even.answers:
            said.append(say("paid_for_itself", name=even.tuned, other=even.few_shot, answers=f"{even.answers:,.0f}"))
    said += [say("break_even_unknown", reason=reason) for reason in dict.fromkeys(reasons)]
    return [*said, *_without_result(board)]


def _among(board: Board, members: list[Standing]) -> list[str]:
    """The best tuned model against the others."""
    first, *others = members
    return [
        f"{_lead(pair, first)}{_price_note(first, other, pair)}"
        for other in others
        if (pair := _pair(board, first.label, other.label)) is not None
    ]


def _against(board: Board, members: list[Standing], untuned: list[Standing]) -> list[str]:
    """The best tuned model against the best model without tuning, and against each one that costs nothing."""
    first = members[0]
    pairs = [(each, pair) for each in untuned if (pair := _pair(board, first.label, each.label)) is not None]
    every = len(pairs) > 1 and all(pair.separable and _is_ahead(first, each) for each, pair in pairs)
    said = []
    for rank, (each, pair) in enumerate(pairs):  # they stand best first
        if rank == 0 or each.kind in ("linear", "nearest"):
            sentence = _lead(pair, first)
            said.append(say("ahead_of_all", lead=sentence) if every and rank == 0 else sentence)
    return said


def _no_tuning(board: Board, best: Standing, members: list[Standing]) -> str:
    pairs = [pair for each in members if (pair := _pair(board, best.label, each.label)) is not None]
    certain = bool(pairs) and all(pair.separable for pair in pairs)
    reaches = say("ahead_of_tuned" if _is_ahead(best, members[0]) else "as_well_as_tuned")
    return say("tuning_did_not_help" if certain else "tuning_not_shown", name=best.label, reaches=reaches)


def _is_ahead(first: Standing, other: Standing) -> bool:
    assert not isinstance(first.quality, NotReported)
    assert not isinstance(other.quality, NotReported)
    ahead = first.quality.value - other.quality.value
    return ahead > 0 if first.quality.better == "higher" else ahead < 0


def _without_result(board: Board) -> list[str]:
    failed = [
        say("made_no_model", name=each.label, reason=str(each.error or each.state).rstrip(".")) for each in board.failed
    ]
    unmeasured = [
        say("has_no_result", name=each.label, reason=each.quality.reason.rstrip("."))
        for each in board.standings
        if each.kind == "tuned" and each not in board.failed and isinstance(each.quality, NotReported)
    ]
    return failed + unmeasured


def _pair(board: Board, one: str, other: str) -> Pair | None:
    return next(
        (each for each in board.pairs if {each.comparison.name_a, each.comparison.name_b} == {one, other}), None
    )


def _lead(pair: Pair, of: Standing) -> str:
    assert not isinstance(of.quality, NotReported)
    return lead(pair.comparison, of.quality.unit, certain=pair.separable, level=1 - ALPHA / pair.family)


def _price_note(best: Standing, other: Standing, pair: Pair) -> str:
    """What the other one costs, where it is as good in figures or at worst next to it: a price is no reason to take
    what is probably worse."""
    if pair.comparison.difference and (pair.separable or worst_loss(pair.comparison) > AS_WELL):
        return ""
    one, two = best.cost.billed, other.cost.billed
    if isinstance(one, NotReported) or isinstance(two, NotReported):
        one, two = best.cost.estimated, other.cost.estimated
    if isinstance(one, NotReported) or isinstance(two, NotReported) or one == two:
        return ""
    if two == 0:
        return " " + say("free_to_train", name=other.label)
    if not one:
        return " " + say("price_to_train", name=other.label, price=money(two, other.cost.currency))
    return " " + say("price_factor", name=other.label, factor=f"{two / one:.2g}")


def cells(each: Standing) -> tuple[str, ...]:
    """One row of the table."""
    quality = each.quality
    value = "-" if isinstance(quality, NotReported) else number(quality.value, quality.unit)
    interval = "-" if isinstance(quality, NotReported) else spread(quality.interval, quality.unit)
    return (
        each.label,
        value,
        interval,
        _cost(each),
        _time(each.timing.queued) if each.kind == "tuned" else "",
        _time(each.timing.training) if each.kind == "tuned" else "",
        _tokens(each),
        "-" if isinstance(each.latency, NotReported) else f"{seconds(each.latency.p50)} / {seconds(each.latency.p95)}",
        "-" if isinstance(each.price_per_1000, NotReported) else money(each.price_per_1000, each.cost.currency),
        ", ".join(each.lost) or "",
    )


def filled_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns with something in them; the first is the name."""
    return [
        column for column in range(len(HEADINGS)) if column == 0 or any(row[column] not in ("", "-") for row in rows)
    ]


def _cost(each: Standing) -> str:
    if each.kind != "tuned":
        return ""
    estimated, billed = each.cost.estimated, each.cost.billed
    told = "unknown" if isinstance(estimated, NotReported) else money(estimated, each.cost.currency)
    return told if isinstance(billed, NotReported) else f"{told}, billed {money(billed, each.cost.currency)}"


def _tokens(each: Standing) -> str:
    if each.kind != "tuned":
        return ""
    return "-" if isinstance(each.trained_tokens, NotReported) else f"{each.trained_tokens:,}"


def _time(value: float | NotReported) -> str:
    return "-" if isinstance(value, NotReported) else seconds(value)


def to_markdown(board: Board) -> str:
    """The whole board."""
    return "\n\n".join(part for part in _parts(board) if part) + "\n"


def _parts(board: Board) -> Iterator[str]:
    yield f"# {plain(board.name)}: {len(board.standings)} side by side"
    first, *others = (plain(each, 1000) for each in board.verdict)
    yield "\n".join([f"- **{first}**", *(f"- {each}" for each in others)])
    yield f"By {plain(metric_name(board.metric))} on {board.rows} rows that no member was trained on."
    unit = next((each.quality.unit for each in board.standings if not isinstance(each.quality, NotReported)), "")
    shown = [cells(each) for each in board.standings]
    columns = filled_columns(shown)
    rows = [[plain(row[column]) for column in columns] for row in shown]
    right = [number for number, column in enumerate(columns) if column in (1, 3, 4, 5, 6, 8)]
    yield table([HEADINGS[column] for column in columns], rows, right=right)
    if board.pairs:
        yield "## Told apart?"
        yield table(
            ["first", "second", "second against first", "interval", "p", "p (Holm)", "verdict"],
            [_pair_cells(each, unit) for each in board.pairs],
            right=(2, 3, 4, 5),
        )
    lost = [
        [plain(each.label), code(field), plain(reason)]
        for each in board.standings
        for field, reason in each.lost.items()
    ]
    if lost:
        yield "## Not used"
        yield table(["", "field", "what happens instead"], lost)
    dates = [f"- {plain(each.label)}: {plain(each.lifecycle)}" for each in board.standings if each.lifecycle]
    if dates:
        yield "## Until when"
        yield "\n".join(dates)
    if board.warnings:
        yield "\n".join(f"- {plain(each, 1000)}" for each in board.warnings)


def _pair_cells(pair: Pair, unit: str) -> list[str]:
    found = pair.comparison
    p = "-" if pair.p_value is None else f"{pair.p_value:.3g}"
    fixed = "-" if pair.p_holm is None else f"{pair.p_holm:.3g}"
    words = "told apart" if pair.separable else "not separable"
    moved, within = difference(found.difference, unit), spread(found.interval, unit)
    return [plain(found.name_a), plain(found.name_b), moved, within, p, fixed, words]


def print_board(board: Board, console: Console) -> None:
    """On a terminal."""
    from rich.markup import escape
    from rich.table import Table

    for place, each in enumerate(board.verdict):
        console.print(f"[bold]{escape(each)}[/]" if place == 0 else escape(each), soft_wrap=True)
    console.print()
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    rows = [cells(each) for each in board.standings]
    kept = filled_columns(rows)
    for place in kept:
        shown.add_column(
            HEADINGS[place], overflow="fold", justify="left" if place in (0, len(HEADINGS) - 1) else "right"
        )
    for row, standing in zip(rows, board.standings, strict=True):
        shown.add_row(*(escape(row[place]) for place in kept), style=None if standing.kind == "tuned" else "dim")
    console.print(shown)
    for each in board.warnings:
        console.print(f"[yellow]{escape(each)}[/]", soft_wrap=True)
