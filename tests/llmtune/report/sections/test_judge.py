"""A judge in a report: in all renderings, with whatever weakens its verdict, and the reason where there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.evaluation.judge.results import JudgeResult
from llmtune.job.judge import JudgePrice
from llmtune.metrics.points import NotReported
from llmtune.report.schema import Report
from llmtune.report.sections.judge import describe_judge
from tests.judge_server import give, prefer
from tests.llmtune.evaluation.judge.test_measure import BAD, GOOD, judged, pairs
from tests.llmtune.report.conftest import evaluation, make


def report(result: JudgeResult | NotReported) -> Report:
    return make(evaluation=evaluation().model_copy(update={"judge": result}))


def shown(result: JudgeResult | NotReported, *parts: str) -> None:
    made = report(result)
    assert Report.from_json(made.to_json()) == made
    for text in (made.to_markdown(), made.to_html(), made.to_text(width=110)):
        words = " ".join(text.replace("&#39;", "'").split())
        for part in parts:
            assert part in words or part in text, part


def test_every_rendering_shows_verdict_sample_agreement_and_cost() -> None:
    price = JudgePrice(input=100.0, output=1000.0)
    labels = [row for category in (0, 1) for row in pairs(10, category)]
    result = judged(prefer(len), max_rows=10, price=price, labelled=labels)
    shown(result, "Judged answers", "10 rows (of 40, chosen by hash)", "100.0%", "better", "0.1080 USD")
    page = report(result).to_html()
    assert "It names the shelf." in page
    assert "it is better" in page
    assert "no better than chance" in page


def test_what_weakens_a_verdict_is_said() -> None:
    def first(_: dict[str, Any], id: str) -> str:
        return json.dumps({"reason": "", "id": id, "verdict": "first"})

    sentences = describe_judge(judged(first))
    assert any(sentence.startswith("The judge does not tell the tuned model's answers") for sentence in sentences)
    assert any(
        sentence.startswith(
            "The judge has a position bias: the order of the answers turned the verdict in 40 rows"
            " (for the first answer in 40, for the second in 0)"
        )
        for sentence in sentences
    )
    unmeasured = (
        "Whether it judges as people do is not measured (evaluation.judge.labels takes answers labelled by people)."
    )
    assert unmeasured in sentences
    unread = describe_judge(judged(lambda material, id: "the first", labelled=pairs(3, 0)))
    assert unread == [
        "40 rows without a verdict: the judge's reply was not in the form that was asked for.",
        "Its agreement with people is not measured: none of its verdicts on them could be read.",
    ]
    missing = describe_judge(judged(prefer(len), [None, *BAD[1:]], GOOD))
    assert "1 row not judged: a model gave no answer." in missing


def test_agreement_no_better_than_chance_is_said() -> None:
    labels = [row for category in (0, 1) for row in pairs(10, category)]
    sentences = describe_judge(judged(prefer(len), labelled=labels))
    assert any("which is no better than chance (kappa " in sentence for sentence in sentences)
    good = [*pairs(10, 0), *(row.__class__(row.question, row.answers[::-1], 1) for row in pairs(10, 0))]
    sentences = describe_judge(judged(prefer(len), labelled=good))
    assert any("beyond chance: kappa 1.00" in sentence for sentence in sentences)


def test_points_are_shown() -> None:
    shown(
        judged(give(lambda answer: 5 if "shelf" in answer else 2), mode="score"),
        "The judge gives the tuned model more points",
        "Judged answers",
    )
    shown(judged(give(lambda answer: 4), None, mode="score"), "Judged answers")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\x1b[2J\u202e", "**bold** | `x`", "[x](javascript:1)"])
def test_hostile_answers_and_reasons_are_shown_as_text(text: str) -> None:
    def reason(material: dict[str, Any], id: str) -> str:
        return json.dumps({"reason": text, "id": id, "verdict": "tie"})

    hostile = report(judged(reason, [text] * 40, [f"{text}!"] * 40))
    assert "<script>alert" not in hostile.to_html()
    assert "\x1b[2J" not in hostile.to_text(width=100)


def test_the_reason_stands_where_nobody_was_asked() -> None:
    shown(NotReported("it is not deployed"), "not reported (it is not deployed)")
    assert "Judged answers" not in make(evaluation=evaluation()).to_markdown()
