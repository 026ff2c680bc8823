"""Starting a run: what is checked first, what is joined, and what happens when the submit goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmtune import _retry
from llmtune.errors import (
    InvalidData,
    InvalidJob,
    LlmtuneWarning,
    MissingCredentials,
    OverBudget,
    RunFailed,
    StoreUnavailable,
    SubmitUnknown,
    TransientError,
)
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.provider.types import RunState
from llmtune.runs import submission
from llmtune.runs.api import attach, list_runs, start, tune
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.run import Run
from llmtune.runs.store import database
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.store import Store, open_store
from llmtune.testing import accept_then_drop, call_action, garbled, rate_limit, refusal, reset, server_error, store_away
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK

pytestmark = pytest.mark.usefixtures("no_long_pauses")


# --- the straight way ------------------------------------------------------------------------------------------------
def test_a_run_passes_through_its_states_and_everything_is_written_down(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    run = start(job, at("searchable"))
    run.wait(pace=QUICK)
    assert [each.state for each in run.transitions()] == [
        RunState.PLANNED,
        RunState.UPLOADING,
        RunState.SUBMITTING,
        RunState.QUEUED,
        RunState.RUNNING,
        RunState.FINALIZING,
        RunState.SUCCEEDED,
    ]
    record = run.record
    assert record.key == run_key(run.id)
    assert record.submits == 1
    assert record.request is not None
    (made,) = vendor.jobs.values()
    assert made.body["hyperparameters"] == {"epochs": 2}
    assert made.key == record.key
    assert run.job_ref is not None
    assert run.job_ref.id == made.id
    assert run.model_ref is not None
    train = [point.step for point in run.metrics() if point.series == "train/loss"]
    assert train == list(range(1, 11))
    assert len(list(run.events())) >= 10
    assert record.billed is not None
    assert record.billed.tokens == 10_000
    assert not vendor.complaints


def test_the_stored_receipt_builds_the_same_request(at: Callable[..., FakeProvider], job: TuningJob) -> None:
    from llmtune.runs.plans import plan

    provider = at()
    run = start(job, provider)
    assert run.record.plan.request_parameters() == plan(job, provider).request_parameters()
    assert run.record.tuning_job.hyperparameters == job.hyperparameters


def test_run_ids_and_keys_are_legal_in_every_vendors_tag() -> None:
    keys = {run_key(new_run_id()) for _ in range(500)}
    assert len(keys) == 500
    assert all(len(key) == 12 and key.isalnum() and key.islower() and key.startswith("lt") for key in keys)
    with pytest.raises(ValueError, match="not a run id"):
        run_key("Nope")


# --- the same work is not paid for twice -----------------------------------------------------------------------------
def test_an_unfinished_run_of_the_same_content_is_joined(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    first = start(job, at())
    assert start(job, at()).id == first.id
    assert start(job.model_copy(update={"tags": {"team": "x"}}), at()).id == first.id, "tags are not work"
    others = [
        start(job, at(), new=True),
        start(job.model_copy(update={"hyperparameters": Hyperparameters(epochs=3)}), at()),
        start(job.model_copy(update={"seed": 7}), at()),
        start(job.model_copy(update={"model": "m-2"}), at()),
    ]
    assert len({first.id, *(run.id for run in others)}) == 5
    assert len(vendor.jobs) == 5
    assert len(vendor.files) == 2, "the same content is uploaded once"


def test_changed_rows_are_other_work(at: Callable[..., FakeProvider], job: TuningJob) -> None:
    first = start(job, at())
    path = Path(job.dataset.path or "")
    path.write_text(path.read_text().replace("a 1", "a one"))
    assert start(job, at()).id != first.id


def test_a_finished_run_is_returned_only_when_asked_for(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    first = start(job, at())
    first.wait(pace=QUICK)
    assert start(job, at(), reuse=True).id == first.id
    assert start(job, at()).id != first.id
    assert len(vendor.jobs) == 2


def test_an_upload_that_is_gone_at_the_vendor_is_made_again(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    start(job, at())
    vendor.files.clear()
    run = start(job, at(), new=True)
    assert len(vendor.files) == 2
    run.wait(pace=QUICK)


# --- what is checked before anything is sent -------------------------------------------------------------------------
def test_money_is_asked_about_before_anything_is_sent(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    with pytest.raises(OverBudget, match="not confirmed"):
        start(job, at(), yes=False)
    with pytest.raises(OverBudget, match=r"over the budget of 0\.00"):
        start(job, at(price=1000.0), budget=0.0)
    with pytest.raises(OverBudget, match="not known"):
        start(job, at(price=None), budget=100.0)
    assert list(vendor.requests) == []
    assert open_store().runs() == []
    start(job, at(price=None), budget=100.0, allow_unknown_cost=True)
    start(job, at(price=0.01), budget=100.0, new=True)
    start(job, at(hosted=False, price=1000.0), yes=False, budget=0.0, new=True)
    assert len(vendor.jobs) == 3


def test_joining_a_run_costs_nothing_and_asks_nothing(at: Callable[..., FakeProvider], job: TuningJob) -> None:
    first = start(job, at())
    assert start(job, at(), yes=False).id == first.id


def test_a_broken_dataset_or_job_is_refused_before_anything_is_sent(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    Path(job.dataset.path or "").write_text('{"messages": [{"role": "user"\n')
    with pytest.raises(InvalidData):
        start(job, at())
    with pytest.raises(InvalidJob, match="no model is named"):
        start(job.model_copy(update={"model": {"other": "m"}}), at())
    assert list(vendor.requests) == []


# --- when the vendor is unwell ---------------------------------------------------------------------------------------
def test_a_refusal_that_took_nothing_is_tried_again(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    vendor.faults.add(rate_limit(0.01), role="submit", times=2)
    vendor.faults.add(server_error(), role="upload", times=2)
    vendor.faults.add(reset(), role="find", times=1)
    run = start(job, at("none"))
    assert len(vendor.jobs) == 1
    assert run.record.submits == 3


@pytest.mark.parametrize("fault", [server_error(), reset(), accept_then_drop(), garbled(), server_error(handled=True)])
@pytest.mark.parametrize("safety", ["token", "searchable"])
def test_an_unclear_submit_ends_in_one_job(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, safety: str, fault: Any
) -> None:
    vendor.lag = 0.1
    vendor.faults.add(fault, role="submit")
    run = start(job, at(safety))
    assert len(vendor.jobs) == 1
    run.wait(pace=QUICK)
    assert run.state is RunState.SUCCEEDED


@pytest.mark.parametrize("fault", [server_error(), accept_then_drop()])
def test_without_a_way_to_ask_an_unclear_submit_is_lost_and_nothing_is_sent_twice(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, fault: Any
) -> None:
    vendor.faults.add(fault, role="submit")
    with pytest.raises(SubmitUnknown, match="nothing was sent a second time") as caught:
        start(job, at("none"))
    assert "runs adopt" in (caught.value.hint or "")
    assert vendor.counts["submit"] == 1
    run = attach(caught.value.run_id or "", provider=at("none"))
    assert run.state is RunState.LOST
    with pytest.raises(RunFailed, match="is lost") as failed:
        run.wait(pace=QUICK)
    assert failed.value.report is not None


def test_a_lost_run_adopts_its_job_or_is_submitted_again(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    vendor.faults.add(accept_then_drop(), role="submit")
    with pytest.raises(SubmitUnknown) as caught:
        start(job, at("none"))
    run = attach(caught.value.run_id or "", provider=at("none"))
    (there,) = vendor.jobs
    run.adopt(there)
    with pytest.raises(Exception, match="not lost"):
        run.adopt(there)
    run.wait(pace=QUICK)
    assert run.state is RunState.SUCCEEDED

    vendor.faults.add(reset(), role="submit")
    with pytest.raises(SubmitUnknown) as caught:
        start(job, at("none"))
    other = attach(caught.value.run_id or "", provider=at("none"))
    with pytest.raises(Exception, match=f"belongs to run {run.id}"):
        other.adopt(there)
    assert other.resubmit() is RunState.QUEUED
    other.wait(pace=QUICK)
    assert len(vendor.jobs) == 2


def test_a_permanent_refusal_fails_the_run_in_the_vendors_words(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    vendor.faults.add(refusal(400, "Your organisation is on hold.", "on_hold"), role="submit")
    with pytest.raises(Exception, match="on hold"):
        start(job, at())
    (run,) = list_runs()
    assert run.state is RunState.FAILED
    assert "on hold" in (run.record.error or "")
    vendor.faults.add(refusal(401, "Incorrect API key provided."), role="upload")
    vendor.files.clear()
    with pytest.raises(MissingCredentials, match="Incorrect API key"):
        start(job, at())


def test_a_vendor_that_stays_down_leaves_a_run_that_goes_on_later(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    vendor.faults.add(rate_limit(0.001), role="submit", times=100)
    with pytest.raises(TransientError):
        start(job, at("none"))
    (run,) = list_runs()
    assert run.state is RunState.UPLOADING
    vendor.faults.clear()
    again = start(job, at("none"))
    assert again.id == run.id
    assert len(vendor.jobs) == 1


def test_an_adapter_that_breaks_after_the_call_is_treated_as_unclear(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeProvider.submit
    broke = []

    def submit(self: FakeProvider, request: Any, key: Any) -> Any:
        made = real(self, request, key)
        if not broke:
            broke.append(1)
            raise KeyError("id")
        return made

    monkeypatch.setattr(FakeProvider, "submit", submit)
    run = start(job, at("searchable"))
    assert len(vendor.jobs) == 1
    assert run.state is RunState.QUEUED


# --- cancelling ------------------------------------------------------------------------------------------------------
def test_a_running_job_is_cancelled_at_the_vendor(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    run = start(job, at())
    assert run.cancel() is RunState.CANCELLING
    with pytest.raises(RunFailed, match="was cancelled"):
        run.wait(pace=QUICK)
    assert run.state is RunState.CANCELLED
    assert run.cancel() is RunState.CANCELLED


def test_a_run_that_was_never_submitted_is_cancelled_at_once(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob
) -> None:
    vendor.faults.add(rate_limit(0.001), role="submit", times=100)
    with pytest.raises(TransientError):
        start(job, at())
    (record,) = open_store().runs()
    assert Run(record.id, provider=at()).cancel() is RunState.CANCELLED
    assert len(vendor.jobs) == 0


@pytest.mark.parametrize(
    ("safety", "there", "expected"),
    [
        ("searchable", True, RunState.CANCELLING),
        ("searchable", False, RunState.CANCELLED),
        ("none", True, RunState.LOST),
    ],
)
def test_cancelling_an_unclear_submit_finds_out_first_and_starts_nothing(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, safety: str, there: bool, expected: RunState
) -> None:
    provider = at(safety)
    run = start(job, provider)
    store = open_store()
    store.drop_ref(run.id, "job")  # as if the process had died between the call and the note of it
    store.transition(run.id, RunState.SUBMITTING, back=True)
    if not there:
        vendor.jobs.clear()
    submits = vendor.counts["submit"]
    assert run.cancel() is expected
    assert vendor.counts["submit"] == submits


def test_tune_blocks_until_there_is_a_report(at: Callable[..., FakeProvider], job: TuningJob) -> None:
    seen: list[RunState] = []
    report = tune(job, at(), pace=QUICK, on_update=lambda update: seen.append(update.record.state))
    assert report is not None
    assert seen[-1] is RunState.SUCCEEDED


@pytest.mark.parametrize("safety", ["token", "searchable", "none"])
def test_a_store_that_is_away_just_after_the_paid_call_loses_no_job(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, safety: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(submission, "keep_trying", partial(database.keep_trying, sleep=pauses.append))
    with store_away(open_store(), times=3, when=lambda: bool(vendor.jobs)) as failed:
        run = start(job, at(safety))
        assert failed() == 3
    assert pauses == [0.25, 0.5, 1.0]
    assert run.state is RunState.QUEUED
    assert run.job_ref is not None
    assert vendor.counts["submit"] == 1


def test_a_store_that_is_away_for_long_fails_no_job(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "keep_trying", partial(database.keep_trying, sleep=lambda _: None, seconds=1.0))
    monkeypatch.setattr(submission, "submission_lease", lambda store, id: Lease(store, f"drive:{id}", ttl=0.5))
    with (
        store_away(open_store(), times=1000, when=lambda: bool(vendor.jobs)),
        pytest.raises(StoreUnavailable),
    ):
        start(job, at("searchable"))
    run = start(job, at("searchable"))
    run.wait(pace=QUICK)  # the lease is given back as soon as the store answers
    assert run.state is RunState.SUCCEEDED
    assert len(vendor.jobs) == 1
    assert vendor.counts["submit"] == 1


def test_an_upload_that_takes_long_says_so(
    vendor: Fake, at: Callable[..., FakeProvider], job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_retry, "SILENCE_SECONDS", 0.05)
    noted = threading.Event()
    note = Store.note

    def noting(self: Store, *arguments: Any) -> None:
        note(self, *arguments)
        noted.set()

    monkeypatch.setattr(Store, "note", noting)
    vendor.faults.add(call_action(lambda: noted.wait(60)), role="upload")
    with pytest.warns(LlmtuneWarning, match="has been uploading at fake for"):
        run = start(job, at(timeout=100))
    assert any("has been uploading" in event.message for _, event in run.events())
