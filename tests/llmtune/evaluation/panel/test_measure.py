"""Base and tuned model on a panel: paired, with margins, asked once, and told what could not be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmtune._retry import RetryPolicy
from llmtune.data.example import Example
from llmtune.errors import InvalidData, TransientError
from llmtune.evaluation.cache import MemoryCache
from llmtune.evaluation.evaluate import AnswerOptions, evaluate
from llmtune.evaluation.panel.measure import PanelRun, judge_loss
from llmtune.evaluation.panel.panel import Panel
from llmtune.evaluation.panel.questions import load_panel
from llmtune.evaluation.results import EvaluationResult, PanelResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.intervals import Interval
from llmtune.metrics.points import NotReported, TokenStats
from llmtune.provider.generation import Generation, GenerationRequest, Unavailable
from tests.llmtune.evaluation.conftest import LABELS, Likely, Scripted, limited, ticket, truth

QUICK = RetryPolicy(tries=2, first=0.0, most=0.0)
ROWS = [ticket(number) for number in range(30)]


def question(number: int, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"sum {number}"}, {"role": "assistant", "content": str(number + 1)}]
    fields = {"id": f"q{number}", "skill": "even" if number % 2 == 0 else "odd", "messages": messages}
    return {**fields, "rules": [{"rule": "number", "value": number + 1}], **changes}


def panel_of(path: Path, *questions: dict[str, Any]) -> Panel:
    path.write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    return load_panel(str(path))


@pytest.fixture
def sums(tmp_path: Path) -> Panel:
    """A hundred sums."""
    return panel_of(tmp_path / "sums.jsonl", *map(question, range(100)))


def adds(*, below: int) -> Callable[[str], str]:
    """Return a model that knows the tickets, and the sums of numbers below a limit."""

    def answer(prompt: str) -> str:
        if prompt.startswith("ticket"):
            return truth(prompt)
        number = int(prompt.split()[1])
        return str(number + 1) if number < below else "0"

    return answer


def run(panel: PanelRun | NotReported, base: Any, tuned: Any, **changes: Any) -> EvaluationResult:
    options = AnswerOptions(panel=panel, patience=QUICK, **changes)
    generators = {name: model for name, model in (("base", base), ("tuned", tuned)) if model is not None}
    scoring = ScoringOptions(labels=LABELS, resamples=300)
    return evaluate(ROWS, generators, EvaluationSpec(), scoring=scoring, answering=options)


def on_panel(result: EvaluationResult) -> PanelResult:
    assert isinstance(result.panel, PanelResult)
    return result.panel


def test_a_tuned_model_that_has_lost_ability_is_worse_by_both_figures(sums: Panel) -> None:
    base, tuned = Likely(adds(below=90), loss=1.0), Likely(adds(below=50), loss=1.5)
    panel = on_panel(run(PanelRun(sums, EvaluationSpec()), base, tuned))
    accuracy, likelihood = panel.tests
    assert (accuracy.comparison.a, accuracy.comparison.b, accuracy.verdict) == (0.9, 0.5, "worse")
    assert accuracy.comparison.discordant == (40, 0)
    assert (likelihood.comparison.metric, likelihood.unit) == ("log_likelihood", "nats/token")
    assert (likelihood.comparison.a, likelihood.comparison.b) == (-1.0, -1.5)
    assert likelihood.verdict == panel.verdict == "worse"
    assert [(skill.skill, skill.questions, skill.base, skill.tuned) for skill in panel.skills] == [
        ("even", 50, 0.9, 0.5),
        ("odd", 50, 0.9, 0.5),
    ]
    assert (panel.lost_in_all, panel.gained_in_all, len(panel.lost)) == (40, 0, 6)
    assert (panel.lost[0].prompt, panel.lost[0].before, panel.lost[0].after) == ("sum 50", "51", "0")


def test_a_model_that_has_lost_nothing_is_not_blamed(sums: Panel) -> None:
    panel = on_panel(run(PanelRun(sums, EvaluationSpec()), Likely(adds(below=90)), Likely(adds(below=91))))
    assert panel.verdict == "not worse"
    assert (panel.lost_in_all, panel.gained_in_all) == (0, 1)
    low = panel.tests[0].comparison.interval.low
    assert low >= -0.05


def test_few_questions_decide_nothing(tmp_path: Path) -> None:
    few = panel_of(tmp_path / "few.jsonl", *map(question, range(12)))
    panel = on_panel(run(PanelRun(few, EvaluationSpec()), Scripted(adds(below=8)), Scripted(adds(below=8))))
    assert [test.verdict for test in panel.tests] == ["undecided"]  # equal, but a loss of a fifth is not ruled out
    base = panel.system("base")
    assert base is not None
    assert base.log_likelihood == NotReported("the backend reports no likelihoods of tokens")


def test_the_margin_is_where_the_verdict_turns() -> None:
    def comparison(low: float, high: float, b: float = 0.5) -> Comparison:
        return Comparison(
            metric="accuracy", name_a="base", name_b="tuned", a=0.6, b=b, difference=b - 0.6, rows=100,
            interval=Interval(low=low, high=high, method="test"), verdict="not separable",
        )  # fmt: skip

    assert judge_loss(comparison(-0.05, 0.1), 0.05) == "not worse"
    assert judge_loss(comparison(-0.051, 0.1), 0.05) == "undecided"
    assert judge_loss(comparison(-0.3, -0.05), 0.05) == "undecided"
    assert judge_loss(comparison(-0.3, -0.051), 0.05) == "worse"
    assert judge_loss(comparison(-0.01, 0.0), 0.0) == "undecided"
    assert judge_loss(comparison(float("-inf"), float("inf"), float("nan")), 0.05) == "worse"  # it has diverged


def test_both_are_asked_alike_and_no_answer_twice(sums: Panel) -> None:
    cache = MemoryCache()
    models = {"base": "local base", "tuned": "local tuned"}
    seen: list[tuple[str, int, int]] = []
    first = Likely(adds(below=90)), Likely(adds(below=90))
    spec = EvaluationSpec(temperature=0.5, max_tokens=400)
    report = {"models": models, "cache": cache, "on_progress": lambda *progress: seen.append(progress)}
    result = run(PanelRun(sums, spec, seed=3), *first, **report)
    for model in first:
        asked = [request for request in model.requests if request.messages[-1].words.startswith("sum")]
        assert len(asked) == 100
        assert {(request.temperature, request.max_tokens, request.seed) for request in asked} == {(0.5, 400, 3)}
    assert ("base on panel questions", 100, 100) in seen
    assert ("tuned on panel questions", 100, 100) in seen
    assert all(done <= total == 100 for title, done, total in seen if "panel" in title)
    again = Likely(adds(below=0)), Likely(adds(below=0))
    second = run(PanelRun(sums, spec, seed=3), *again, **report)
    assert [model.asked for model in again] == [[], []]
    assert on_panel(second).tests == on_panel(result).tests
    tuned = on_panel(second).system("tuned")
    assert tuned is not None
    assert not isinstance(tuned.usage, NotReported)
    assert (tuned.usage.asked, tuned.usage.cached, tuned.usage.prompt_tokens) == (0, 100, 700)


def test_a_short_limit_of_the_task_does_not_cut_the_panel(sums: Panel) -> None:
    base = Scripted(adds(below=90))
    run(PanelRun(sums, EvaluationSpec(max_tokens=1)), base, Scripted(adds(below=90)))
    (limit,) = {request.max_tokens for request in base.requests if request.messages[-1].words.startswith("sum")}
    assert limit is not None
    assert limit > 1


def test_a_base_that_is_not_asked_the_test_rows_is_asked_the_panel(sums: Panel) -> None:
    base = Scripted(adds(below=90))
    panel = PanelRun(sums, EvaluationSpec(baselines=("majority",)), base=base)
    result = run(panel, None, Scripted(adds(below=90)))
    assert all(prompt.startswith("sum") for prompt in base.asked)
    assert (base.opened, base.closed) == (1, 1)
    assert result.system("base") is None
    assert on_panel(result).verdict == "not worse"


def test_why_a_model_was_not_asked_is_told(sums: Panel) -> None:
    result = run(PanelRun(sums, EvaluationSpec()), Unavailable("it needs a deployment"), Scripted(adds(below=90)))
    panel = on_panel(result)
    assert panel.systems["base"] == NotReported("it needs a deployment")
    assert (panel.tests, panel.verdict) == ((), None)
    tuned = panel.system("tuned")
    assert tuned is not None
    assert tuned.accuracy.value == 0.9
    assert any("the base model was not asked the panel: it needs a deployment" in text for text in result.warnings)
    gone = run(NotReported("own.jsonl does not exist"), Scripted(truth), Scripted(truth))
    assert gone.panel == NotReported("own.jsonl does not exist")
    assert "the panel was not asked: own.jsonl does not exist" in gone.warnings
    assert run(NotReported("x"), None, Scripted(truth)).system("tuned") is not None


class WithoutTools(Likely):
    """A model whose template has no place for tools."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        if any(request.tools for request in requests):
            raise InvalidData("the template has no place for tools")
        return super().generate(requests)

    def token_stats(self, examples: Sequence[Example]) -> TokenStats:
        assert not any(example.tools for example in examples)
        return super().token_stats(examples)


def test_questions_that_a_model_cannot_be_asked_are_left_out_of_both(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    questions = [question(number) for number in range(80)]
    questions += [question(number, tools=[tool]) for number in range(80, 100)]
    panel = panel_of(tmp_path / "tools.jsonl", *questions)
    model = adds(below=80)
    result = run(PanelRun(panel, EvaluationSpec()), WithoutTools(model), Likely(model))
    measured = on_panel(result)
    assert measured.questions == 80
    assert measured.left_out == {"questions with tools": "the template has no place for tools"}
    assert measured.tests[0].comparison.a == measured.tests[0].comparison.b == 1.0
    assert any("the panel was asked without its questions with tools" in text for text in result.warnings)


def test_a_backend_that_stays_away_ends_the_evaluation_and_loses_no_answer(sums: Panel) -> None:
    cache, models = MemoryCache(), {"base": "b", "tuned": "t"}
    tuned = Scripted(adds(below=90))
    tuned.faults = {"sum 60": [limited(), limited(), limited()]}
    with pytest.raises(TransientError):
        run(PanelRun(sums, EvaluationSpec()), Scripted(adds(below=90)), tuned, cache=cache, models=models)
    again = Scripted(adds(below=90))
    assert on_panel(
        run(PanelRun(sums, EvaluationSpec()), Scripted(adds(below=90)), again, cache=cache, models=models)
    ).verdict
    assert 0 < len(again.asked) < 100


def test_it_is_stored_and_read_back(sums: Panel) -> None:
    result = run(PanelRun(sums, EvaluationSpec()), Likely(adds(below=90), loss=float("nan")), Likely(adds(below=9)))
    assert EvaluationResult.model_validate_json(result.model_dump_json()).model_dump_json() == result.model_dump_json()
    plain = evaluate(ROWS, {"tuned": Scripted(truth)}, scoring=ScoringOptions(labels=LABELS, resamples=100))
    assert plain.panel is None
