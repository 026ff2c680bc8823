"""Every sentence of a verdict, by case: what it says, and that it says nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.results import EvaluationResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.intervals import Interval
from llmtune.metrics.sentences import SENTENCES
from llmtune.provider.generation import Unavailable
from llmtune.report.verdicts import describe_cheap_baseline, describe_evaluation, describe_lead, held_out_power
from tests.llmtune.evaluation.conftest import LABELS, Scripted, ticket, truth

GONE = Unavailable("no such model")


def right_up_to(share: float, wrong: str = "") -> Any:
    """Return a model that is right on the first `share` of every hundred tickets, and else answers `wrong`."""

    def answer(prompt: str) -> str:
        number = int(prompt.split()[-1])
        if number % 100 < 100 * share:
            return truth(prompt)
        return wrong or LABELS[(number + 1) % 3]

    return Scripted(answer)


def result(base: Any, tuned: Any, *, rows: int = 100, labels: Any = LABELS) -> EvaluationResult:
    spec = EvaluationSpec(max_rows=rows, metrics=None if labels else ("exact_match",))
    return evaluate(
        [ticket(n) for n in range(rows)],
        {"base": base, "tuned": tuned},
        spec,
        scoring=ScoringOptions(labels=labels, resamples=300),
    )


CASES: dict[str, tuple[Any, Any, dict[str, Any], list[str]]] = {
    "tuned missing": (
        right_up_to(0.5),
        GONE,
        {},
        [
            "The base model reaches accuracy 50.0% (",
            " on 100 held-out rows; the tuned model could not be asked: no such",
        ],
    ),
    "base missing": (
        GONE,
        right_up_to(0.5),
        {},
        ["The tuned model reaches accuracy 50.0% (", "; the base model was not asked: no such model."],
    ),
    "both missing": (GONE, GONE, {}, ["nothing could be measured", "The tuned model could not be asked"]),
    "better": (
        right_up_to(0.4),
        right_up_to(0.9),
        {},
        ["Tuning helped: accuracy rose from 40.0% to 90.0% (+50.0 points, 95% interval "],
    ),
    "worse": (
        right_up_to(0.9),
        right_up_to(0.4),
        {},
        ["Tuning hurt: accuracy fell from 90.0% to 40.0% (-50.0 points, 95% interval "],
    ),
    "a tie": (
        right_up_to(0.6),
        right_up_to(0.6),
        {},
        [
            "not separable: accuracy was 60.0% and is 60.0% (+0.0 points",
            "not certain on 100 rows, and equal in figures.",
        ],
    ),
    "no labels": (
        right_up_to(0.4),
        right_up_to(0.9),
        {"labels": ()},
        ["Tuning helped: exact match rose from 40.0% to 90.0%"],
    ),
    "few rows": (
        right_up_to(0.04),
        right_up_to(0.06),
        {"rows": 8},
        ["are not separable: accuracy was 50.0% and is 75.0%", "not certain on 8 rows: about ", " would settle it."],
    ),
    "outside the labels": (
        right_up_to(0.2),
        right_up_to(0.9, wrong="I cannot say"),
        {},
        ["Tuning helped", "10 of 100 answers (10.0%) are none of the 3 labels."],
    ),
}
UNTOLD = "The prompts do not name the labels, so the base model was never told them."


@pytest.mark.parametrize("case", CASES)
def test_the_headline_of_every_case(case: str) -> None:
    base, tuned, more, parts = CASES[case]
    sentence = describe_evaluation(result(base, tuned, **more))
    at = 0
    for part in parts:
        assert part in sentence[at:], sentence
        at = sentence.index(part, at)
    assert ("none of the 3 labels" in sentence) == (case == "outside the labels")
    assert sentence.endswith(".")


def comparison(difference: float, low: float, high: float, verdict: str, **more: Any) -> Comparison:
    fields: dict[str, Any] = {
        "metric": "accuracy",
        "name_a": "one",
        "name_b": "two",
        "a": 0.5,
        "b": 0.5 + difference,
        "difference": difference,
        "interval": Interval(low=low, high=high, method="by hand"),
        "rows": 40,
        "verdict": verdict,
    }
    return Comparison(**(fields | more))


@pytest.mark.parametrize(
    ("pair", "certain", "says"),
    [
        (
            comparison(0.25, 0.10, 0.40, "better"),
            True,
            "two leads one by 25.0 points of accuracy (95% interval 10.0 to 40.0).",
        ),
        (
            comparison(-0.25, -0.40, -0.10, "worse"),
            True,
            "one leads two by 25.0 points of accuracy (95% interval 10.0 to 40.0).",
        ),
        (
            comparison(0.25, -0.02, 0.50, "not separable"),
            False,
            "two leads one by 25.0 points of accuracy (95% interval -2.0 to 50.0); not certain on 40 rows: about 89"
            " would settle it.",
        ),
        (
            comparison(0.0, -0.1, 0.1, "not separable"),
            False,
            "one and two are equal in accuracy (95% interval -10.0 to 10.0) on 40 rows.",
        ),
        (
            comparison(0.001, -0.1, 0.1, "not separable"),
            False,
            "two leads one by 0.1 points of accuracy (95% interval -10.0 to 10.0); not certain on 40 rows, and more"
            " than 100,000 would be needed.",
        ),
        (
            comparison(-0.2, -0.3, -0.1, "better", metric="loss", better="lower"),
            True,
            "two leads one by 0.200 of loss (95% interval 0.100 to 0.300).",
        ),
    ],
)
def test_who_leads_whom(pair: Comparison, certain: bool, says: str) -> None:
    unit = "share" if pair.better == "higher" else "nats/token"
    assert describe_lead(pair, unit, certain=certain) == says


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (comparison(0.3, 0.2, 0.4, "better"), "X reaches 50.0%, 30.0 points less (95% interval 20.0 to 40.0)."),
        (
            comparison(-0.3, -0.4, -0.2, "worse"),
            "X reaches 50.0%, 30.0 points more (95% interval 20.0 to 40.0): do not pay for tuning.",
        ),
        (
            comparison(-0.1, -0.25, 0.05, "not separable"),
            "X does at least as well: it reaches 50.0%, 10.0 points more (95% interval -5.0 to 25.0), which",
        ),
        (comparison(0.0, -0.05, 0.05, "not separable"), "X does as well: it reaches 50.0%"),
        (comparison(0.005, -0.01, 0.015, "not separable"), "X does as well: it reaches 50.0%"),
        (
            comparison(0.1, -0.02, 0.22, "not separable"),
            "X reaches 50.0% (10.0 points less, 95% interval -2.0 to 22.0);",
        ),
    ],
)
def test_a_cheap_baseline_is_recommended_only_where_it_does_as_well(pair: Comparison, says: str) -> None:
    sentence = describe_cheap_baseline("X", pair, "share")
    assert sentence.startswith(says)
    worse = pair.difference > 0.02
    assert ("do not pay" in sentence) != worse


def test_a_plan_says_how_many_rows_a_difference_needs() -> None:
    assert held_out_power(200).startswith("200 held-out rows are asked: they can show a difference of 9.8 points")
    assert "5.0 points would take about 790" in held_out_power(200)
    assert "2.0 points would take about" in held_out_power(2_000)
    assert held_out_power(1) == (
        "1 held-out row: too few to show any difference between two models, which takes at least 6"
    )


def test_every_template_ends_as_a_sentence_or_is_a_clause() -> None:
    assert all(text and "  " not in text for text in SENTENCES.values())
