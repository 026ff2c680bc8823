"""The gate for decisions: enough rows are answered under a promise, or not, or it cannot be judged."""

from __future__ import annotations

import json

import pytest

from llmtune.errors import InvalidJob, NotJudged
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import AbstainSpec, EvaluationSpec
from llmtune.report.promise_gate import gate_promise
from llmtune.report.schema import Report
from llmtune.report.verdicts import describe_decisions
from tests.llmtune.evaluation.conftest import Likely, ticket
from tests.llmtune.evaluation.test_decisions import PROMISE, run
from tests.llmtune.report.conftest import make


@pytest.fixture(scope="module")
def decided() -> Report:
    return make(evaluation=run(EvaluationSpec(max_rows=500, calibration_rows=300, abstain=PROMISE)))


def test_it_passes_by_the_lower_end_of_the_interval(decided: Report) -> None:
    result = gate_promise(decided, error=0.05, min_coverage=0.4)
    assert (result.passed, result.exit_code) == (True, 0)
    promise = result.promises["answer"]
    assert promise.interval is not None
    assert promise.interval.low == pytest.approx(0.4512, abs=1e-3)  # Wilson's, of 200 in 400
    assert "answers 50.0% of rows (45.1 to 54.9) with at most 5.0% errors" in result.reasons[0]
    assert result.to_markdown().startswith("### \u2705 llmtune gate: passed")
    failed = gate_promise(decided, error=0.05, min_coverage=0.49)
    assert (failed.passed, failed.exit_code) == (False, 5)
    assert "is not enough: at least 49.0% must be answered" in failed.reasons[0]


def test_it_is_not_judged_without_rows(decided: Report) -> None:
    with pytest.raises(NotJudged, match="were not calibrated"):
        gate_promise(make(evaluation=run(EvaluationSpec(max_rows=500))), error=0.05, min_coverage=0.4)
    few = make(evaluation=run(EvaluationSpec(max_rows=500, calibration_rows=60, abstain=AbstainSpec(error=0.05))))
    with pytest.raises(NotJudged, match="60 rows are too few: it takes about 72"):
        gate_promise(few, error=0.05, min_coverage=0.4)


@pytest.mark.parametrize(("error", "coverage"), [(0.0, 0.5), (0.6, 0.5), (0.05, -1), (0.05, 2)])
def test_shares_out_of_range_are_refused(decided: Report, error: float, coverage: float) -> None:
    with pytest.raises(InvalidJob, match="is between"):
        gate_promise(decided, error=error, min_coverage=coverage)


def test_the_report_says_what_was_calibrated_and_promised(decided: Report) -> None:
    assert not isinstance(decided.evaluation, str)
    system = decided.evaluation.system("tuned")  # type: ignore[union-attr]
    assert system is not None
    calibrated, promised = describe_decisions(system)
    assert calibrated.startswith("The tuned model was calibrated on 300 rows (")
    assert promised.startswith("The tuned model answers 50.0% of rows (45.1 to 54.9) with at most 5.0% errors")
    for text in (decided.to_text(width=200), decided.to_markdown(), decided.to_html()):
        assert "with at most 5.0% errors" in " ".join(text.split())


def test_several_questions_are_told_apart_and_all_must_pass() -> None:
    def answer(prompt: str) -> str:
        number = int(prompt.split()[-1])
        return json.dumps({"team<b>": "ab"[number % 2], "stars": number % 3 + 1})

    def mistaken(prompt: str) -> str:  # right about the team, wrong about the stars in every fourth row
        number = int(prompt.split()[-1])
        return answer(f"ticket {number + 2}") if number % 4 == 0 else answer(prompt)

    rows = [ticket(number, answer(f"ticket {number}")) for number in range(400)]
    result = evaluate(
        rows[:150],
        {"tuned": Likely(mistaken)},
        EvaluationSpec(max_rows=500, calibration_rows=200, abstain=PROMISE, baselines=()),
        validation=rows[150:350],
        scoring=ScoringOptions(resamples=100),
    )
    report = make(evaluation=result)
    gated = gate_promise(report, error=0.05, min_coverage=0.5)
    assert not gated.passed
    assert set(gated.promises) == {"team<b>", "stars"}
    assert gated.promises["team<b>"].coverage == 1
    assert gated.promises["stars"].coverage is None
    assert "asked for 'team<b>'" in gated.reasons[0]
    assert "even of the answers that the model is surest of, more are wrong" in gated.reasons[1]
    section = report.to_html().partition('id="decisions"')[2].partition("</section>")[0]
    assert section.count("<svg") == 4
    assert ">team&lt;b&gt;<" in section
    assert "score off by" in section
    assert "team<b>" not in section


def test_the_page_shows_both_pictures_and_all_models(decided: Report) -> None:
    page = decided.to_html()
    section = page[page.index('id="decisions"') :].partition("</section>")[0]
    assert section.count("<svg") == 2
    assert "Reliability: " in section
    assert "Risk and coverage, after calibration: " in section
    assert "linear" in section
    assert "\u2192" in section
