"""The verdict: drift by a difference, the same by agreement or by the interval, and otherwise too few rows."""

from __future__ import annotations

import pytest

from llmtune.data.example import Message
from llmtune.metrics.comparison import compare_means
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.verifications.answers import AnswerPair
from llmtune.verifications.endpoint import ServerAnswer
from llmtune.verifications.results import Difference
from llmtune.verifications.verdict import decide

REQUEST = GenerationRequest(messages=(Message("user", "Well?"),))


def pairs(rows: int, other: int = 0) -> list[AnswerPair]:
    """Pairs of which so many have another answer."""
    return [
        AnswerPair(n + 1, REQUEST, Generation(text="yes"), ServerAnswer("no" if n < other else "yes", "stop"))
        for n in range(rows)
    ]


def judge(rows: int, other: int, *, worse: int = 0, margin: float = 5.0, drift: bool | None = None) -> tuple[str, str]:
    right = [1.0] * rows
    served = [0.0] * worse + [1.0] * (rows - worse)
    differences = [] if drift is None else [Difference(kind="answers_cut", says="answers are cut", drift=drift)]
    comparison = compare_means(right, served, metric="accuracy", names=("run", "endpoint"))
    return decide(pairs(rows, other), differences, comparison, unit="share", margin=margin, prompts="tokens")


@pytest.mark.parametrize(
    ("arguments", "verdict", "words"),
    [
        ({"rows": 60, "other": 0}, "same", "at most 4.9% of such"),
        ({"rows": 60, "other": 0, "drift": True}, "drift", "answers are cut"),
        ({"rows": 60, "other": 2, "worse": 0, "margin": 10}, "same", "within the margin of 10 points"),
        ({"rows": 60, "other": 2, "worse": 2}, "unclear", "answers agree on 58 of 60"),
        ({"rows": 60, "other": 30, "worse": 30}, "drift", "not by chance"),
        ({"rows": 600, "other": 2, "worse": 2, "drift": False}, "same", "within the margin of 5 points"),
    ],
)
def test_the_verdict(arguments: dict[str, int], verdict: str, words: str) -> None:
    given, reason = judge(**arguments)  # type: ignore[arg-type]
    assert (given, words in reason) == (verdict, True), reason


def test_a_tie_agrees_and_is_said() -> None:
    tied = [
        pair if pair.same else AnswerPair(pair.row, REQUEST, pair.expected, pair.got, tied=True) for pair in pairs(9, 2)
    ]
    comparison = compare_means([1.0] * 9, [1.0] * 9, metric="accuracy")
    verdict, reason = decide(tied, [], comparison, unit="share", margin=5, prompts="none")
    assert verdict == "same"
    assert "2 of them up to rounding" in reason
