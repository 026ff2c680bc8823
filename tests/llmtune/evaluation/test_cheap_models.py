"""What costs next to nothing: learned from the training rows alone, measured on the same held-out rows, and said."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from llmtune.data.example import Example, chat
from llmtune.evaluation.cheap_models import nearest_answers, predict_labels
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.results import SystemResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.report.verdicts import describe_evaluation
from tests.llmtune.evaluation.conftest import Scripted

TEAMS = {"billing": ("invoice", "refund"), "network": ("router", "cable"), "hardware": ("screen", "battery")}


def calls(count: int, seed: int = 0) -> list[Example]:
    """Build rows whose label follows from one word of the question."""
    rows = []
    for number in range(count):
        team = list(TEAMS)[number % 3]
        symptom = TEAMS[team][number // 3 % 2]
        rows.append(chat(("user", f"case {seed}-{number}: the {symptom} troubles me"), ("assistant", team)))
    return rows


def test_a_linear_model_learns_what_the_words_say() -> None:
    train, rows = calls(120), calls(30, seed=1)
    labels = tuple(TEAMS)
    assert predict_labels(train, rows, labels) == [number % 3 for number in range(30)]
    assert predict_labels(train, rows, labels) == predict_labels(train, rows, labels)


def test_texts_without_blanks_are_read_by_characters() -> None:
    rows = [
        chat(("user", f"{'ab' * 20}{token}{n}{'cd' * 20}"), ("assistant", token)) for n in range(40) for token in "xy"
    ]
    assert predict_labels(rows[:60], rows[60:], ("x", "y")) == [0, 1] * 10


@pytest.mark.parametrize(("train", "why"), [([], "two labels"), (calls(1), "two labels")])
def test_where_there_is_nothing_to_learn_it_says_why(train: Sequence[Example], why: str) -> None:
    assert why in str(predict_labels(train, calls(3), tuple(TEAMS)))


def test_ten_thousand_rows_take_seconds() -> None:
    rows = [
        chat(("user", f"w{n % 977} w{n * 7 % 1009} w{n * 13 % 499} l{n % 20}"), ("assistant", f"label {n % 20}"))
        for n in range(10_000)
    ]
    began = time.process_time()
    label_indices = predict_labels(rows, rows[:200], tuple(f"label {n}" for n in range(20)))
    assert time.process_time() - began < 30  # one or two; the rest is for a busy machine
    assert label_indices == [n % 20 for n in range(200)]


def test_the_nearest_training_row_answers() -> None:
    train = [chat(("user", f"what is the capital of {land}"), ("assistant", town)) for land, town in LANDS.items()]
    questions = [chat(("user", f"please, the capital of {land}?"), ("assistant", "?")) for land in LANDS]
    assert nearest_answers(train, questions) == list(LANDS.values())
    assert "no training row" in str(nearest_answers([], questions))


LANDS = {"France": "Paris", "Norway": "Oslo", "Peru": "Lima", "Japan": "Tokyo"}


def measured(tuned: Scripted, baselines: tuple[str, ...] | None = None) -> dict[str, object]:
    spec = EvaluationSpec(baselines=baselines)  # type: ignore[arg-type]
    result = evaluate(
        calls(60, seed=2),
        {"base": Scripted(lambda _: "billing"), "tuned": tuned},
        spec,
        train=calls(150),
        scoring=ScoringOptions(resamples=300),
    )
    return {
        "result": result,
        "said": describe_evaluation(result),
        "systems": list(result.systems),
        "majority": result.majority,
    }


def right(prompt: str) -> str:
    return next(team for team, symptoms in TEAMS.items() if any(symptom in prompt for symptom in symptoms))


def test_a_report_says_when_a_linear_model_does_as_well() -> None:
    system = measured(Scripted(right))
    assert system["systems"] == ["base", "linear", "tuned"]
    assert "A linear model (TF-IDF and logistic regression) does as well: it reaches 100.0%" in str(system["said"])
    assert str(system["said"]).endswith("do not pay for tuning.")


def test_a_report_says_when_a_linear_model_is_better() -> None:
    system = measured(Scripted(lambda prompt: right(prompt) if "0" in prompt.split(":")[0][-1] else "network"))
    assert "A linear model (TF-IDF and logistic regression) reaches 100.0%, " in str(system["said"])
    assert "points more (95% interval " in str(system["said"])
    assert "do not pay for tuning" in str(system["said"])


def test_baselines_are_what_the_job_names() -> None:
    only_base = measured(Scripted(right), ("base",))
    assert only_base["systems"] == ["base", "tuned"]
    assert only_base["majority"] is None
    both = measured(Scripted(right), ("linear", "majority"))
    assert both["majority"] is not None
    assert "linear" in both["systems"]  # type: ignore[operator]


def test_text_is_measured_against_the_nearest_row() -> None:
    train = [chat(("user", f"say hello to {name}"), ("assistant", f"hello {name}, how are you")) for name in LANDS]
    rows = [chat(("user", f"say hello to {name} again"), ("assistant", f"hello {name}, how are you")) for name in LANDS]
    result = evaluate(
        rows, {"tuned": Scripted(lambda _: "hello")}, train=train, scoring=ScoringOptions(labels=(), resamples=200)
    )
    nearest = result.systems["nearest"]
    assert isinstance(nearest, SystemResult)
    assert nearest["exact_match"].value == 1.0
    verdicts = describe_evaluation(result)
    assert "Copying the answer of the nearest training row does at least as well: it reaches 100.0%" in verdicts
