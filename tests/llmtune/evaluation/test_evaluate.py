"""Did tuning help, by how much, and how sure: base and tuned on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmtune._retry import RetryPolicy
from llmtune.data.example import Example, Message, Preference, ToolCall, chat
from llmtune.errors import InvalidData, MissingExtra, UnknownName, VendorError
from llmtune.evaluation.cache import MemoryCache
from llmtune.evaluation.evaluate import AnswerOptions, evaluate
from llmtune.evaluation.few_shot import few_shot
from llmtune.evaluation.results import EvaluationResult
from llmtune.evaluation.sampling import find_contradictions, row_ids, subsample
from llmtune.evaluation.scoring import check_metrics
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.chat import chat_message
from llmtune.provider.generation import Generation, GenerationRequest, Unavailable
from llmtune.report.verdicts import describe_evaluation
from tests.llmtune.evaluation.conftest import LABELS, Likely, Scripted, limited, often, ticket, truth

QUICK = RetryPolicy(tries=3, first=0.0, most=0.0)
SPEC = EvaluationSpec(max_rows=500)


def accuracy(result: EvaluationResult, system: str) -> float:
    system_result = result.system(system)
    assert system_result is not None
    return system_result["accuracy"].value


# --- label datasets ---------------------------------------------------------------------
def test_base_and_tuned_with_intervals_verdict_and_majority(tickets: list[Example]) -> None:
    base, tuned = Scripted(lambda prompt: "bug"), Scripted(often)
    result = evaluate(tickets, {"base": base, "tuned": tuned}, SPEC, scoring=ScoringOptions(labels=LABELS))
    assert accuracy(result, "base") == 1 / 3
    assert accuracy(result, "tuned") == pytest.approx(sum(often(p) == truth(p) for p in tuned.asked) / 120)
    assert result.main == "accuracy"
    assert result.scored_by == "text"
    assert result.rule is not None
    assert result.rule.startswith("normalised")
    comparison = result.comparison()
    assert comparison is not None
    assert comparison.verdict == "better"
    assert comparison.p_value is not None
    assert comparison.p_value < 1e-6
    against_majority = result.comparison(a="majority")
    assert against_majority is not None
    assert against_majority.verdict == "better"
    assert result.majority is not None
    assert result.majority.accuracy.value == 1 / 3
    for name in ("base", "tuned"):
        system = result.system(name)
        assert system is not None
        assert {metric.name for metric in system.metrics} == {"accuracy", "macro_f1", "weighted_f1"}
        assert system.not_reported["loss"] == "the backend reports no likelihoods of tokens"
        for metric in system.metrics:
            assert metric.interval.low <= metric.value <= metric.interval.high
            assert metric.interval.low < metric.interval.high
        assert system.classification is not None
        assert system.classification.accuracy == system["accuracy"].value
        assert system.classification.macro.f1 == pytest.approx(system["macro_f1"].value)
        assert system.classification.weighted.f1 == pytest.approx(system["weighted_f1"].value)
    assert (base.opened, base.closed, tuned.opened, tuned.closed) == (1, 1, 1, 1)


def test_equal_systems_are_not_separable(tickets: list[Example]) -> None:
    result = evaluate(
        tickets, {"base": Scripted(often), "tuned": Scripted(often)}, SPEC, scoring=ScoringOptions(labels=LABELS)
    )
    comparison = result.comparison()
    assert comparison is not None
    assert comparison.verdict == "not separable"


def test_answers_outside_the_set_are_wrong_counted_and_said(tickets: list[Example]) -> None:
    chatty = Scripted(lambda prompt: f"I think it is a {truth(prompt)}!")
    result = evaluate(tickets, {"tuned": chatty}, SPEC, scoring=ScoringOptions(labels=LABELS))
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned.classification is not None
    assert tuned.classification.outside == 120
    assert tuned["accuracy"].value == 0
    assert "120 of 120 answers are outside the label set" in " ".join(result.warnings)
    assert tuned.worst[0].note == "outside the label set"
    lenient = evaluate(tickets, {"tuned": chatty}, SPEC, scoring=ScoringOptions(labels=LABELS, rule="mentioned"))
    assert accuracy(lenient, "tuned") == 1
    assert lenient.rule is not None
    assert lenient.rule.startswith("mentioned")


class Rambling(Likely):
    """A model that finds the right label likeliest, and answers with something else when it is asked."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        answers = super().generate(requests)
        return [
            answer if index % 16 == 0 else replace(answer, text=f"{answer.text}, I think")
            for index, answer in enumerate(answers)
        ]


def test_what_is_answered_is_measured_and_the_likeliest_label_stands_beside_it(tickets: list[Example]) -> None:
    result = evaluate(
        tickets,
        {"base": Likely(lambda prompt: "bug"), "tuned": Rambling(truth)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
    )
    assert result.scored_by == "text"
    tuned = result.system("tuned")
    assert tuned is not None
    assert result.main == "accuracy"
    assert tuned["accuracy"].value < 0.25
    assert tuned["likelihood_accuracy"].value == 1.0
    assert tuned.classification is not None
    assert tuned.classification.outside > 90
    verdicts = describe_evaluation(result)
    assert "Tuning hurt: accuracy fell" in verdicts
    assert f"{tuned.classification.outside} of 120 answers" in verdicts
    assert "are none of the 3 labels; choosing the likeliest label instead would reach 100.0%." in verdicts
    likeliest = result.comparison("likelihood_accuracy")
    assert likeliest is not None
    assert likeliest.verdict == "better"


def test_how_sure_a_model_is_stands_beside_how_often_it_is_right(tickets: list[Example]) -> None:
    train = [ticket(number) for number in range(200, 260)]
    result = evaluate(
        tickets,
        {"base": Likely(lambda prompt: "bug"), "tuned": Likely(often)},
        SPEC,
        train=train,
        scoring=ScoringOptions(labels=LABELS),
    )
    sure = 1 / (1 + 2 * math.exp(-2.9))  # what the likelihoods of these models come to
    right = sum(often(row.messages[-2].words) == truth(row.messages[-2].words) for row in tickets) / 120
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned.calibration is not None
    assert tuned.calibration.confidence == pytest.approx(sure)
    assert tuned.calibration.accuracy == pytest.approx(right)
    assert [group.rows for group in tuned.calibration.bins] == [120]  # one confidence, one group
    assert tuned["ece"].value == pytest.approx(sure - right, abs=0.01)
    assert tuned["ece"].interval.low < sure - right < tuned["ece"].interval.high
    other = (1 - sure) / 2
    wrong_score, right_score = sure**2 + (1 - other) ** 2 + other**2, (1 - sure) ** 2 + 2 * other**2
    assert tuned["brier"].value == pytest.approx(right * right_score + (1 - right) * wrong_score)
    for metric in ("ece", "brier", "log_loss"):
        comparison = result.comparison(metric)
        assert comparison is not None
        assert comparison.verdict == "better"
    linear = result.system("linear")
    assert linear is not None
    assert linear.calibration is not None
    assert linear["brier"].value < 2


def test_a_model_without_likelihoods_has_no_probabilities(tickets: list[Example]) -> None:
    options = ScoringOptions(labels=LABELS, metrics=("accuracy", "brier"))
    result = evaluate(tickets, {"tuned": Scripted(often)}, SPEC, scoring=options)
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned.calibration is None
    assert "reports the likelihood of each label" in tuned.not_reported["brier"]


@pytest.mark.parametrize(("labels_named", "sentence"), [(True, "bug, feature or question? "), (False, "")])
def test_a_base_model_that_was_not_told_the_labels_is_said(labels_named: bool, sentence: str) -> None:
    rows = [chat(("user", f"{sentence}ticket {n}"), ("assistant", LABELS[n % 3])) for n in range(60)]
    result = evaluate(
        rows,
        {"base": Scripted(lambda prompt: "bug"), "tuned": Scripted(truth)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
    )
    assert result.labels_told is labels_named
    assert ("the base model was never told them" in describe_evaluation(result)) is not labels_named
    assert evaluate(rows, {"tuned": Scripted(truth)}, SPEC, scoring=ScoringOptions(labels=())).labels_told is None


def test_a_classifier_is_scored_by_the_label_it_finds_likeliest(tickets: list[Example]) -> None:
    base, tuned = Likely(lambda prompt: "bug", loss=2.0), Likely(often, loss=0.5)
    result = evaluate(
        tickets, {"base": base, "tuned": tuned}, SPEC, scoring=ScoringOptions(labels=LABELS, rule="likelihood")
    )
    assert result.scored_by == "likelihood"
    assert base.asked == tuned.asked == []
    assert accuracy(result, "base") == 1 / 3
    system = result.system("tuned")
    assert system is not None
    assert system["loss"].value == pytest.approx(0.5)
    assert system["perplexity"].value == pytest.approx(math.exp(0.5))
    assert system["token_accuracy"].value == pytest.approx(0.75)
    assert not isinstance(system.tokens, NotReported)
    assert system.tokens.tokens == 480
    assert "% sure; gave the right label" in system.worst[0].note
    by_loss = result.comparison("loss")
    assert by_loss is not None
    assert by_loss.verdict == "better"  # lower is better
    mixed = evaluate(
        tickets,
        {"base": Scripted(often), "tuned": Likely(often)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS, rule="likelihood"),
    )
    assert mixed.scored_by == "text"  # both in the same way, or the comparison would be unfair


def test_the_label_set_is_found_in_all_parts(tickets: list[Example]) -> None:
    result = evaluate(tickets[:3], {"tuned": Scripted(truth)}, SPEC, train=tickets[3:])
    assert result.labels == ("bug", "feature", "question")
    assert result.majority is not None
    assert result.majority.source == "train"
    named = EvaluationSpec(labels=("question", "bug", "feature", "other"))
    assert evaluate(tickets[:3], {"tuned": Scripted(truth)}, named).labels == named.labels


def test_labels_without_a_row_do_not_drag_the_macro_mean_down(tickets: list[Example]) -> None:
    named = EvaluationSpec(labels=(*LABELS, "never"))
    result = evaluate(tickets, {"tuned": Scripted(truth)}, named)
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned["macro_f1"].value == 1.0
    assert any("1 of 4 labels have no evaluated row" in line for line in result.warnings)


def test_a_label_outside_the_set_is_refused_before_anything_is_asked(tickets: list[Example]) -> None:
    model = Scripted(truth)
    with pytest.raises(InvalidData, match=r"test line 2: the label 'feature' is not in the label set"):
        evaluate(tickets, {"tuned": model}, EvaluationSpec(labels=("bug", "question")))
    assert model.calls == 0


def test_the_metrics_asked_for_and_their_mistakes(tickets: list[Example]) -> None:
    spec = EvaluationSpec(metrics=("macro_f2", "weighted_precision", "micro_recall", "normalised_match"))
    result = evaluate(tickets, {"tuned": Scripted(often)}, spec, scoring=ScoringOptions(labels=LABELS))
    tuned = result.system("tuned")
    assert tuned is not None
    assert [metric.name for metric in tuned.metrics] == list(spec.metrics or ())
    assert tuned["micro_recall"].value == tuned["normalised_match"].value
    with pytest.raises(UnknownName, match="macro_f1"):
        check_metrics(["macro_f_1"])
    with pytest.raises(UnknownName):
        evaluate(
            tickets,
            {"tuned": Scripted(often)},
            EvaluationSpec(metrics=("bleurgh",)),
            scoring=ScoringOptions(labels=LABELS),
        )
    check_metrics(["accuracy", "loss", "chrf", "weighted_f0.5", lambda expected, got: 1.0])


def test_a_function_of_ones_own_that_breaks_does_not_lose_the_rest(tickets: list[Example]) -> None:
    def broken(expected: str, got: str) -> float:
        raise KeyError(got)

    result = evaluate(
        tickets, {"tuned": Scripted(often)}, SPEC, scoring=ScoringOptions(labels=LABELS, metrics=["accuracy", broken])
    )
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned.get("accuracy") is not None
    assert "failed on the answer" in tuned.not_reported["broken"]


# --- text ---------------------------------------------------------------------
def sums(count: int = 40) -> list[Example]:
    return [chat(("user", f"add {n}"), ("assistant", f"{n} + 1 = {n + 1}\n#### {n + 1}")) for n in range(count)]


def test_gsm8k_style_rows_are_scored_by_their_final_number() -> None:
    tuned = Scripted(lambda prompt: f"so it is {int(prompt.split()[1]) + 1}.")
    base = Scripted(lambda prompt: "I do not know")
    result = evaluate(sums(), {"base": base, "tuned": tuned}, SPEC)
    assert result.main == "final_answer"
    system = result.system("tuned")
    assert system is not None
    assert system["final_answer"].value == 1.0
    assert system["exact_match"].value == 0.0
    assert system["final_answer"].interval.low == pytest.approx(0.912, abs=1e-3)  # 40 of 40 is no certainty
    comparison = result.comparison()
    assert comparison is not None
    assert comparison.verdict == "better"
    assert result.majority is None


def test_free_text_gets_matches_and_overlap() -> None:
    rows = [chat(("user", f"say {n}"), ("assistant", f"the number of the day is {n}, my friend")) for n in range(30)]
    model = Scripted(lambda prompt: f"The number of the day is {prompt.split()[1]}, my friend.")
    result = evaluate(rows, {"tuned": model}, SPEC)
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned["exact_match"].value == 0
    assert tuned["normalised_match"].value == 1
    assert tuned["rouge_l"].value == 1
    assert 0.8 < tuned["chrf"].value < 1


def test_a_missing_metric_package_is_a_value_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(expected: str, got: str) -> float:
        raise MissingExtra("report", "sacrebleu")

    rows = [chat(("user", f"say {n}"), ("assistant", "long answer " * 9)) for n in range(5)]
    result = evaluate(
        rows, {"tuned": Scripted(lambda _: "x")}, SPEC, scoring=ScoringOptions(metrics=["exact_match", absent])
    )
    tuned = result.system("tuned")
    assert tuned is not None
    assert "not installed" in tuned.not_reported["absent"]


def test_plain_text_rows_have_a_loss_and_nothing_is_generated() -> None:
    rows = [Example(text=f"once upon a time {n}") for n in range(20)]
    model = Likely(truth, loss=1.25)
    result = evaluate(rows, {"tuned": model}, SPEC)
    tuned = result.system("tuned")
    assert tuned is not None
    assert result.scored_by == "loss"
    assert result.main == "loss"
    assert tuned["loss"].value == pytest.approx(1.25)
    assert model.asked == []
    assert tuned.worst[0].note == "loss 1.250 nats/token"


def test_preference_rows_are_scored_by_which_answer_is_likelier() -> None:
    rows = [
        Example(
            messages=(Message("user", f"q {n}"),),
            preference=Preference((Message("assistant", "good"),), (Message("assistant", "bad"),)),
        )
        for n in range(30)
    ]
    model = Likely(lambda prompt: "good" if int(prompt.split()[1]) % 3 else "bad")
    result = evaluate(rows, {"tuned": model}, SPEC)
    assert result.main == "preference_accuracy"
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned["preference_accuracy"].value == pytest.approx(2 / 3)
    assert tuned.worst[0].got == "bad"


class Calling(Scripted):
    def _one(self, request: GenerationRequest) -> Generation:
        number = request.messages[-1].words.split()[-1]
        arguments = f'{{"city":  "{number}"}}' if number != "3" else '{"city": "elsewhere"}'
        return Generation(text="", tool_calls=(ToolCall("x", "weather", arguments),))


def test_tool_calls_are_compared_by_name_and_arguments() -> None:
    rows = [
        Example(
            messages=(
                Message("user", f"weather in {n}"),
                Message("assistant", None, tool_calls=(ToolCall("c1", "weather", f'{{"city":"{n}"}}'),)),
            ),
            tools=({"type": "function", "function": {"name": "weather"}},),
        )
        for n in range(10)
    ]
    result = evaluate(rows, {"tuned": Calling(truth)}, SPEC)
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned["tool_call_match"].value == 0.9
    assert tuned.worst[0].prompt == "weather in 3"


# --- what is asked ---------------------------------------------------------------------
def test_the_jobs_generation_settings_travel_with_every_question(tickets: list[Example]) -> None:
    model = Scripted(truth)
    spec = EvaluationSpec(temperature=0.7, top_p=0.9, top_k=40, max_tokens=33)
    result = evaluate(tickets[:5], {"tuned": model}, spec, scoring=ScoringOptions(labels=LABELS, seed=11))
    for request in model.requests:
        assert (request.temperature, request.top_p, request.top_k, request.max_tokens) == (0.7, 0.9, 40, 33)
        assert request.seed == 11
        assert [turn.role for turn in request.messages] == ["system", "user"]
    assert result.generation == {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 33}
    greedy = Scripted(truth)
    evaluate(tickets[:5], {"tuned": greedy}, EvaluationSpec(), scoring=ScoringOptions(labels=LABELS))
    assert {request.seed for request in greedy.requests} == {None}
    assert all((request.max_tokens or 0) >= 16 for request in greedy.requests)


def test_the_reference_is_the_last_answer_that_is_learned_from() -> None:
    """A turn of weight 0 is what an earlier model said, and what stands behind the answer was not learned either."""
    rows = [
        Example(
            (
                Message("system", "Be brief.", raw_role="developer"),
                Message("user", f"What is {number} plus one?"),
                Message("assistant", str(number + 1)),
                Message("user", "Sure?"),
                Message("assistant", "No idea.", weight=0),
            )
        )
        for number in range(12)
    ]
    model = Scripted(lambda prompt: str(int(prompt.split()[2]) + 1))
    result = evaluate(rows, {"tuned": model}, SPEC)
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned["exact_match"].value == 1.0
    assert [[turn.role for turn in request.messages] for request in model.requests] == [["system", "user"]] * 12
    # the role goes out under the name that training used, not under the row's
    assert {chat_message(request.messages[0])["role"] for request in model.requests} == {"system"}
    messages = few_shot(model, rows[:1])._add_examples(model.requests[:1])[0].messages
    assert [turn.words for turn in messages[1:-1]] == ["What is 0 plus one?", "1"]


def test_at_most_max_rows_are_asked_and_always_the_same(tickets: list[Example]) -> None:
    spec = EvaluationSpec(max_rows=20)
    one, two = Scripted(truth), Scripted(truth)
    result = evaluate(tickets, {"tuned": one}, spec, scoring=ScoringOptions(labels=LABELS))
    evaluate(list(reversed(tickets)), {"tuned": two}, spec, scoring=ScoringOptions(labels=LABELS))
    assert len(one.asked) == 20
    assert sorted(one.asked) == sorted(two.asked)
    assert (result.rows, result.available) == (20, 120)
    assert any("20 of 120 test rows" in line for line in result.warnings)
    assert sorted(one.asked) != sorted(ticket.messages[1].words for ticket in tickets[:20])


def test_another_row_moves_at_most_one_out_of_the_sample(tickets: list[Example]) -> None:
    before = {tickets[number].line for number in subsample(tickets, 30)}
    more = [*tickets, ticket(500)]
    after = {more[number].line for number in subsample(more, 30)}
    assert len(before - after) <= 1
    assert subsample(tickets, 500) == list(range(120))


def test_equal_rows_have_ids_of_their_own() -> None:
    ids = row_ids([ticket(1), ticket(1), ticket(2)])
    assert len(set(ids)) == 3
    assert ids == row_ids([ticket(1), ticket(1), ticket(2)])


def test_equal_questions_are_asked_once() -> None:
    rows = [ticket(number % 10) for number in range(50)]
    for concurrency in (1, 4):
        model = Scripted(truth, max_concurrency=concurrency)
        result = evaluate(rows, {"tuned": model}, SPEC, scoring=ScoringOptions(labels=LABELS))
        assert len(model.asked) == 10
        assert accuracy(result, "tuned") == 1


def test_no_test_rows_is_a_sentence() -> None:
    with pytest.raises(InvalidData, match="no test rows"):
        evaluate([], {"tuned": Scripted(truth)}, SPEC)


# --- backends that cannot, or will not ---------------------------------------------------------------------
def test_a_base_model_that_cannot_be_asked_says_why(tickets: list[Example]) -> None:
    reason = "the base model needs a paid deployment"
    result = evaluate(
        tickets, {"base": Unavailable(reason), "tuned": Scripted(often)}, SPEC, scoring=ScoringOptions(labels=LABELS)
    )
    assert result.systems["base"] == NotReported(reason)
    assert result.system("base") is None
    assert result.comparison() is None
    assert result.comparison(a="majority") is not None
    assert reason in " ".join(result.warnings)


def test_a_base_model_that_breaks_does_not_take_the_tuned_one_along(tickets: list[Example]) -> None:
    base = Scripted(often)
    base.faults = {f"ticket {n}": [VendorError("no such model", status=404)] for n in range(120)}
    result = evaluate(
        tickets,
        {"base": base, "tuned": Scripted(often)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
        answering=AnswerOptions(patience=QUICK),
    )
    assert result.systems["base"] == NotReported("no such model")
    assert result.system("tuned") is not None
    with pytest.raises(VendorError, match="no such model"):
        base.faults = {f"ticket {n}": [VendorError("no such model", status=404)] for n in range(120)}
        evaluate(
            tickets,
            {"base": base},
            SPEC,
            scoring=ScoringOptions(labels=LABELS),
            answering=AnswerOptions(patience=QUICK),
        )


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_row_the_backend_refuses_counts_as_wrong_and_is_told(tickets: list[Example], concurrency: int) -> None:
    model = Scripted(truth, max_concurrency=concurrency)
    model.faults = {"ticket 7": [VendorError("content filter", status=400) for _ in range(2)]}
    result = evaluate(
        tickets, {"tuned": model}, SPEC, scoring=ScoringOptions(labels=LABELS), answering=AnswerOptions(patience=QUICK)
    )
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned.failed == 1
    assert tuned["accuracy"].value == 119 / 120
    assert tuned.worst[0].note == "refused: content filter"
    assert tuned.worst[0].line == 8
    assert tuned.worst[0].got is None
    assert any("1 rows were refused" in line for line in result.warnings)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_when_most_rows_are_refused_it_is_not_the_rows(tickets: list[Example], concurrency: int) -> None:
    model = Scripted(truth, max_concurrency=concurrency)
    model.faults = {f"ticket {n}": [VendorError("bad request", status=400)] * 3 for n in range(120)}
    with pytest.raises(VendorError, match="bad request"):
        evaluate(
            tickets,
            {"tuned": model},
            SPEC,
            scoring=ScoringOptions(labels=LABELS),
            answering=AnswerOptions(patience=QUICK),
        )
    assert len(model.asked) == 0


def test_cut_answers_are_told(tickets: list[Example]) -> None:
    class Cut(Scripted):
        def _one(self, request: GenerationRequest) -> Generation:
            return Generation(text="bug", finish_reason="length")

    result = evaluate(tickets, {"tuned": Cut(truth)}, SPEC, scoring=ScoringOptions(labels=LABELS))
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned.cut == 120
    assert any("cut off at" in line for line in result.warnings)


def test_latency_and_tokens(tickets: list[Example]) -> None:
    result = evaluate(
        tickets, {"tuned": Scripted(truth), "likely": Likely(truth)}, SPEC, scoring=ScoringOptions(labels=LABELS)
    )
    tuned = result.system("tuned")
    assert tuned is not None
    assert not isinstance(tuned.latency, NotReported)
    assert (tuned.latency.p50, tuned.latency.p95, tuned.latency.answers) == (0.25, 0.25, 120)
    assert not isinstance(tuned.usage, NotReported)
    assert (tuned.usage.prompt_tokens, tuned.usage.completion_tokens) == (840, 240)
    assert (tuned.usage.asked, tuned.usage.cached) == (120, 0)


# --- fit, blame, contradictions ---------------------------------------------------------------------
def test_the_fit_asks_training_and_validation_rows_of_the_tuned_model_only(tickets: list[Example]) -> None:
    train, validation, test = tickets[:60], tickets[60:90], tickets[90:]
    base, tuned = Likely(often), Likely(lambda p: truth(p) if int(p.split()[-1]) < 60 else "bug")
    result = evaluate(
        test,
        {"base": base, "tuned": tuned},
        SPEC,
        train=train,
        validation=validation,
        fit_rows=40,
        scoring=ScoringOptions(labels=LABELS),
    )
    assert result.fit is not None
    assert result.fit.train is not None
    assert result.fit.validation is not None
    assert result.fit.train.value == 1.0
    assert result.fit.train.rows == 40
    assert result.fit.validation.value == 1 / 3
    assert len(base.asked) == 30
    assert len(tuned.asked) == 30 + 40 + 30
    assert len(tuned.scored) == 30  # likelihoods of the test rows alone
    assert result.fit.hardest
    assert "nats/token" in result.fit.hardest[0].note


def test_the_worst_rows_show_prompt_expected_and_got(tickets: list[Example]) -> None:
    result = evaluate(tickets, {"tuned": Scripted(often)}, SPEC, scoring=ScoringOptions(labels=LABELS))
    tuned = result.system("tuned")
    assert tuned is not None
    worst = tuned.worst
    assert worst[0].prompt == "ticket 5"
    assert worst[0].expected == "question"
    assert worst[0].got == "bug"
    assert worst[0].line == 6
    assert len(worst) <= 20
    assert all(row.expected != row.got for row in worst)


def test_contradicting_labels_are_listed_with_their_places(tickets: list[Example]) -> None:
    twin = ticket(4, label="bug")
    contradictions = find_contradictions({"train": [*tickets[:3], twin], "test": tickets[3:]})
    assert [contradiction.prompt for contradiction in contradictions] == ["ticket 4"]
    assert contradictions[0].answers == (("bug", "train line 5"), ("feature", "test line 5"))
    result = evaluate(
        tickets[3:], {"tuned": Scripted(often)}, SPEC, train=[*tickets[:3], twin], scoring=ScoringOptions(labels=LABELS)
    )
    assert len(result.contradictions) == 1


# --- the result ---------------------------------------------------------------------
def test_a_result_survives_json(tickets: list[Example]) -> None:
    result = evaluate(
        tickets,
        {"base": Unavailable("no"), "tuned": Likely(often, loss=math.inf)},
        SPEC,
        train=tickets,
        fit_rows=10,
        scoring=ScoringOptions(labels=LABELS),
    )
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result


def test_the_same_evaluation_gives_the_same_numbers(tickets: list[Example]) -> None:
    one, two = (
        evaluate(
            tickets,
            {"base": Scripted(lambda _: "bug"), "tuned": Scripted(often)},
            SPEC,
            scoring=ScoringOptions(labels=LABELS),
        )
        for _ in range(2)
    )
    assert one == two


def test_progress_is_told_by_system(tickets: list[Example]) -> None:
    reports: list[tuple[str, int, int]] = []
    evaluate(
        tickets,
        {"base": Scripted(often, max_concurrency=3), "tuned": Likely(often)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
        answering=AnswerOptions(on_progress=lambda *report: reports.append(report)),
    )
    assert reports[0] == ("base", 0, 120)
    assert ("base", 120, 120) in reports
    assert reports[-1] == ("tuned", 120, 120)


@pytest.mark.slow
def test_banking77_with_its_77_labels(shared: Path) -> None:
    from llmtune.data.dataset import Dataset
    from llmtune.job.spec import DatasetSpec

    folder = shared / "data" / "chat" / "banking77"
    data = Dataset.from_spec(
        DatasetSpec(**{part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")})
    )
    answers = {row.prompt()[-1].words: row.completion() for row in data.test}
    often_right = Scripted(lambda p: answers[p] if len(p) % 4 else "card_arrival", max_concurrency=8)
    cache = MemoryCache()
    result = evaluate(
        data.test,
        {"tuned": often_right},
        EvaluationSpec(max_rows=3080),
        train=data.train,
        scoring=ScoringOptions(labels=data.labels),
        answering=AnswerOptions(cache=cache, models={"tuned": "scripted"}),
    )
    tuned = result.system("tuned")
    assert tuned is not None
    assert result.rows == 3080
    assert len(result.labels or ()) == 77
    assert 0.7 < tuned["accuracy"].value < 0.8
    assert tuned["macro_f1"].interval.low < tuned["macro_f1"].value < tuned["macro_f1"].interval.high
    assert result.majority is not None
    assert result.majority.accuracy.value < 0.02


def test_rate_limits_are_waited_out(tickets: list[Example]) -> None:
    model = Scripted(truth, max_concurrency=4)
    model.faults = {f"ticket {n}": [limited(0.01), limited(0.01)] for n in range(0, 120, 3)}
    result = evaluate(tickets, {"tuned": model}, SPEC, scoring=ScoringOptions(labels=LABELS))
    assert accuracy(result, "tuned") == 1
    assert len(model.asked) == 120
