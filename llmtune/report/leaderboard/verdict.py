"""The verdict of a board in sentences: who leads whom, whether that is certain, and at what price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmtune.metrics.points import NotReported
from llmtune.metrics.sentences import fill_sentence
from llmtune.report.format import money
from llmtune.report.verdicts import ALPHA, AS_WELL, describe_lead, worst_loss

if TYPE_CHECKING:
    from llmtune.report.leaderboard.board import Board, LeaderboardRow, PairwiseResult


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
