"""Of a list of backends the first that takes the job runs it, and the report says why each one before it did not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, SubmitUnknown, UnknownName
from llmtune.job import TuningJob
from llmtune.runs import Pace, start, tune
from llmtune.testing import accept_then_drop, refusal
from llmtune.testing.fake import Fake
from llmtune.testing.fake_provider import FakeProvider, FakeSettings

QUICK = Pace(first=0.01, most=0.05)


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
