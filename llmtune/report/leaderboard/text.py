"""A board in words: the verdict, Markdown for a pull request, a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmtune.metrics.points import NotReported
from llmtune.report.format import metric_name, money, number, p_words, seconds, spread
from llmtune.report.markdown import code, plain, table

if TYPE_CHECKING:
    from rich.console import Console

    from llmtune.report.leaderboard.board import Board, Pair, Standing

HEADINGS = ("", "quality", "interval", "cost", "queue", "training", "tokens", "p50 / p95", "per 1,000", "not used")


def sentences(board: Board) -> list[str]:
    """Who is better, told apart or not, and what that costs."""
    ranked = [each for each in board.standings if not isinstance(each.quality, NotReported)]
    if not ranked:
        return ["No member has a result.", *_without_result(board)]
    best = ranked[0]
    said, untuned, alike = [], [], []
    for other in ranked[1:]:
        pair = _pair(board, best.label, other.label)
        if pair is None:
            continue
        if not pair.separable:
            alike.append(other)
        elif other.kind == "tuned":
            said.append(_beats(best, other, pair))
        else:
            untuned.append((other, pair))
    if untuned:
        closest, pair = untuned[0]  # they stand best first
        every = all(each.kind == "tuned" for each in alike) and len(untuned) > 1
        said.append(("Ahead of every model without tuning: " if every else "") + _beats(best, closest, pair))
    said += [f"{other.label} is not separable from {best.label}{_cheaper(best, other)}." for other in alike]
    if not said:
        said.append(
            f"{best.label} is the only member with a result."
            if len(ranked) == 1
            else f"No tuned model has a result; of the models without tuning {best.label} is ahead in figures."
        )
    tuned = [each for each in ranked if each.kind == "tuned"]
    if best.kind != "tuned" and tuned:
        help_ = "is not shown to help" if any(each.kind == "tuned" for each in alike) else "did not help"
        said.append(f"Tuning {help_}: {best.label} needs none and is ahead of every tuned model.")
        said += _among(board, tuned)
    reasons = []
    for even in board.break_even:
        if isinstance(even.answers, NotReported):
            reasons.append(even.answers.reason)
        elif even.answers:
            said.append(f"{even.tuned} has paid for itself against {even.few_shot} after {even.answers:,.0f} answers.")
    said += [f"From how many answers on tuning pays is not known: {reason}." for reason in dict.fromkeys(reasons)]
    return [*said, *_without_result(board)]


def _among(board: Board, tuned: list[Standing]) -> list[str]:
    """The best tuned model against the others, where a model without tuning stands first."""
    first, *others = tuned
    found = [(other, pair) for other in others if (pair := _pair(board, first.label, other.label)) is not None]
    return [
        _beats(first, other, pair)
        if pair.separable
        else f"{other.label} is not separable from {first.label}{_cheaper(first, other)}."
        for other, pair in found
    ]


def _without_result(board: Board) -> list[str]:
    failed = [f"{each.label} made no model: {str(each.error or each.state).rstrip('.')}." for each in board.failed]
    unmeasured = [
        f"{each.label} has no result: {each.quality.reason.rstrip('.')}."
        for each in board.standings
        if each.kind == "tuned" and each not in board.failed and isinstance(each.quality, NotReported)
    ]
    return failed + unmeasured


def _pair(board: Board, one: str, other: str) -> Pair | None:
    return next(
        (each for each in board.pairs if {each.comparison.name_a, each.comparison.name_b} == {one, other}), None
    )


def _beats(best: Standing, other: Standing, pair: Pair) -> str:
    assert not isinstance(best.quality, NotReported)
    unit = best.quality.unit
    found = pair.comparison
    size = abs(found.difference)
    half = (found.interval.high - found.interval.low) / 2
    amount = f"{100 * size:.1f} \u00b1 {100 * half:.1f} points" if unit == "share" else f"{size:.3f} \u00b1 {half:.3f}"
    corrected = "" if pair.p_holm is None else f" ({p_words(pair.p_holm)} after Holm)"
    return f"{best.label} beats {other.label} by {amount} of {metric_name(found.metric)}{corrected}."


def _cheaper(best: Standing, other: Standing) -> str:
    one, two = best.cost.billed, other.cost.billed
    if isinstance(one, NotReported) or isinstance(two, NotReported):
        one, two = best.cost.estimated, other.cost.estimated
    if other.kind != "tuned":
        return " and needs no training"
    if isinstance(one, NotReported) or isinstance(two, NotReported) or one == two:
        return ""
    if two == 0:
        return " and costs nothing to train"
    share = two / one if one else None
    if share is None:
        return f" and costs {money(two, other.cost.currency)} to train"
    return f" and costs {share:.2g} times as much to train"


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
    rows = [[plain(cell) for cell in cells(each)] for each in board.standings]
    yield table(list(HEADINGS), rows, right=(1, 3, 4, 5, 6, 8))
    if board.pairs:
        yield "## Told apart?"
        yield table(
            ["", "", "difference", "p", "p (Holm)", ""], [_pair_cells(each) for each in board.pairs], right=(2, 3, 4)
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


def _pair_cells(pair: Pair) -> list[str]:
    found = pair.comparison
    p = "-" if pair.p_value is None else f"{pair.p_value:.3g}"
    fixed = "-" if pair.p_holm is None else f"{pair.p_holm:.3g}"
    words = "told apart" if pair.separable else "not separable"
    return [plain(found.name_a), plain(found.name_b), f"{found.difference:+.3f}", p, fixed, words]


def print_board(board: Board, console: Console) -> None:
    """On a terminal."""
    from rich.markup import escape
    from rich.table import Table

    for place, each in enumerate(board.verdict):
        console.print(f"[bold]{escape(each)}[/]" if place == 0 else escape(each), soft_wrap=True)
    console.print()
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    rows = [cells(each) for each in board.standings]
    kept = [place for place in range(len(HEADINGS)) if place == 0 or any(row[place] not in ("", "-") for row in rows)]
    for place in kept:
        shown.add_column(
            HEADINGS[place], overflow="fold", justify="left" if place in (0, len(HEADINGS) - 1) else "right"
        )
    for row, standing in zip(rows, board.standings, strict=True):
        shown.add_row(*(escape(row[place]) for place in kept), style=None if standing.kind == "tuned" else "dim")
    console.print(shown)
    for each in board.warnings:
        console.print(f"[yellow]{escape(each)}[/]", soft_wrap=True)
