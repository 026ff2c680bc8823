"""The end of a run: evaluation, deployments, the report, the model in hand, and cleaning up."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.example import Example
from llmtune.errors import LlmtuneError, RunFailed, StillRunning
from llmtune.evaluation.results import EvaluationResult
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.metrics.points import NotReported
from llmtune.provider.receipt import FieldReceipt, Receipt
from llmtune.provider.types import RunState, Target, UploadRef
from llmtune.report.schema import Report
from llmtune.runs import evaluation, poller
from llmtune.runs.actions import cleanup
from llmtune.runs.api import start
from llmtune.runs.poller import Update
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import dump_receipt
from llmtune.runs.store.store import open_store
from llmtune.testing import Phase, refusal, server_error
from llmtune.testing.fake_provider import FakeProvider
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.runs.helpers import QUICK, a_record

pytestmark = pytest.mark.usefixtures("no_long_pauses")

At = Callable[..., FakeProvider]


def evaluated(job: TuningJob, **spec: Any) -> TuningJob:
    return job.model_copy(update={"evaluation": EvaluationSpec(**{"max_rows": 2, **spec})})


# --- evaluation and report -------------------------------------------------------------------------------------------
def test_the_report_says_everything_that_is_known(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(evaluated(job, baselines=None), at())
    report = run.wait(pace=QUICK)
    assert isinstance(report, Report)
    assert run.report() == report
    identity = report.identity
    assert (identity.run_id, identity.key, identity.state) == (run.id, run.record.key, RunState.SUCCEEDED)
    assert identity.tuned_model == f"tuned:{next(iter(vendor.jobs))}"
    assert isinstance(report.evaluation, EvaluationResult)
    assert list(report.evaluation.systems) == ["base", "linear", "tuned"]
    assert report.cost.billed_tokens == 10_000
    assert not isinstance(report.series["train/loss"], NotReported)
    assert "json" in str(report.snippet)
    assert isinstance(report.timing.total, float)
    path = report.reproduce.split()[2]
    assert TuningJob.load(path).hyperparameters == job.hyperparameters
    assert Report.from_json(report.to_json()) == report


def test_a_series_that_is_not_reported_says_why(at: At, job: TuningJob) -> None:
    data = job.dataset.model_copy(update={"split": (0.9, 0.0, 0.1)})
    report = start(job.model_copy(update={"dataset": data}), at()).wait(pace=QUICK)
    missing = report.series["validation/loss"]
    assert isinstance(missing, NotReported)
    assert "no validation file" in missing.reason


def test_a_failed_evaluation_does_not_fail_the_run(vendor: Fake, at: At, job: TuningJob) -> None:
    vendor.faults.add(refusal(400, "This model is not available for inference."), role="generate", times=1000)
    run = start(job, at())
    report = run.wait(pace=QUICK)
    assert run.state is RunState.SUCCEEDED
    assert isinstance(report.evaluation, NotReported)
    assert any("not evaluated" in warning for warning in report.warnings)


def test_changed_test_rows_are_not_evaluated_on(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    path = Path(job.dataset.path or "")
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    report = run.wait(pace=QUICK)
    assert isinstance(report.evaluation, NotReported)
    assert "dataset has changed" in report.evaluation.reason


def test_answers_that_are_there_are_not_asked_again(vendor: Fake, at: At, job: TuningJob) -> None:
    start(evaluated(job, baselines=None), at()).wait(pace=QUICK)
    asked = vendor.counts["generate"]
    assert asked == 4
    start(evaluated(job, baselines=None), at(), new=True).wait(pace=QUICK)
    assert vendor.counts["generate"] == asked + 2, "the base model's answers were kept"


def test_the_progress_counts_the_answers_of_all_models(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(evaluated(job, baselines=None), at())
    updates: list[Update] = []
    run.wait(pace=QUICK, on_update=updates.append)
    seen = [update.record.progress for update in updates if update.record.progress.total_answers]
    assert {progress.total_answers for progress in seen} == {4}  # two rows, of the base and of the tuned model
    answers = [progress.answers or 0 for progress in seen]
    assert answers == sorted(answers)
    assert answers[-1] == 4
    assert run.record.progress.seconds_left is None


def test_the_progress_is_seen_while_another_process_evaluates(at: At, job: TuningJob) -> None:
    run, store = start(job, at()), open_store()
    lease = Lease(store, f"finalize:{run.id}")
    assert lease.acquire(wait=0)
    updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
    leave = poller.poller().follow(store, run.id, run.provider, updates.put, pace=QUICK)
    try:
        while "is finishing this run" not in (updates.get(timeout=60).message or ""):
            pass
        store.change(run.id, progress=run.record.progress.model_copy(update={"answers": 1, "total_answers": 2}))
        while updates.get(timeout=60).record.progress.answers != 1:
            pass
    finally:
        leave()
        lease.release()
    run.wait(pace=QUICK)
    assert run.state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    ("test", "train", "fields", "rows"),
    [
        (200, 1000, {"epochs": 3}, 50),
        (200, 400, {"epochs": 1}, 20),  # a twentieth of the rows trained on
        (60, 1000, {"epochs": 3}, 30),  # half of the test rows
        (5, 40, {"epochs": 1}, 10),
        (200, 1000, {"epochs": 3, "max_steps": 50, "batch_size": 8}, 20),
    ],
)
def test_the_fit_of_a_small_job_is_measured_on_few_rows(
    test: int, train: int, fields: dict[str, int], rows: int
) -> None:
    settings = [
        FieldReceipt(field=name, support="sent", effective=fields.get(name))
        for name in ("epochs", "max_steps", "batch_size")
    ]
    target = Target(provider="here", kind="here", model="m")
    receipt = Receipt(target=target, family="f", job_name="j", fields=tuple(settings))
    record = a_record(receipt=dump_receipt(receipt))
    dataset = Dataset(train=[Example()] * train, test=[Example()] * test)

    def count(hosted: bool, **spec: Any) -> int:
        return evaluation.count_fit_rows(record, dataset, EvaluationSpec(**spec), hosted=hosted)

    assert count(hosted=False) == rows
    assert count(hosted=True) == 0
    assert count(hosted=False, fit_rows=300) == count(hosted=True, fit_rows=300) == 300


@pytest.mark.parametrize(("outcome", "state"), [("failure", RunState.FAILED), ("cancelled", RunState.CANCELLED)])
def test_a_run_without_a_model_has_a_report_too(
    vendor: Fake, at: At, job: TuningJob, outcome: str, state: RunState
) -> None:
    vendor.outcome = outcome
    run = start(job, at())
    with pytest.raises(RunFailed) as caught:
        run.wait(pace=QUICK)
    report = caught.value.report
    assert report.identity.state is state
    assert report == run.report()
    if outcome == "failure":
        assert vendor.failure_message in (report.error or "")


def test_a_run_that_goes_on_has_no_report_yet(at: At, job: TuningJob) -> None:
    run = start(job, at())
    with pytest.raises(StillRunning, match="no report yet"):
        run.report()


# --- deployments -----------------------------------------------------------------------------------------------------
def test_a_deployment_stands_only_while_it_is_needed(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(evaluated(job, deploy=True, baselines=()), at(deployment="required"))
    report = run.wait(pace=QUICK)
    assert isinstance(report.evaluation, EvaluationResult)
    assert len(vendor.deployments) == 1
    assert vendor.standing == []
    assert [each.type for each in open_store().resources(run.id) if each.type == "deployment"] == []


def test_without_leave_to_deploy_nothing_is_deployed(vendor: Fake, at: At, job: TuningJob) -> None:
    report = start(job, at(deployment="required")).wait(pace=QUICK)
    assert isinstance(report.evaluation, NotReported)
    assert "evaluation.deploy" in report.evaluation.reason
    assert not vendor.deployments


def test_a_deployment_goes_when_the_evaluation_breaks(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(evaluation, "evaluate", broken)
    run = start(evaluated(job, deploy=True), at(deployment="required"))
    run.wait(pace=QUICK)
    assert vendor.standing == []
    assert any("ZeroDivisionError" in warning for warning in run.record.warnings)


def test_a_deployment_that_cannot_be_removed_is_shouted_about_and_cleaned_up_later(
    vendor: Fake, at: At, job: TuningJob
) -> None:
    vendor.faults.add(refusal(409, "The deployment is busy."), role="undeploy")
    run = start(evaluated(job, deploy=True), at(deployment="required"))
    report = run.wait(pace=QUICK)
    assert len(vendor.standing) == 1
    assert any("costs money while it stands" in warning and "cleanup" in warning for warning in report.warnings)
    done = cleanup(open_store(), lambda _: at(deployment="required"), run_ids=[run.id])
    assert "deployment" in [each.type for each in done.removed]
    assert vendor.standing == []


def test_a_vendor_that_stays_down_costs_the_run_its_evaluation_and_no_more(
    vendor: Fake, at: At, job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtune.errors import TransientError

    def down(*_: Any, **__: Any) -> None:
        raise TransientError("overloaded")

    monkeypatch.setattr(evaluation, "evaluate", down)
    run = start(evaluated(job, deploy=True), at(deployment="required"))
    run.wait(timeout=60, pace=QUICK)
    assert run.state is RunState.SUCCEEDED
    assert any("overloaded" in warning for warning in run.record.warnings)
    assert vendor.standing == []


# --- the model in hand -----------------------------------------------------------------------------------------------
def test_the_tuned_model_in_hand(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    with pytest.raises(LlmtuneError, match="has no tuned model"), run.model():
        pass
    run.wait(pace=QUICK)
    with run.model() as model:
        prompt, answer = next(iter(vendor._answers.items()))
        assert model.generate(prompt).text == answer
    with pytest.raises(LlmtuneError, match="no checkpoint 'x'"), run.model(checkpoint="x"):
        pass


def test_the_model_in_hand_is_deployed_only_with_leave_and_only_inside(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at(deployment="required"))
    run.wait(pace=QUICK)
    with pytest.raises(LlmtuneError, match="costs money"), run.model():
        pass
    with run.model(deploy=True) as model:
        assert len(vendor.standing) == 1
        prompt, answer = next(iter(vendor._answers.items()))
        assert model.generate(prompt).text == answer
    assert vendor.standing == []


# --- cleaning up -----------------------------------------------------------------------------------------------------
def test_cleanup_removes_what_we_made_and_nothing_else(vendor: Fake, at: At, job: TuningJob) -> None:
    theirs = vendor.new_file(b"somebody else's rows")
    run = start(job, at())
    run.wait(pace=QUICK)
    store = open_store()
    dry = cleanup(store, lambda _: at(), dry_run=True)
    assert len(vendor.files) == 3
    done = cleanup(store, lambda _: at())
    assert [each.ref.id for each in dry.removed] == [each.ref.id for each in done.removed]
    assert {each.type for each in done.removed} == {"upload"}
    assert next(why for each, why in done.kept if each.type == "model").startswith("it is the result")
    assert list(vendor.files) == [theirs.id]
    assert len(vendor.models) == 1
    cleanup(store, lambda _: at(), models=True)
    assert not vendor.models
    assert cleanup(store, lambda _: at(), models=True).removed == []


def test_cleanup_never_takes_an_upload_from_an_unfinished_run(vendor: Fake, at: At, job: TuningJob) -> None:
    first = start(job, at())
    first.wait(pace=QUICK)
    second = start(job, at(), new=True)  # uses the first one's uploads
    assert len(vendor.files) == 2
    done = cleanup(open_store(), lambda _: at())
    assert [each for each in done.removed if each.type == "upload"] == []
    assert any(f"run {second.id} is unfinished" in why for _, why in done.kept)
    assert len(vendor.files) == 2
    second.wait(pace=QUICK)
    cleanup(open_store(), lambda _: at())
    assert not vendor.files


def test_cleanup_counts_a_run_that_is_still_uploading(vendor: Fake, at: At, job: TuningJob) -> None:
    first = start(job, at())
    first.wait(pace=QUICK)
    store = open_store()
    planned = first.record.model_copy(
        update={"id": "zzzzzzzzzz", "key": "ltzzzzzzzzzz", "state": RunState.PLANNED, "fingerprint": "other"}
    )
    store.create_or_join(planned)  # it has not come to its uploads, but they are the same content
    done = cleanup(store, lambda _: at(), run_ids=[first.id])
    assert [each for each in done.removed if each.type == "upload"] == []


def test_cleanup_says_what_it_could_not_remove(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    run.wait(pace=QUICK)
    vendor.faults.add(refusal(403, "You may not delete files."), role="delete", times=1)
    done = cleanup(open_store(), lambda _: at())
    ((resource, reason),) = done.failed
    assert isinstance(resource.ref, UploadRef)
    assert "may not delete" in reason
    assert len(vendor.files) == 1
    assert len(cleanup(open_store(), lambda _: at()).removed) == 1


def test_something_that_is_gone_already_is_gone(vendor: Fake, at: At, job: TuningJob) -> None:
    run = start(job, at())
    run.wait(pace=QUICK)
    vendor.files.clear()
    assert cleanup(open_store(), lambda _: at()).failed == []


def test_an_upload_found_at_the_vendor_that_we_never_made_is_not_ours(
    vendor: Fake, at: At, job: TuningJob, tmp_path: Path
) -> None:
    start(job, at())
    contents = [file.content for file in vendor.files.values()]
    with Fake() as other:
        for content in contents:
            other.new_file(content)  # a colleague's, with the same rows
        run = start(job, at(base_url=other.url), new=True)
        assert len(other.files) == 2
        assert [each.type for each in open_store().resources(run.id) if each.type == "upload"] == []


def test_slow_phases_do_not_confuse_the_steps(vendor: Fake, at: At, job: TuningJob) -> None:
    vendor.walks = {  # type: ignore[misc]
        **vendor.walks,
        "success": (
            Phase("queued", looks=3),
            Phase("training", looks=2, seconds=0.2, training=True),
            Phase("succeeded"),
        ),
    }
    vendor.faults.add(server_error(), role="poll", after=3)
    run = start(job, at())
    run.wait(pace=QUICK)
    assert [point.step for point in run.metrics() if point.series == "train/loss"] == list(range(1, 11))
