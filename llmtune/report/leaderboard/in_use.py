"""What the models of a comparison cost in use: the tokens that were measured, at their prices, over months."""

from __future__ import annotations

from collections.abc import Sequence

from llmtune.metrics.points import NotReported
from llmtune.planning.total_cost import HOURS_PER_MONTH, Traffic, UsageCost, sum_usage
from llmtune.provider.limits import Price
from llmtune.report.format import money, seconds
from llmtune.report.leaderboard.board import Board, Entry, LeaderboardRow

#: The columns behind the model's name.
USE_HEADINGS = ("training", "a month", "of it standing", "in all", "p50 / p95")


def add_use(board: Board, entries: Sequence[Entry], answers_per_month: float, months: float) -> Board:
    """Return the board with the cost in use of each row.

    Args:
        board: the board.
        entries: its members, with their prices.
        answers_per_month: answers a month.
        months: for how many months.
    """
    by_label = {entry.label: entry for entry in entries}
    by_base = {(entry.provider, entry.model): entry for entry in reversed(entries)}
    standings = []
    for row in board.standings:
        entry = by_label.get(row.label) if row.kind == "tuned" else by_base.get((row.provider, row.model))
        standings.append(row.model_copy(update={"in_use": _price_row(row, entry, answers_per_month, months)}))
    update = {"standings": tuple(standings), "answers_per_month": answers_per_month, "months": months}
    return board.model_copy(update=update)


def _price_row(row: LeaderboardRow, entry: Entry | None, answers_per_month: float, months: float) -> UsageCost:
    """Return what a row costs in use; a baseline that is computed here, or a model on this machine, costs nothing."""
    traffic = Traffic(
        answers_per_month=answers_per_month,
        months=months,
        prompt_tokens=_mean(row, "prompt_tokens"),
        answer_tokens=_mean(row, "completion_tokens"),
    )
    if entry is None or not entry.hosted:
        return sum_usage(row.label, traffic, 0.0, 0.0, 0.0)
    price = entry.price if isinstance(entry.price, Price) else Price()
    tokens = None
    if not isinstance(row.price_per_1000, NotReported):
        tokens = row.price_per_1000 / 1000 * answers_per_month
    if row.kind != "tuned":
        return sum_usage(row.label, traffic, 0.0, tokens, 0.0)
    billed = set(price.billed)
    if "hosting" in billed and not billed & {"input", "output"}:
        tokens = 0.0
    hosting = price.hosting if "hosting" in billed else 0.0
    storage = price.storage if "storage" in billed else price.storage or 0.0
    standing = None if hosting is None or storage is None else HOURS_PER_MONTH * hosting + storage
    return sum_usage(row.label, traffic, _trained_for(row, entry), tokens, standing)


def _trained_for(row: LeaderboardRow, entry: Entry) -> float | None:
    """Return what training cost: billed, or computed from the billed tokens, or as estimated."""
    for amount in (row.cost.billed, row.cost.computed):
        if not isinstance(amount, NotReported):
            return amount
    return entry.training


def _mean(row: LeaderboardRow, name: str) -> float:
    """Return the measured tokens of an average prompt or answer; 0 where none were measured."""
    if isinstance(row.usage, NotReported):
        return 0.0
    tokens, answers = getattr(row.usage, name), row.usage.asked + row.usage.cached
    return 0.0 if isinstance(tokens, NotReported) or not answers else tokens / answers


def describe_use(board: Board) -> str:
    """Return the heading of the costs in use; "" where no traffic was given."""
    if board.answers_per_month is None:
        return ""
    return f"{board.answers_per_month:,.0f} answers a month like these, for {board.months:g} months"


def use_cells(board: Board) -> list[tuple[str, ...]]:
    """Return the costs in use, a row per model that has answered."""
    rows = []
    for row in board.standings:
        use = row.in_use
        if isinstance(use, NotReported) or isinstance(row.quality, NotReported):
            continue
        latency = row.latency
        times = "-" if isinstance(latency, NotReported) else f"{seconds(latency.p50)} / {seconds(latency.p95)}"
        amounts = (use.once, use.monthly, use.standing, use.total)
        currency = row.cost.currency
        rows.append(
            (row.label, *("unknown" if amount is None else money(amount, currency) for amount in amounts), times)
        )
    return rows


def list_unknown(board: Board) -> list[str]:
    """Return a sentence for each row whose cost in use is not known."""
    return [
        f"{row.label}: {row.in_use.unknown}"
        for row in board.standings
        if not isinstance(row.in_use, NotReported) and row.in_use.unknown and not isinstance(row.quality, NotReported)
    ]
