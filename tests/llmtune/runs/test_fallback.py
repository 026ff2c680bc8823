"""Of a list of backends the first that takes the job runs it, and the report says why each one before it did not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.data.findings import Finding
from llmtune.errors import (
    DeviceUnavailable,
    InvalidData,
    InvalidJob,
    InvalidSettings,
    LlmtuneError,
    MissingCredentials,
    MissingExtra,
    OverBudget,
    ProviderClosed,
    QuotaExceeded,
    RunFailed,
    SubmitUnknown,
    UnknownName,
)
from llmtune.job.spec import DatasetSpec, Hyperparameters, TuningJob
from llmtune.provider.types import Request, RunState
from llmtune.report.schema import Report
from llmtune.runs import fallback
from llmtune.runs.api import list_runs, start, tune
from llmtune.runs.fallback import Conditions
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.testing import Phase, accept_then_drop, refusal
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake

QUICK = PollInterval(first=0.01, most=0.05)


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    path = tmp_path / "rows.jsonl"
    rows = (
        {"messages": [{"role": "user", "content": f"case {at}"}, {"role": "assistant", "content": "yes"}]}
        for at in range(60)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(name="fallback", dataset=str(path), model="m-1")


def provider(vendor: Fake, name: str = "fake") -> FakeProvider:
    return FakeProvider(name, FakeSettings(base_url=vendor.url, timeout=5))


def test_services_that_are_gone_are_passed_over_with_the_reason_in_the_report(job: TuningJob) -> None:
    with Fake() as vendor:
        report = tune(job, ["cohere", "mistral", "groq", "google-ai-studio", provider(vendor)], pace=QUICK)
        assert len(vendor.jobs) == 1
    assert report.succeeded
    told = [warning for warning in report.warnings if "was passed over" in warning]
    assert [warning.split()[0] for warning in told] == ["cohere", "mistral", "groq", "google-ai-studio"]
    assert "retired 2025-09-15" in told[0]
    assert "retired 2026-07-15" in told[1]
    assert "inference only" in told[2]
    assert "May 2025" in told[3]


def test_missing_credentials_move_on(job: TuningJob) -> None:
    with Fake() as vendor:
        run = start(job.model_copy(update={"model": "Qwen/Qwen3-8B"}), ["together", provider(vendor)])
        assert any("together was passed over: no credentials" in warning for warning in run.record.warnings)


def test_the_first_that_can_is_taken_and_nothing_is_said(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        run = start(job, [provider(first), provider(second, "other")])
        assert run.record.warnings == ()
        assert len(first.jobs) == 1
        assert not second.jobs


def test_when_nobody_takes_it_every_reason_is_told(job: TuningJob) -> None:
    with pytest.raises(LlmtuneError) as caught:
        start(job, ["cohere", "databricks"])
    told = str(caught.value)
    assert "cohere: cohere takes no such job: retired 2025-09-15" in told
    assert "databricks takes no such job: retired 2026-08-14" in told
    assert "llmtune tune JOB --provider local" in told
    assert caught.value.exit_code == 3
    with pytest.raises(InvalidJob, match="empty"):
        start(job, [])


def test_what_would_be_wrong_everywhere_does_not_move_on(job: TuningJob, tmp_path: Path) -> None:
    with Fake() as vendor:
        other = provider(vendor)
        missing = job.model_copy(update={"dataset": job.dataset.model_copy(update={"path": str(tmp_path / "none")})})
        with pytest.raises(InvalidData):
            start(missing, [other, "cohere"])
        with pytest.raises(UnknownName):
            start(job, ["cohre", other])
        assert not vendor.jobs


def test_refusals_and_unclear_submits_do_not_move_on(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        settings = FakeSettings(base_url=first.url, timeout=5, submit_safety="none")
        backends = [FakeProvider("fake", settings), provider(second, "other")]
        first.faults.add(refusal(400, "that is no model of ours"), role="submit", times=5)
        with pytest.raises(LlmtuneError, match="no model of ours"):
            start(job, backends, new=True)
        first.faults.clear()
        first.faults.add(accept_then_drop(), role="submit")
        with pytest.raises(SubmitUnknown):
            start(job, backends, new=True)
        assert len(first.jobs) == 1
        assert not second.jobs


# --- each condition that moves on by itself --------------------------------------------------------------------------
class Unready(FakeProvider):
    """A backend that is not set up, in one way or another."""

    problem: LlmtuneError

    def preflight(self, request: Request) -> list[Finding]:
        raise self.problem


@pytest.mark.parametrize(
    "problem",
    [
        ProviderClosed("gone", provider="first"),
        ProviderClosed("it does not train that model", provider="first"),
        MissingExtra("first", "first", purpose="provider first"),
        MissingCredentials("no credentials"),
        InvalidSettings("first needs project"),
        DeviceUnavailable("no such device"),
        QuotaExceeded("too many jobs"),
    ],
    ids=["closed", "refused model", "extra", "credentials", "settings", "device", "quota"],
)
def test_what_is_found_before_a_job_exists_moves_on(job: TuningJob, problem: LlmtuneError) -> None:
    with Fake() as first, Fake() as second:
        unready = Unready("first", FakeSettings(base_url=first.url, timeout=5))
        unready.problem = problem
        run = start(job, [unready, provider(second, "other")])
        assert run.record.provider == "other"
        assert any(f"first was passed over: {problem.message}" in each for each in run.record.warnings)
        assert not first.jobs


def test_a_model_that_a_vendor_refuses_moves_on(job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune_openai.fake.service import FakeOpenAI

    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as first, Fake() as second:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{first.url}/v1")
        first.base_models = ()  # type: ignore[misc]
        models = {"openai": "gpt-4.1-mini-2025-04-14", "other": "m-1"}
        run = start(job.model_copy(update={"model": models}), ["openai", provider(second, "other")])
        assert run.record.provider == "other"
        assert any("not available for fine-tuning" in each for each in run.record.warnings)


# --- each condition that moves on when it is asked for ---------------------------------------------------------------
def test_a_failed_run_moves_on_only_when_asked(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        first.outcome = "failure"
        backends = [provider(first), provider(second, "other")]
        with pytest.raises(RunFailed):
            tune(job, backends, pace=QUICK)
        assert not second.jobs
        report = tune(job, backends, pace=QUICK, fallback_on=["failed"], new=True)
        assert report.succeeded
        assert report.identity.provider == "other"
        assert len(second.jobs) == 1
        assert any("fake was passed over" in each for each in report.warnings)
        assert any("at other instead: the model is m-1" in each for each in report.warnings)


def test_the_last_backend_of_the_list_fails_as_any_run_does(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        first.outcome = second.outcome = "failure"
        with pytest.raises(RunFailed, match="at other failed"):
            tune(job, [provider(first), provider(second, "other")], pace=QUICK, fallback_on=["failed"])


def test_over_budget_moves_on_only_when_asked(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        dear = FakeProvider("dear", FakeSettings(base_url=first.url, timeout=5, price=1e9))
        backends = [dear, provider(second, "other")]
        job = job.model_copy(update={"hyperparameters": Hyperparameters(epochs=1)})
        with pytest.raises(OverBudget):
            tune(job, backends, pace=QUICK, budget=1.0)
        report = tune(job, backends, pace=QUICK, budget=1.0, fallback_on=["over_budget"])
        assert report.identity.provider == "other"
        assert not first.jobs


def test_a_long_queue_moves_on_once_the_run_is_cancelled(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        stuck = (Phase("queued", seconds=3600), *first.walks["success"][1:])
        first.walks = {**first.walks, "success": stuck}  # type: ignore[misc]
        report = tune(job, [provider(first), provider(second, "other")], pace=QUICK, fallback_on=["queued>0.3s"])
        assert report.identity.provider == "other"
        (left,) = first.jobs.values()
        assert left.word == "cancelled"
        (run,) = [each for each in list_runs() if each.record.provider == "fake"]
        assert run.state is RunState.CANCELLED
        # Nothing was submitted there before it had ended here.
        cancelled = next(each.time for each in run.transitions() if each.state is RunState.CANCELLED)
        (made,) = second.jobs.values()
        assert made.created >= cancelled - 0.05


def test_when_a_cancellation_cannot_be_confirmed_nothing_else_is_started(
    job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "CANCEL_TIMEOUT", 0.5)
    with Fake() as first, Fake() as second:
        stuck = (Phase("queued", seconds=3600), *first.walks["success"][1:])
        still = (Phase("cancelling", seconds=3600), Phase("cancelled"))
        first.walks = {**first.walks, "success": stuck, "cancelled": still}  # type: ignore[misc]
        with pytest.raises(LlmtuneError, match="could not be confirmed cancelled"):
            tune(job, [provider(first), provider(second, "other")], pace=QUICK, fallback_on=["queued>0.2s"])
        assert not second.jobs


# --- what never moves on ---------------------------------------------------------------------------------------------
EVERYTHING = ["failed", "over_budget", "queued>1h"]


def test_a_cancelled_run_does_not_move_on(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        first.outcome = "cancelled"
        with pytest.raises(RunFailed, match="cancelled"):
            tune(job, [provider(first), provider(second, "other")], pace=QUICK, fallback_on=EVERYTHING)
        assert not second.jobs


def test_a_lost_run_does_not_move_on(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        settings = FakeSettings(base_url=first.url, timeout=5, submit_safety="none")
        first.faults.add(accept_then_drop(), role="submit")
        with pytest.raises(SubmitUnknown):
            tune(
                job,
                [FakeProvider("fake", settings), provider(second, "other")],
                pace=QUICK,
                fallback_on=EVERYTHING,
            )
        assert not second.jobs


def test_a_value_that_is_wrong_does_not_move_on(job: TuningJob) -> None:
    with Fake() as second:
        wrong = job.model_copy(update={"model": {"openai": "gpt-4.1-mini-2025-04-14", "other": "m-1"}})
        wrong = wrong.model_copy(update={"hyperparameters": Hyperparameters(epochs=1000)})
        with pytest.raises(LlmtuneError, match="epochs"):
            tune(wrong, ["openai", provider(second, "other")], pace=QUICK, fallback_on=EVERYTHING)
        assert not second.jobs


def test_a_dataset_that_is_wrong_does_not_move_on(job: TuningJob, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n')
    bad = job.model_copy(update={"dataset": DatasetSpec(path=str(tmp_path / "bad.jsonl"))})
    with Fake() as first, Fake() as second, pytest.raises(InvalidData):
        tune(bad, [provider(first), provider(second, "other")], pace=QUICK, fallback_on=EVERYTHING)


def test_a_backend_without_a_model_of_its_own_is_not_given_anothers(job: TuningJob) -> None:
    with Fake() as second:
        named = job.model_copy(update={"model": {"cohere": "command-r"}})
        with pytest.raises(InvalidJob, match="no model is named for provider 'other'"):
            tune(named, ["cohere", provider(second, "other")], pace=QUICK)
        assert not second.jobs


def test_words_that_are_no_condition_are_refused(job: TuningJob) -> None:
    with pytest.raises(InvalidJob, match="unknown fallback condition 'fail'; did you mean 'failed'"):
        tune(job, ["cohere"], fallback_on=["fail"])
    with pytest.raises(InvalidJob, match="only while the run is followed"):
        start(job, ["cohere"], fallback_on=["failed"])
    assert Conditions.parse(["queued>30m"]).queued == 1800


# --- and after a crash -----------------------------------------------------------------------------------------------
def test_the_same_call_after_a_crash_goes_on_where_it_was(job: TuningJob) -> None:
    with Fake() as first, Fake() as second:
        first.outcome = "failure"
        backends = [provider(first), provider(second, "other")]

        def die(run: Run, _queued: float | None) -> Report:
            if run.record.provider == "other":
                raise KeyboardInterrupt  # here the process is gone
            return run.wait(pace=QUICK)

        with pytest.raises(KeyboardInterrupt):
            fallback.tune_first(job, backends, fallback_on=["failed"], follow=die)
        assert (len(first.jobs), len(second.jobs)) == (1, 1)
        report = tune(job, backends, pace=QUICK, fallback_on=["failed"])
        assert report.identity.provider == "other"
        assert (len(first.jobs), len(second.jobs)) == (1, 1)
        # That call came to its end; the next one is a new one.
        first.outcome = "success"
        assert tune(job, backends, pace=QUICK, fallback_on=["failed"]).identity.provider == "fake"
        assert (len(first.jobs), len(second.jobs)) == (2, 1)


@pytest.mark.slow
def test_the_command_shows_the_order_and_moves_on(
    job: TuningJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from llmtune.cli.app import app

    job.save(tmp_path / "job.yaml")
    with Fake() as vendor:
        monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
        arguments = ["tune", str(tmp_path / "job.yaml"), "-p", "cohere,fake", "--yes", "--fallback-on", "failed"]
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 0, shown.output
        assert "1. cohere: passed over, retired 2025-09-15" in shown.output
        assert "2. fake: m-1" in shown.output
        assert "cohere was passed over" in shown.output
