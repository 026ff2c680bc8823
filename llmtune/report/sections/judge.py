"""What a judge said of the answers of base and tuned model, how far it can be believed, and what it cost."""

from __future__ import annotations

from llmtune.evaluation.judge.results import JudgeAgreement, JudgedFigure, JudgeResult
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.metrics.sentences import fill_sentence
from llmtune.report.cells import DASH, VERDICT_STYLES, change_cell
from llmtune.report.document import Block, Card, Cards, Column, Details, Inline, Section, Span, Table, Text
from llmtune.report.format import count, number, spread

TITLE = "Judged answers"


def judge(result: EvaluationResult) -> Section | None:
    """Return the section of a judge; None where the job names none."""
    judged = result.judge
    if judged is None:
        return None
    if isinstance(judged, NotReported):
        reason = [Text(str(judged), "dim")]
        return Section("judge", TITLE, reason, short="Judge", brief=reason, brief_title=TITLE)
    rows = count(judged.rows, "row")
    sample = "all evaluated" if judged.rows == judged.evaluated else f"of {judged.evaluated:,}, chosen by hash"
    sent = "sent to" if judged.leaves_machine else "asked at"
    orders = ", each pair in both orders" if judged.mode == "pairwise" else ""
    hint = Text(f"{rows} ({sample}), {sent} {judged.model} at {judged.location}{orders}.", "hint")
    figures = [_compare(judged) if judged.mode == "pairwise" else _score(judged)]
    sentences: list[Block] = [Text(sentence) for sentence in describe_judge(judged)]
    cost = Text(describe_cost(judged), "dim")
    return Section(
        "judge",
        TITLE,
        [hint, *figures, *sentences, cost, *_rubric(judged), *_shown(judged)],
        short="Judge",
        brief=[hint, *figures, *sentences, cost],
        brief_title=TITLE,
    )


def describe_judge(result: JudgeResult) -> list[str]:
    """Describe the verdict, whatever weakens it, and the agreement with humans."""
    return [
        *_describe_verdict(result),
        *_describe_order(result),
        *_describe_left_out(result),
        *_describe_agreement(result.agreement),
    ]


def _describe_verdict(result: JudgeResult) -> list[str]:
    if result.mode == "pairwise":
        if isinstance(result.win_rate, NotReported):
            return []
        win_rate = result.win_rate
        figure = f"{number(win_rate.value, 'share')} ({_format_interval(win_rate, 'share')})"
        return [fill_sentence(f"judge_{result.verdict}", figure=figure, rows=count(win_rate.rows, "row"))]
    comparison = result.comparison
    if comparison is None:
        return []
    level = f"{comparison.interval.level:.0%}"
    return [
        fill_sentence(
            f"judge_score_{comparison.verdict}",
            before=number(comparison.a),
            after=number(comparison.b),
            change=f"{comparison.difference:+.2f}, {level} interval {spread(comparison.interval)}",
            rows=count(comparison.rows, "row"),
        )
    ]


def _describe_order(result: JudgeResult) -> list[str]:
    if not result.turned:
        return []
    name = "judge_position_bias" if result.position_bias else "judge_turned"
    return [
        fill_sentence(
            name,
            turned=count(result.turned, "row"),
            first=f"{result.first_preferred:,}",
            second=f"{result.second_preferred:,}",
        )
    ]


def _describe_left_out(result: JudgeResult) -> list[str]:
    reasons = {
        "judge_unreadable": result.unreadable,
        "judge_refused": result.refused,
        "judge_unanswered": result.unanswered,
    }
    return [fill_sentence(name, rows=count(rows, "row")) for name, rows in reasons.items() if rows]


def _describe_agreement(agreement: JudgeAgreement | NotReported) -> list[str]:
    if isinstance(agreement, NotReported):
        return [fill_sentence("judge_no_labels")]
    if isinstance(agreement.agreement, NotReported):
        return [fill_sentence("judge_labels_unreadable", reason=agreement.agreement.reason)]
    labels = count(agreement.rows, "labelled answer")
    share = f"{number(agreement.agreement.value, 'share')} ({_format_interval(agreement.agreement, 'share')})"
    if isinstance(agreement.kappa, NotReported):
        sentences = [fill_sentence("judge_no_kappa", labels=labels, share=share, reason=agreement.kappa.reason)]
    else:
        kappa = f"{agreement.kappa.value:.2f} ({_format_interval(agreement.kappa, '')})"
        name = "judge_agrees" if agreement.beyond_chance else "judge_chance"
        sentences = [fill_sentence(name, labels=labels, share=share, kappa=kappa)]
    if agreement.unreadable:
        sentences.append(fill_sentence("judge_labels_left_out", labels=count(agreement.unreadable, "labelled answer")))
    return sentences


def describe_cost(result: JudgeResult) -> str:
    """Describe what the judge's replies took."""
    cost = result.cost
    tokens = (
        "tokens not counted"
        if isinstance(cost.prompt_tokens, NotReported) or isinstance(cost.completion_tokens, NotReported)
        else f"{cost.prompt_tokens:,} tokens asked, {cost.completion_tokens:,} replied"
    )
    if isinstance(cost.amount, NotReported):
        amount = f"cost not known ({cost.amount.reason})"
    else:
        amount = f"{cost.amount:,.4f} {cost.currency}" if cost.amount else "no cost"
    stored = f"; {cost.stored:,} of them were stored and not asked again" if cost.stored else ""
    return f"The judge gave {count(cost.replies, 'verdict')}: {tokens}, {amount}{stored}."


def _format_interval(figure: JudgedFigure, unit: str) -> str:
    return f"{figure.interval.level:.0%} interval {spread(figure.interval, unit)}"


def _figure(figure: JudgedFigure | NotReported, unit: str) -> Span:
    if isinstance(figure, NotReported):
        return Span(DASH, title=str(figure))
    return Span(number(figure.value, unit), "strong", spread(figure.interval, unit), figure.value)


def _compare(result: JudgeResult) -> Block:
    columns = [Column(name, "number") for name in ("win rate of tuned", "wins", "ties", "losses")]
    columns.append(Column("verdict"))
    counts: list[Inline] = [f"{amount:,}" for amount in (result.wins, result.ties, result.losses)]
    row: list[Inline] = [_figure(result.win_rate, "share"), *counts, _verdict(result)]
    return Table("Tuned against base by the judge", columns, [row], titled=False, sortable=False)


def _score(result: JudgeResult) -> Block:
    columns = [Column(name, "number") for name in ("base, points of 5", "tuned, points of 5", "difference")]
    columns.append(Column("verdict"))
    change = Span(DASH) if result.comparison is None else change_cell(result.comparison, "")
    row: list[Inline] = [_figure(result.base_score, ""), _figure(result.tuned_score, ""), change, _verdict(result)]
    return Table("Points by the judge", columns, [row], titled=False, sortable=False)


def _verdict(result: JudgeResult) -> Span:
    return Span(DASH) if result.verdict is None else Span(result.verdict, VERDICT_STYLES[result.verdict])


def _rubric(result: JudgeResult) -> list[Block]:
    return [Details("The rubric", [Text(result.rubric)])]


def _shown(result: JudgeResult) -> list[Block]:
    """Return the first rows of each outcome, with the judge's reasons."""
    if not result.shown:
        return []
    cards = [
        Card(
            f"row {row.row}: {row.outcome}",
            [
                ("asked", row.prompt),
                *([("base", row.base)] if row.base is not None else []),
                ("tuned", row.tuned),
                *(("reason", reason) for reason in row.reasons),
            ],
        )
        for row in result.shown
    ]
    return [Details(f"{count(len(cards), 'judged row')} to look at", [Cards(cards)])]
