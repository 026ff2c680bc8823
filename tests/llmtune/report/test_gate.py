"""The gate: an exit code that respects chance. The diff: in what two runs differ."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.data.example import Example
from llmtune.errors import InvalidJob, NotJudged, UnknownName
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.report.gate import diff, gate
from llmtune.report.schema import Report
from tests.llmtune.evaluation.conftest import LABELS, Likely, Scripted, ticket, truth
from tests.llmtune.report.conftest import identity, make, receipt


def run(wrong_every: int, *, name: str = "ltrun0000001", rows: list[Example] | None = None, **more: Any) -> Report:
    """Return the report of a run whose tuned model errs in one row of `wrong_every`."""
    model = Scripted(lambda prompt: truth(prompt) if int(prompt.split()[-1]) % wrong_every else "nonsense")
    tested = rows if rows is not None else [ticket(number) for number in range(300)]
    result = evaluate(
        tested, {"tuned": model}, EvaluationSpec(max_rows=500), scoring=ScoringOptions(labels=LABELS, resamples=400)
    )
    return make(identity=identity(run_id=name), evaluation=result, **more)


@pytest.fixture(scope="module")
def weak() -> Report:
    return run(3, name="ltbaseline01")


@pytest.fixture(scope="module")
def strong() -> Report:
    return run(20)


def test_a_clear_improvement_passes(strong: Report, weak: Report) -> None:
    result = gate(strong, weak, resamples=400)
    assert result.passed
    assert result.exit_code == 0
    assert result.paired
    assert (result.test, result.metric, result.unit, result.margin) == ("better", "accuracy", "points", None)
    assert result.delta == pytest.approx(100 * (0.95 - 2 / 3))
    assert 0 < result.low < result.delta < result.high  # all in points
    assert result.comparison.p_value is not None
    assert result.comparison.p_value < 1e-6
    assert result.reason.startswith("The run is better than the baseline: accuracy 66.7% to 95.0% (+28.3 points, 95%")
    assert gate(strong, weak, not_worse=0.0, resamples=400).passed


def test_a_clear_loss_passes_neither_test(strong: Report, weak: Report) -> None:
    better = gate(weak, strong, resamples=400)
    assert (better.passed, better.exit_code) == (False, 5)
    assert "The run is worse than the baseline: " in better.reason
    worse = gate(weak, strong, not_worse=5.0, resamples=400)
    assert (worse.passed, worse.exit_code, worse.test, worse.margin) == (False, 5, "not-worse", 5.0)
    assert "The run is worse than the baseline by more than 5.0 points: " in worse.reason
    assert gate(weak, strong, not_worse=50.0, resamples=400).passed


def test_what_can_be_chance_is_not_better_and_passes_as_not_worse_only_with_room() -> None:
    rows = [ticket(number) for number in range(60)]
    before, after = run(10, rows=rows, name="ltbaseline01"), run(12, rows=rows)
    chance = gate(after, before, resamples=400)
    assert chance.comparison.difference > 0.01
    assert not chance.passed
    assert "is not shown to be better" in chance.reason
    assert "; not certain on 60 rows: about " in chance.reason
    tight = gate(before, after, not_worse=0.5, resamples=400)
    assert not tight.passed
    assert "may be worse than the baseline by more than 0.5 points" in tight.reason
    assert gate(before, after, not_worse=25.0, resamples=400).passed


def test_a_margin_is_not_negative(strong: Report, weak: Report) -> None:
    with pytest.raises(InvalidJob, match="a margin is 0 or more"):
        gate(strong, weak, not_worse=-1.0)


def test_runs_on_the_same_rows_are_paired_and_others_are_not(strong: Report, weak: Report) -> None:
    elsewhere = run(3, rows=[ticket(number) for number in range(1000, 1300)], name="ltbaseline02")
    result = gate(strong, elsewhere, resamples=400)
    assert not result.paired
    assert result.comparison.p_value is None
    assert any("different rows" in note for note in result.notes)
    assert result.passed  # 28 points are clear even so
    mostly = run(3, rows=[ticket(number) for number in range(5, 305)], name="ltbaseline03")
    common = gate(strong, mostly, resamples=400)
    assert common.paired
    assert common.comparison.rows == 295
    assert any("compared on the 295 rows" in note for note in common.notes)
    shuffled = run(3, rows=[ticket(number) for number in reversed(range(300))], name="ltbaseline04")
    again = gate(strong, shuffled, resamples=400)
    assert again.comparison.discordant == gate(strong, weak, resamples=400).comparison.discordant


def test_other_metrics_and_directions() -> None:
    rows = [ticket(number) for number in range(90)]

    def losing(loss: float, name: str) -> Report:
        result = evaluate(
            rows, {"tuned": Likely(truth, loss=loss)}, scoring=ScoringOptions(labels=LABELS, resamples=200)
        )
        return make(identity=identity(run_id=name), evaluation=result)

    low, high = losing(0.5, "ltlow0000001"), losing(1.5, "lthigh000001")
    better = gate(low, high, metric="loss", resamples=200)
    assert better.passed
    assert better.delta == pytest.approx(1.0)
    assert better.unit == "nats/token"
    assert not gate(high, low, metric="loss", resamples=200).passed
    assert gate(high, low, metric="loss", not_worse=1.2, resamples=200).passed
    assert gate(low, high, metric="macro_f1", not_worse=10.0, resamples=200).passed


def test_what_cannot_be_compared_is_a_sentence(strong: Report, weak: Report, failed: Report) -> None:
    with pytest.raises(NotJudged, match="has no evaluation to compare: the run was not evaluated"):
        gate(strong, failed)
    with pytest.raises(UnknownName, match="accuracy"):
        gate(strong, weak, metric="acuracy")
    with pytest.raises(NotJudged, match="has no loss: the backend reports no likelihoods of tokens"):
        gate(strong, weak, metric="loss")
    assert NotJudged.exit_code == 6


def test_the_comment_is_markdown_and_says_why(strong: Report, weak: Report) -> None:
    comment = gate(strong, weak, resamples=400).to_markdown()
    assert comment.startswith("### \u2705 llmtune gate: passed")
    assert "| accuracy | 66.7% | **95.0%** | +28.3 points<br>" in comment
    assert "300 held-out rows, the same rows, compared one by one" in comment
    stopped = gate(weak, strong, resamples=400).to_markdown()
    assert stopped.startswith("### \u274c llmtune gate: not passed")


def test_a_gate_result_survives_json(strong: Report, weak: Report) -> None:
    result = gate(strong, weak, resamples=200)
    assert type(result).model_validate_json(result.model_dump_json()) == result


# --- diff ----------------------------------------------------------------
def test_a_diff_names_settings_facts_and_results(strong: Report, weak: Report) -> None:
    fields = tuple(
        row.model_copy(update={"requested": 5, "effective": 5}) if row.field == "epochs" else row
        for row in receipt().fields
    )
    changed = strong.model_copy(update={"receipt": make(receipt=receipt(fields=fields)).receipt})
    result = diff(weak, changed, resamples=200)
    assert [(change.field, change.a, change.b) for change in result.settings] == [("epochs", 3, 5)]
    assert result.paired
    by_metric = {comparison.metric: comparison for comparison in result.comparisons}
    assert by_metric["accuracy"].verdict == "better"
    assert set(by_metric) == {"accuracy", "macro_f1", "weighted_f1"}


def test_a_run_does_not_differ_from_itself(strong: Report) -> None:
    result = diff(strong, strong, resamples=200)
    assert result.settings == result.facts == ()
    assert {comparison.verdict for comparison in result.comparisons} == {"not separable"}


def test_a_diff_with_a_failed_run_tells_what_it_can(strong: Report, failed: Report) -> None:
    result = diff(strong, failed)
    assert result.comparisons == ()
    assert any("cannot be compared" in note for note in result.notes)
    assert any(change.field == "final train/loss" for change in result.facts)
