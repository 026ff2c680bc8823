"""What OpenAI's API says at the end of a job, and after it: late, in other places than the job, or not as asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.cli.app import app
from llmtune.data.dataset import Dataset
from llmtune.errors import InvalidData, LlmtuneError, RunFailed, VendorError
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.metrics.points import NotReported, Series
from llmtune.provider.types import RunState
from llmtune.runs import settling
from llmtune.runs.api import attach, start
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.store import open_store
from llmtune.testing import refusal
from llmtune.testing.http import Refusal
from llmtune_openai.fake.service import FakeOpenAI

PACE = PollInterval(first=0.01, most=0.03)
GPT = "gpt-4.1-mini-2025-04-14"

pytestmark = pytest.mark.usefixtures("no_long_pauses")


class Clock:
    """A clock that a test puts forward; pauses pass at once."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.each_look = 0.0

    def now(self) -> float:
        self.ahead += self.each_look
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(settling, "now", made.now)
    monkeypatch.setattr(settling, "sleep", made.sleep)
    return made


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[FakeOpenAI]:
    with FakeOpenAI(api_key="key") as fake:
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{fake.url}/v1")
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


def write_rows(path: Path, numbers: range) -> Path:
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"parcel {at} is {'late' if at % 2 else 'damaged'}"},
                {"role": "assistant", "content": "carrier" if at % 2 else "warehouse"},
            ]
        }
        for at in numbers
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def job(folder: Path, **more: Any) -> TuningJob:
    fields: dict[str, Any] = {
        "name": "parcels",
        "dataset": str(write_rows(folder / "parcels.jsonl", range(60))),
        "model": GPT,
        "hyperparameters": {"epochs": 2, "batch_size": 16},
        "evaluation": {"max_rows": 3, "baselines": ["base"]},
    }
    return TuningJob.model_validate({**fields, **more})


# --- what comes after "succeeded" ------------------------------------------------------------------------------------
def test_a_model_that_is_named_later_is_waited_for(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.names_model_after = 4
    messages: list[str] = []
    run = start(job(tmp_path), "openai")
    report = run.wait(timeout=60, pace=PACE, on_update=lambda update: messages.append(update.message or ""))
    assert isinstance(report.evaluation, EvaluationResult)
    assert str(report.identity.tuned_model).startswith("ft:")
    assert sum("has not reported the tuned model's id yet" in message for message in messages) == 1
    assert not any("has not reported" in warning for warning in report.warnings)
    assert len(openai.jobs) == 1


def test_a_model_that_stays_unnamed_is_asked_for_again_by_attach(
    openai: FakeOpenAI, tmp_path: Path, clock: Clock
) -> None:
    openai.names_model_after = 10_000
    clock.each_look = 60.0
    run = start(job(tmp_path), "openai")
    report = run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert isinstance(report.identity.tuned_model, NotReported)
    assert any(f"within 5 min; llmtune runs attach {run.id} asks again" in warning for warning in report.warnings)
    text = report.to_text()
    assert f"llmtune chat {run.id}" not in text
    assert f"llmtune runs attach {run.id}" in text
    with pytest.raises(LlmtuneError, match="has not named the model"), run.model():
        pass
    assert openai.counts["generate"] == 0

    next(iter(openai.jobs.values())).data["unnamed"] = 0
    again = attach(run.id).wait(timeout=60, pace=PACE)
    assert isinstance(again.evaluation, EvaluationResult)
    assert str(again.identity.tuned_model).startswith("ft:")
    assert run.report() == again
    assert not any(warning.startswith("not evaluated") for warning in again.warnings)
    assert openai.counts["submit"] == 1


def test_the_report_and_the_chat_of_a_run_without_a_model_ask_for_it(
    openai: FakeOpenAI, tmp_path: Path, clock: Clock
) -> None:
    openai.names_model_after = 10_000
    clock.each_look = 60.0
    run = start(job(tmp_path), "openai")
    run.wait(timeout=60, pace=PACE)
    next(iter(openai.jobs.values())).data["unnamed"] = 0
    report = run.report()
    assert str(report.identity.tuned_model).startswith("ft:")
    assert isinstance(report.evaluation, NotReported)
    assert f"llmtune evaluate {run.id}" in report.evaluation.reason
    assert openai.counts["generate"] == 0, "a report spends nothing"
    with run.model() as model:
        assert model.generate("parcel 1 is late").text == "carrier"
    assert isinstance(run.evaluate().evaluation, EvaluationResult)


def test_a_new_model_that_does_not_answer_yet_is_asked_again(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.silent_answers = 5
    messages: list[str] = []
    report = start(job(tmp_path), "openai").wait(
        timeout=60, pace=PACE, on_update=lambda update: messages.append(update.message or "")
    )
    assert isinstance(report.evaluation, EvaluationResult)
    assert report.evaluation.system("tuned") is not None
    assert openai.counts["generate"] == 3 + 5 + 3
    assert any("does not answer yet" in message for message in messages)


def test_a_model_that_never_answers_ends_the_evaluation_and_is_evaluated_later(
    openai: FakeOpenAI, tmp_path: Path, clock: Clock
) -> None:
    openai.silent_answers = 10_000
    run = start(job(tmp_path), "openai")
    began = clock.ahead
    report = run.wait(timeout=60, pace=PACE)
    assert 500 < clock.ahead - began < 700
    assert isinstance(report.evaluation, EvaluationResult)
    assert report.evaluation.system("tuned") is None
    asked = openai.counts["generate"]
    with pytest.raises(LlmtuneError, match="could not be asked"):
        run.evaluate()
    assert run.report() == report
    openai.silent_answers = 0
    asked = openai.counts["generate"]
    again = run.evaluate()
    assert isinstance(again.evaluation, EvaluationResult)
    assert again.evaluation.system("tuned") is not None
    assert openai.counts["generate"] == asked + 3, "the base model's answers were there"


def test_a_result_file_that_was_read_early_is_read_again(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.lists_results_early = True
    openai.steps = 40
    run = start(job(tmp_path), "openai")
    report = run.wait(timeout=60, pace=PACE)
    series = report.series["train/loss"]
    assert isinstance(series, Series)
    assert len(series.points) == 40
    assert {point.source for point in series.points} == {"vendor_file"}


def test_a_cancelled_run_names_the_checkpoint_that_answers(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    while not run.checkpoints:
        update = run.provider.poll(run.job_ref, None)  # type: ignore[arg-type]
        open_store().record(run.id, update)
    run.cancel()
    with pytest.raises(RunFailed) as caught:
        run.wait(timeout=60, pace=PACE)
    assert "its last checkpoint answers: ft:" in caught.value.report.headline


# --- evaluating again ------------------------------------------------------------------------------------------------
def test_a_finished_run_is_evaluated_on_other_rows(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    first = run.wait(timeout=60, pace=PACE)
    assert isinstance(first.evaluation, EvaluationResult)
    asked = openai.counts["generate"]
    other = write_rows(tmp_path / "march.jsonl", range(100, 104))
    result = CliRunner().invoke(app, ["evaluate", run.id, "--dataset", str(other), "--max-rows", "4", "--json"])
    assert result.exit_code == 0, result.output
    report = run.report()
    assert isinstance(report.evaluation, EvaluationResult)
    assert report.evaluation.rows == 4
    assert report.evaluated_on == str(other)
    assert openai.counts["generate"] == asked + 8
    (earlier,) = report.earlier_evaluations
    assert (earlier.rows, earlier.asked) == (3, 6)
    assert earlier.figures == {
        name: system.get(first.evaluation.main).value  # type: ignore[union-attr]
        for name in ("base", "tuned")
        if (system := first.evaluation.system(name))
    }
    assert "earlier" in report.to_text()
    assert "march.jsonl" in report.to_markdown()

    back = run.evaluate()
    assert openai.counts["generate"] == asked + 8, "every answer was there"
    assert [each.rows for each in back.earlier_evaluations] == [3, 4]
    assert back.evaluated_on == ""
    assert openai.counts["submit"] == 1


def test_rows_that_were_trained_on_are_named_as_such(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    run.wait(timeout=60, pace=PACE)
    report = run.evaluate(tmp_path / "parcels.jsonl", max_rows=2)
    assert any("are training rows too" in warning for warning in report.warnings)


def test_a_run_is_evaluated_although_its_own_rows_have_changed(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    run.wait(timeout=60, pace=PACE)
    write_rows(tmp_path / "parcels.jsonl", range(10))
    with pytest.raises(LlmtuneError, match="has changed") as caught:
        run.evaluate()
    assert "--dataset" in str(caught.value.hint)
    report = run.evaluate(write_rows(tmp_path / "other.jsonl", range(70, 73)))
    assert isinstance(report.evaluation, EvaluationResult)


def test_a_run_is_evaluated_from_asyncio(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    run.wait(timeout=60, pace=PACE)
    said: list[str] = []
    other = write_rows(tmp_path / "o.jsonl", range(70, 73))
    report = asyncio.run(run.evaluate_async(other, on_progress=said.append))
    assert report.evaluated_on.endswith("o.jsonl")
    assert any("evaluating tuned" in line for line in said)


# --- reasons ---------------------------------------------------------------------------------------------------------
def test_a_reason_that_stands_in_events_only_is_the_runs_reason(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.outcome = "failure"
    openai.tells_reason = False
    run = start(job(tmp_path), "openai")
    with pytest.raises(RunFailed, match="could not be processed") as caught:
        run.wait(timeout=60, pace=PACE)
    report = caught.value.report
    assert openai.failure_message in report.headline
    assert openai.failure_message in report.error
    assert openai.failure_message in (run.record.error or "")


def test_a_model_that_the_safety_checks_refuse_says_for_what_and_that_it_is_billed(
    openai: FakeOpenAI, tmp_path: Path
) -> None:
    openai.outcome = "failure"
    openai.tells_reason = False
    openai.blocked_by = ("hate/threatening", "self-harm/intent")
    with pytest.raises(RunFailed) as caught:
        start(job(tmp_path), "openai").wait(timeout=60, pace=PACE)
    error = caught.value.report.error
    assert "hate/threatening, self-harm/intent" in error
    assert "violence" not in error
    assert "trained, and are billed" in error


def test_a_job_that_the_vendor_pauses_says_how_it_goes_on(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    made = next(iter(openai.jobs.values()))
    made.override = "paused"
    messages: list[str] = []

    def heard(update: Any) -> None:
        if update.message:
            messages.append(update.message)
            made.override = None

    run.wait(timeout=60, pace=PACE, on_update=heard)
    (message,) = messages[:1]
    assert "has paused the job" in message
    assert f"/fine_tuning/jobs/{made.id}/resume" in message
    assert f"llmtune runs cancel {run.id}" in message


def test_a_job_that_is_gone_ends_its_run_and_can_be_adopted_again(
    openai: FakeOpenAI, tmp_path: Path, clock: Clock
) -> None:
    run = start(job(tmp_path), "openai")
    clock.each_look = 20.0
    hidden = dict(openai.jobs)
    openai.jobs.clear()
    with pytest.raises(RunFailed, match=r"has no job ftjob-.* any more") as caught:
        run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.LOST
    assert "has no job" in caught.value.report.headline
    assert f"llmtune runs adopt {run.id}" in str(caught.value.hint)
    openai.jobs.update(hidden)  # it was the wrong project's key
    run.adopt(next(iter(hidden)))
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert openai.counts["submit"] == 1


def test_a_job_that_is_out_of_sight_for_a_moment_is_followed(openai: FakeOpenAI, tmp_path: Path) -> None:
    run = start(job(tmp_path), "openai")
    openai.faults.add(refusal(404, "No such job.", "not_found"), role="poll", times=3)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED


# --- rows by their lines ---------------------------------------------------------------------------------------------
def test_rows_of_the_sent_file_are_named_by_the_lines_of_the_users_file(
    openai: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeOpenAI, "failure_message", "Example 21 message contains an invalid token: <|end|>")
    openai.outcome = "failure"
    spec = job(tmp_path)
    run = start(spec, "openai")
    with pytest.raises(RunFailed) as caught:
        run.wait(timeout=60, pace=PACE)
    line = Dataset.from_spec(spec.dataset).train[20].line
    sent = run.record.files[0].path
    assert line != 21
    assert f"{tmp_path / 'parcels.jsonl'}:{line} (Example 21 of {sent}) message" in caught.value.report.error
    assert any(f"parcels.jsonl:{line}" in event.message for _, event in run.events())


def test_a_refused_upload_names_the_users_line(
    openai: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune_openai.fake.files.fault_of", lambda _: "Line 5, message 2, key content is empty")
    spec = job(tmp_path)
    with pytest.raises(InvalidData) as caught:
        start(spec, "openai")
    line = Dataset.from_spec(spec.dataset).train[4].line
    assert f"parcels.jsonl:{line} (Line 5)" in caught.value.message
    assert str(tmp_path / "parcels.jsonl") in caught.value.message


# --- what was used, and what was sent again --------------------------------------------------------------------------
def test_what_the_vendor_used_is_what_is_effective(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.uses = {"batch_size": 1}
    report = start(job(tmp_path), "openai").wait(timeout=60, pace=PACE)
    row = next(row for row in report.receipt if row.field == "batch_size")
    assert (row.requested, row.effective) == (16, 1)
    assert "batch_size: asked 16, the vendor used 1" in report.warnings
    assert not any(warning.startswith("epochs") for warning in report.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"epochs": 3}, {}])
def test_the_estimate_is_for_the_epochs_that_the_vendor_used(
    openai: FakeOpenAI, tmp_path: Path, asked: dict[str, Any]
) -> None:
    openai.uses = {"n_epochs": 1}
    planned = job(tmp_path).model_copy(update={"hyperparameters": Hyperparameters(**asked)})
    run = start(planned, "openai", allow_unknown_cost=True)
    report = run.wait(timeout=60, pace=PACE)
    assert "tokens x 1 epochs x" in report.cost.formula
    assert not isinstance(report.cost.estimated, NotReported)
    assert report.cost.estimated == run.record.cost.total
    before = run.record.plan.cost.training
    assert before is None or run.record.cost.training == pytest.approx(before / 3)


def test_an_upload_that_has_expired_is_not_taken_again(openai: FakeOpenAI, tmp_path: Path) -> None:
    start(job(tmp_path), "openai").wait(timeout=60, pace=PACE)
    uploads = openai.counts["upload"]
    for file in openai.files.values():
        file.data["expires_at"] = openai.now() + 60
    run = start(job(tmp_path), "openai", new=True)
    run.wait(timeout=60, pace=PACE)
    assert openai.counts["upload"] == uploads + 2


def test_an_upload_that_is_refused_is_sent_again_once(openai: FakeOpenAI, tmp_path: Path) -> None:
    start(job(tmp_path), "openai").wait(timeout=60, pace=PACE)
    uploads, submits = openai.counts["upload"], openai.counts["submit"]
    for file in openai.files.values():
        file.data["expired"] = True  # without a word of it in the list
    run = start(job(tmp_path), "openai", new=True)
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert openai.counts["upload"] == uploads + 2
    assert len(openai.jobs) == 2
    assert openai.counts["submit"] == submits + 2


@pytest.mark.slow
@pytest.mark.parametrize("message", ["The training file has expired.", "invalid training_file: {id}"])
def test_a_file_of_this_very_run_that_is_gone_is_sent_again_once(
    openai: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    check_file = FakeOpenAI.check_file

    def expire_first(self: FakeOpenAI, field: str, id: str) -> None:
        if openai.counts["upload"] == 2:
            for file in self.files.values():
                file.data["expires_at"] = self.now() - 1
            raise Refusal(400, message.format(id=id), field=field)
        check_file(self, field, id)

    monkeypatch.setattr(FakeOpenAI, "check_file", expire_first)
    run = start(job(tmp_path), "openai")
    run.wait(timeout=60, pace=PACE)
    assert run.state is RunState.SUCCEEDED
    assert openai.counts["upload"] == 4
    assert len(openai.jobs) == 1


def test_a_refusal_of_the_rows_is_no_reason_to_send_the_file_again(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.faults.add(refusal(400, "invalid training_file: line 3 is no chat row", "invalid_file"), role="submit")
    with pytest.raises(VendorError, match="line 3"):
        start(job(tmp_path), "openai")
    assert openai.counts["upload"] == 2
    assert openai.counts["submit"] == 1
