"""`llmtune runs ...` on a real store and a fake vendor."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from llmtune.cli.runs import app
from llmtune.errors import LlmtuneError, RunFailed, RunNotFound, SubmitUnknown, UnknownName
from llmtune.job.spec import TuningJob
from llmtune.provider.types import JobRef, Request, RunState
from llmtune.runs import poller
from llmtune.runs.api import attach, start
from llmtune.testing import accept_then_drop
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK

pytestmark = pytest.mark.usefixtures("no_long_pauses")

At = Callable[..., FakeProvider]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "HOSTED", QUICK)


def runs(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_list(vendor: Fake, at: At, job: TuningJob) -> None:
    assert "no runs yet" in runs("list").output
    run = start(job, at())
    assert run.id in runs("list").output
    (entry,) = json.loads(runs("list", "--json").output)["runs"]
    assert (entry["id"], entry["state"], entry["name"]) == (run.id, "queued", "tickets")
    assert json.loads(runs("list", "--json", "--state", "failed").output)["runs"] == []
    with pytest.raises(UnknownName, match="did you mean 'queued'"):
        runs("list", "--state", "queud")


def test_show(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    run.wait(pace=QUICK)
    text = runs("show", run.id[:5]).output
    assert run.record.key in text
    assert "10,000 tokens" in text
    data = json.loads(runs("show", run.id, "--json").output)
    assert data["state"] == "succeeded"
    assert [transition["state"] for transition in data["transitions"]][-1] == "succeeded"
    assert len(data["metrics"]) == 12
    assert data["references"]["job"]["id"] in vendor.jobs
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        runs("show", "nope")


def test_attach_follows_to_the_report(at: At, job: TuningJob) -> None:
    run = start(job, at())
    done = runs("attach", run.id, "--json")
    report = json.loads(done.stdout)
    assert report["identity"]["run_id"] == run.id
    assert run.state is RunState.SUCCEEDED


def test_watch_follows_many_and_tells_by_its_exit_code(vendor: Fake, at: At, job: TuningJob) -> None:
    assert "no unfinished runs" in runs("watch").output
    first = start(job, at())
    vendor.outcome = "failure"
    second = start(job.model_copy(update={"seed": 1}), at())
    done = runs("watch", "--json")
    assert done.exit_code == 1
    last = {line["id"]: line["state"] for line in map(json.loads, done.stdout.splitlines())}
    assert last == {first.id: "succeeded", second.id: "failed"}


def test_watch_shows_how_far_the_evaluation_is(at: At, job: TuningJob) -> None:
    run = start(job, at())
    lines = [json.loads(line) for line in runs("watch", run.id, "--json").stdout.splitlines()]
    assert [line["progress"]["answers"] for line in lines if line["progress"]["total_answers"]][-1] == 2
    assert any(line["state"] == "finalizing" and line["progress"]["total_answers"] == 2 for line in lines)


def test_cancel(at: At, job: TuningJob) -> None:
    run = start(job, at())
    assert "cancellation requested" in " ".join(runs("cancel", run.id).output.split())
    assert json.loads(runs("cancel", run.id, "--json").output)["state"] == "cancelling"
    with pytest.raises(LlmtuneError, match="was cancelled"):
        attach(run.id).wait(pace=QUICK)
    assert "has ended already: cancelled" in runs("cancel", run.id).output


def test_adopt_and_resubmit(vendor: Fake, at: At, job: TuningJob) -> None:
    for _ in range(2):
        vendor.faults.add(accept_then_drop(), role="submit")
        with pytest.raises(SubmitUnknown) as caught:
            start(job, at("none"), new=True)
    lost = caught.value.run_id or ""
    assert "lost" in runs("list").output
    with pytest.raises(LlmtuneError, match="nobody can confirm"):
        runs("resubmit", lost)
    assert vendor.counts["submit"] == 2
    assert "follows job" in runs("adopt", lost, sorted(vendor.jobs)[-1]).output
    (second,) = [entry["id"] for entry in json.loads(runs("list", "--json", "--state", "lost").output)["runs"]]
    assert "queued" in runs("resubmit", second, "--yes").output
    assert vendor.counts["submit"] == 3


class ResumableProvider(FakeProvider):
    """Its failed jobs go on, and end well then."""

    vendor: Fake

    def resume_point(self, job: JobRef) -> str | None:
        return "the checkpoint of step 3"

    def restart(self, job: JobRef, request: Request) -> str:
        assert request.body["model"]
        at_vendor = self.vendor.jobs[job.id]
        at_vendor.outcome, at_vendor.walk, at_vendor.at = "success", self.vendor.walks["success"], 0
        return "the checkpoint of step 3"


def test_a_failed_run_goes_on(vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor.outcome = "failure"
    run = start(job, at())
    with pytest.raises(LlmtuneError, match="is not failed or cancelled but queued"):
        runs("resume", run.id)
    with pytest.raises(RunFailed) as caught:
        run.wait(pace=QUICK)
    assert caught.value.hint is None  # this backend cannot
    with pytest.raises(LlmtuneError, match="fake cannot go on with a job that has ended"):
        runs("resume", run.id)
    provider = ResumableProvider("fake", at().settings)
    provider.vendor = vendor
    monkeypatch.setattr("llmtune.runs.run.provider_of", lambda record: provider)
    with pytest.raises(RunFailed) as caught:
        attach(run.id).wait(pace=QUICK)
    assert caught.value.hint == f"to go on from the checkpoint of step 3: llmtune runs resume {run.id}"
    assert f"run {run.id} continues from the checkpoint of step 3" in runs("resume", run.id).output
    assert run.record.error is None
    report = attach(run.id).wait(pace=QUICK)
    assert report.succeeded
    assert report.identity.run_id == run.id
    assert len(run.metrics()) == len({(point.step, point.series) for point in run.metrics()})
    assert vendor.counts["submit"] == 1
    with pytest.raises(LlmtuneError, match="is not failed or cancelled but succeeded"):
        runs("resume", run.id)


def test_a_cancelled_run_goes_on(vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(job, at())
    run.cancel()
    with pytest.raises(RunFailed):
        run.wait(pace=QUICK)
    provider = ResumableProvider("fake", at().settings)
    provider.vendor = vendor
    monkeypatch.setattr("llmtune.runs.run.provider_of", lambda record: provider)
    document = json.loads(runs("resume", run.id, "--json").output)
    assert document == {"run": run.id, "state": "queued", "from": "the checkpoint of step 3"}
    assert attach(run.id).wait(pace=QUICK).succeeded


def test_cleanup(vendor: Fake, at: At, job: TuningJob) -> None:
    assert "no vendor holds anything that llmtune created" in runs("cleanup").output
    run = start(job, at())
    run.wait(pace=QUICK)
    assert "would remove upload" in runs("cleanup", "--dry-run").output
    assert len(vendor.files) == 2
    document = json.loads(runs("cleanup", "--json", run.id).output)
    assert [resource["type"] for resource in document["removed"]] == ["upload", "upload"]
    assert not vendor.files
    assert {resource["type"] for resource in document["kept"]} == {"job", "model"}
