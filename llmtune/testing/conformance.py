"""The test suite that every provider must pass, against a fake of its vendor. Subclass it in your package's tests.

    class TestAcme(ConformanceSuite):
        model = "acme-small"
        marks = {
            "test_cancel_stops_the_job": never("the service has no cancel"),
            "test_find_upload_finds_the_same_content": notimpl("the vendor lists files; we do not search them yet"),
        }

        @pytest.fixture
        def vendor(self):
            with FakeAcme(api_key="test-key") as fake:
                yield fake

        @pytest.fixture
        def provider(self, vendor, monkeypatch):
            monkeypatch.setenv("ACME_API_KEY", "test-key")
            return AcmeProvider("acme", AcmeSettings(base_url=vendor.url))

A marked test must fail: when the vendor or the provider gains the feature, the mark is wrong and the suite fails.
Failures without a mark fail. The fake must use the roles of `llmtune.testing.route`, by which faults are injected.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.job.graders import make_grader
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.provider.declarations import DECLARED_FIELDS
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import Receipt
from llmtune.provider.types import (
    DeploymentRef,
    EncodedDataset,
    JobRef,
    ModelRef,
    Request,
    RunKey,
    RunState,
    Snapshot,
    UploadRef,
)
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune.testing import faults, store_faults
from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.markers import Mark, expect_failure, never, notimpl, notyet
from llmtune.testing.wire_check import GRADER

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset

__all__ = ["ConformanceSuite", "Mark", "Ready", "never", "notimpl", "notyet"]

#: Polls after which a job that has not ended fails the test.
MAX_POLLS = 60


@dataclass
class Ready:
    """A job that is planned, encoded and uploaded, ready for `submit`.

    `dataset` holds the rows, `receipt` the plan, `encoded` the files on disk, `files` the uploads by role, `request`
    the argument of `submit`.
    """

    job: TuningJob
    dataset: Dataset
    receipt: Receipt
    encoded: EncodedDataset
    files: dict[str, UploadRef]
    request: Request


class ConformanceSuite:
    """The suite. Give it `model`, and fixtures `vendor` and `provider`; override what differs."""

    model: ClassVar[str] = "m-1"
    """A model id that the provider knows."""

    hyperparameters: ClassVar[dict[str, Any]] = {"epochs": 2}
    """Hyperparameters of the job; they must be supported by the provider."""

    adapter: ClassVar[str] = "lora"
    """Adapter of the job: what is trained."""

    method: ClassVar[str] = "sft"
    """Method of the job."""

    grader: ClassVar[dict[str, Any]] = GRADER
    """Grader of the job, where its method is reinforcement; its reference is the field `answer`."""

    provider_options: ClassVar[dict[str, Any]] = {}
    """The job's own options for this provider."""

    rows: ClassVar[int] = 120
    """Rows of the dataset. The training part (80 %) must reach the vendor's minimum."""

    marks: ClassVar[dict[str, Mark]] = {}
    """Tests that cannot pass here, by name, and why."""

    settle: ClassVar[float] = 0.0
    """Seconds between polls, for a provider that must not be polled continuously."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = [name for name in cls.marks if not callable(getattr(cls, name, None))]
        if unknown:
            raise TypeError(f"marks name no test of the suite: {unknown}")
        for name, mark in cls.marks.items():
            setattr(cls, name, expect_failure(getattr(cls, name), mark))

    # --- provided by the subclass ----------------------------------------------------------------------------------
    @pytest.fixture
    def vendor(self) -> Any:
        """Yield the fake, started, and close it afterwards."""
        raise NotImplementedError("give the suite a fixture `vendor`")

    @pytest.fixture
    def provider(self, vendor: FakeVendor) -> Any:
        """Return the provider, configured to use the fake."""
        raise NotImplementedError("give the suite a fixture `provider`")

    def unlike(self, request: Request) -> Request:
        """Return a changed `request` that the vendor must refuse; by default with an unknown field."""
        return request.model_copy(update={"body": request.body | {"no_such_field_of_yours": 1}})

    # --- helpers ---------------------------------------------------------------------------------------------------
    @pytest.fixture(autouse=True)
    def store_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep runs in a folder of the test, and ignore the developer's settings and catalogue."""
        monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "llmtune-home"))
        monkeypatch.setenv("LLMTUNE_CONFIG", str(tmp_path / "no-config.toml"))
        monkeypatch.setenv("LLMTUNE_CATALOG", str(tmp_path / "no-catalog.toml"))
        monkeypatch.setenv("LLMTUNE_PRICES", str(tmp_path / "no-prices.toml"))
        monkeypatch.delenv("LLMTUNE_STORE", raising=False)

    @pytest.fixture
    def job(self, tmp_path: Path, provider: Provider) -> TuningJob:
        """Return a small job."""
        path = tmp_path / "rows.jsonl"
        is_graded = self.method == "reinforcement"
        rows = (_graded_row(number) if is_graded else _row(number) for number in range(self.rows))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return TuningJob(
            name="conformance",
            dataset=str(path),
            model={provider.name: self.model},
            method=self.method,  # type: ignore[arg-type]
            adapter=self.adapter,  # type: ignore[arg-type]
            hyperparameters=Hyperparameters.model_validate(self.hyperparameters),
            provider_options={provider.name: self.provider_options} if self.provider_options else {},
            grader=make_grader(self.grader) if is_graded else None,
        )

    @pytest.fixture
    def ready(self, provider: Provider, job: TuningJob, tmp_path: Path) -> Ready:
        """Plan, encode and upload the job."""
        dataset = read_dataset(job)
        assert not isinstance(dataset, LlmtuneError), dataset
        receipt = plan(job, provider, dataset=dataset)
        assert receipt.refusals == ()
        encoded = provider.encode(dataset, receipt, tmp_path / "encoded")
        files = {str(file.role): provider.upload(file) for file in encoded.files}
        return Ready(job, dataset, receipt, encoded, files, provider.build(receipt, files))

    @pytest.fixture
    def key(self) -> RunKey:
        """Return a new run key."""
        return run_key(new_run_id())

    def to_the_end(self, provider: Provider, job: JobRef) -> list[Snapshot]:
        """Poll until the job has ended, with the cursor stored as JSON in between; return every snapshot."""
        snapshots: list[Snapshot] = []
        cursor = None
        for _ in range(MAX_POLLS):
            snapshot = provider.poll(JobRef.model_validate_json(job.model_dump_json()), cursor)
            snapshots.append(snapshot)
            if snapshot.cursor is not None:
                cursor = json.loads(json.dumps(snapshot.cursor))
            if snapshot.state.final:
                return snapshots
            time.sleep(self.settle)
        raise AssertionError(f"no end after {MAX_POLLS} polls; the last state is {snapshots[-1].raw_state!r}")

    def tuned(self, provider: Provider, ready: Ready, key: RunKey) -> ModelRef:
        """Submit the job, wait for its end, and return the model."""
        model = self.to_the_end(provider, provider.submit(ready.request, key))[-1].model
        assert model is not None
        return model

    # --- offline ---------------------------------------------------------------------------------------------------
    def test_every_field_is_declared_and_nothing_is_sent_to_say_so(
        self, vendor: FakeVendor, provider: Provider, job: TuningJob
    ) -> None:
        receipt = plan(job, provider)
        assert {row.field for row in receipt.fields} >= set(DECLARED_FIELDS)
        assert json.loads(json.dumps(receipt.to_json()))["fields"]["epochs"]
        assert provider.ready().extra in ("installed", "not needed")
        assert list(vendor.requests) == []

    def test_what_is_declared_is_what_moves(self, provider: Provider) -> None:
        from llmtune.testing.wire_check import check_request_fields

        assert check_request_fields(provider, self.model, method=self.method, adapter=self.adapter) == []

    def test_encoding_is_named_by_content_and_repeatable(
        self, provider: Provider, ready: Ready, tmp_path: Path
    ) -> None:
        import hashlib

        again = provider.encode(ready.dataset, ready.receipt, tmp_path / "again")
        assert [file.sha256 for file in again.files] == [file.sha256 for file in ready.encoded.files]
        for file in again.files:
            content = file.path.read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.sha256
            assert len(content) == file.bytes
        assert again.file("train") is not None

    def test_the_request_is_pure_json_without_the_key(self, provider: Provider, ready: Ready, key: RunKey) -> None:
        again = provider.build(ready.receipt, ready.files)
        assert again == ready.request
        text = json.dumps(ready.request.body)
        assert json.loads(text) == ready.request.body
        assert key not in text

    # --- uploads ---------------------------------------------------------------------------------------------------
    def test_an_upload_is_known_by_its_content(self, provider: Provider, ready: Ready) -> None:
        for file in ready.encoded.files:
            ref = ready.files[file.role]
            assert ref.digest == file.sha256
            assert UploadRef.model_validate_json(ref.model_dump_json()) == ref

    def test_find_upload_finds_the_same_content(self, vendor: FakeVendor, provider: Provider, ready: Ready) -> None:
        vendor.advance(vendor.lag + 1)
        file = ready.encoded.files[0]
        upload = provider.find_upload(file.sha256)
        assert upload is not None
        assert upload.id == ready.files[file.role].id
        assert provider.find_upload("0" * 64) is None

    # --- submit ----------------------------------------------------------------------------------------------------
    def test_submit_makes_exactly_one_job(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        ref = provider.submit(ready.request, key)
        assert len(vendor.jobs) == 1
        assert JobRef.model_validate_json(ref.model_dump_json()) == ref
        assert vendor.complaints == []

    def test_the_job_is_found_by_its_key_or_submitted_again_without_harm(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        second_key = run_key(new_run_id())
        ref = provider.submit(ready.request, key)
        if provider.submit_safety.kind == "token":
            assert provider.submit(ready.request, key).id == ref.id
            assert len(vendor.jobs) == 1
        elif provider.submit_safety.kind == "searchable":
            vendor.advance(provider.submit_safety.window)
            job = provider.find(key)
            assert job is not None
            assert job.id == ref.id
            assert provider.find(second_key) is None
        else:
            assert provider.find(key) is None
        assert provider.submit(ready.request, second_key).id != ref.id
        assert len(vendor.jobs) == 2

    def test_a_searchable_job_shows_up_within_the_window_when_lists_lag(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        if provider.submit_safety.kind != "searchable":
            pytest.skip(f"submit_safety is {provider.submit_safety.kind}")
        vendor.lag = provider.submit_safety.window
        ref = provider.submit(ready.request, key)
        assert provider.find(key) is None
        vendor.advance(provider.submit_safety.window + 0.1)
        job = provider.find(key)
        assert job is not None
        assert job.id == ref.id

    @pytest.mark.parametrize("fault", ["server_error", "reset", "accept_then_drop", "garbled", "truncated"])
    def test_an_unclear_submit_says_so_and_is_never_repeated_by_the_adapter(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey, fault: str
    ) -> None:
        make: Callable[[], faults.Fault] = getattr(faults, fault)
        vendor.faults.add(make(), role="submit", times=5)
        with pytest.raises(TransientError) as caught:
            provider.submit(ready.request, key)
        assert caught.value.sent is True
        assert vendor.counts["submit"] == 1

    def test_a_refused_submit_may_be_repeated_when_nothing_was_taken(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        vendor.faults.add(faults.rate_limit(2), role="submit")
        with pytest.raises(TransientError) as caught:
            provider.submit(ready.request, key)
        assert caught.value.sent is False
        assert caught.value.retry_after == 2
        assert vendor.counts["submit"] == 1
        assert provider.submit(ready.request, key).id

    def test_a_vendor_that_cannot_be_reached_took_nothing(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        vendor.close()
        with pytest.raises(TransientError) as caught:
            provider.submit(ready.request, key)
        assert caught.value.sent is False

    def test_a_wrong_request_is_refused_in_the_vendors_words(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        with pytest.raises(LlmtuneError) as caught:
            provider.submit(self.unlike(ready.request), key)
        assert not isinstance(caught.value, TransientError)
        assert len(vendor.jobs) == 0

    # --- poll ------------------------------------------------------------------------------------------------------
    def test_a_job_runs_to_its_end_and_loses_nothing_on_the_way(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        ref = provider.submit(ready.request, key)
        snapshots = self.to_the_end(provider, ref)
        last = snapshots[-1]
        assert last.state is RunState.SUCCEEDED
        assert last.model is not None
        assert ModelRef.model_validate_json(last.model.model_dump_json()) == last.model
        assert all(snapshot.raw_state for snapshot in snapshots)
        points = {(point.series, point.step) for snapshot in snapshots for point in snapshot.points}
        all_points = {(point.series, point.step) for point in provider.poll(ref, None).points}
        assert points == all_points
        assert all(point.source in ("vendor_api", "vendor_file", "computed") for s in snapshots for point in s.points)
        events = [event.id for snapshot in snapshots for event in snapshot.events]
        assert len(events) == len(set(events))
        assert vendor.complaints == []

    def test_metrics_are_reported(self, provider: Provider, ready: Ready, key: RunKey) -> None:
        snapshots = self.to_the_end(provider, provider.submit(ready.request, key))
        series = {point.series for snapshot in snapshots for point in snapshot.points}
        assert ("train/reward" if self.method == "reinforcement" else "train/loss") in series

    def test_a_failed_job_tells_why_in_the_vendors_words(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        vendor.outcome = "failure"
        last = self.to_the_end(provider, provider.submit(ready.request, key))[-1]
        assert last.state is RunState.FAILED
        assert vendor.failure_message in (last.error or "")

    def test_an_unknown_state_is_running_with_a_warning_and_the_raw_word(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        ref = provider.submit(ready.request, key)
        vendor.faults.add(faults.unknown_state("recalibrating"), role="poll", times=50)
        snapshot = provider.poll(ref, None)
        assert snapshot.state is RunState.RUNNING
        assert "recalibrating" in snapshot.raw_state
        assert any("recalibrating" in warning for warning in snapshot.warnings)

    @pytest.mark.parametrize("fault", ["rate_limit", "server_error", "reset", "truncated", "garbled"])
    def test_a_poll_that_breaks_is_transient(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey, fault: str
    ) -> None:
        ref = provider.submit(ready.request, key)
        make: Callable[[], faults.Fault] = getattr(faults, fault)
        vendor.faults.add(make(), role="poll", times=50)
        with pytest.raises(TransientError):
            provider.poll(ref, None)
        vendor.faults.clear()
        assert provider.poll(ref, None).raw_state

    def test_a_job_that_is_not_there_is_a_plain_refusal(
        self, provider: Provider, vendor: FakeVendor, ready: Ready, key: RunKey
    ) -> None:
        ref = provider.submit(ready.request, key)
        vendor.faults.add(faults.refusal(404, "There is no such job.", "not_found"), role="poll", times=50)
        with pytest.raises(VendorError) as caught:
            provider.poll(ref, None)
        assert not isinstance(caught.value, TransientError)

    def test_cancel_stops_the_job(self, provider: Provider, ready: Ready, key: RunKey) -> None:
        ref = provider.submit(ready.request, key)
        provider.cancel(ref)
        assert self.to_the_end(provider, ref)[-1].state is RunState.CANCELLED

    # --- the model -------------------------------------------------------------------------------------------------
    def test_the_tuned_model_answers_and_the_base_model_does_or_says_why_not(
        self, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        model = self.tuned(provider, ready, key)
        deployment = provider.deploy(model, key)
        generator = provider.generator(deployment or model)
        assert not isinstance(generator, Unavailable), generator.reason
        requests = [GenerationRequest(messages=row.messages[:-1], max_tokens=5) for row in ready.dataset.test[:2]]
        with generator as opened:
            answers = opened.generate(requests)
        assert len(answers) == len(requests)
        assert all(answer.text for answer in answers)
        base = provider.base_model(ready.receipt)
        if not isinstance(base, Unavailable):
            base_generator = provider.generator(base)
            if isinstance(base_generator, Unavailable):
                assert base_generator.reason
            else:
                with base_generator as opened:
                    assert len(opened.generate(requests[:1])) == 1
        else:
            assert base.reason
        assert repr(model.id)[1:-1].split("/")[-1] in provider.snippet(deployment or model) or deployment is not None
        if deployment is not None:
            provider.undeploy(deployment)

    def test_a_deployment_is_found_by_its_key_and_removed_for_good(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        model = self.tuned(provider, ready, key)
        deployment = provider.deploy(model, key)
        if deployment is None:
            assert vendor.standing == []
            return
        assert len(vendor.standing) == 1
        assert DeploymentRef.model_validate_json(deployment.model_dump_json()) == deployment
        vendor.advance(vendor.lag + 1)
        listed = provider.find_deployment(key)
        assert listed is not None
        assert listed.id == deployment.id
        provider.undeploy(listed)
        assert vendor.standing == []
        provider.undeploy(listed)  # removing it twice is no error
        assert provider.find_deployment(key) is None

    # --- inventory -------------------------------------------------------------------------------------------------
    def test_a_tuned_model_is_in_the_inventory_and_its_job_comes_back(
        self, vendor: FakeVendor, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        model = self.tuned(provider, ready, key)
        vendor.advance(vendor.lag + 1)
        remote = next(
            candidate
            for candidate in provider.inventory()
            if candidate.id == model.id or candidate.id in model.model_dump_json()
        )
        job = provider.fetch(remote)
        assert job.base
        assert set(job.hyperparameters) <= set(Hyperparameters.model_fields)

    def test_what_we_made_is_removed_and_removing_it_twice_does_no_harm(
        self, provider: Provider, ready: Ready, key: RunKey
    ) -> None:
        model = self.tuned(provider, ready, key)
        gone: Iterable[Any] = (*ready.files.values(), model)
        for ref in gone:
            provider.delete(ref)
            provider.delete(ref)

    # --- complete runs ---------------------------------------------------------------------------------------------
    def test_the_whole_way_from_start_to_report(self, vendor: FakeVendor, provider: Provider, job: TuningJob) -> None:
        from llmtune.runs.api import start
        from llmtune.runs.poller import PollInterval

        run = start(job, provider)
        report = run.wait(timeout=60, pace=PollInterval(first=0.01, most=0.05))
        assert report is not None
        assert run.state is RunState.SUCCEEDED
        assert len(vendor.jobs) == 1
        assert vendor.standing == []
        assert vendor.complaints == []

    @pytest.mark.parametrize("fault", ["trickle", "endless", "empty_answer", "endless_list", "echo"])
    def test_the_whole_way_past_a_fault(
        self, vendor: FakeVendor, provider: Provider, job: TuningJob, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        from llmtune.provider import http, sdk
        from llmtune.runs import poller
        from llmtune.runs.api import start

        monkeypatch.setattr(http, "ANSWER_BYTES", 4 * 1024**2)
        monkeypatch.setattr(sdk, "MOST_PAGES", 5)
        run = start(job, provider)
        values: tuple[Any, ...] = {"trickle": (0.02,), "endless": (16 * 1024**2,)}.get(fault, ())
        vendor.faults.add(getattr(faults, fault)(*values), role="poll", times=3, after=1)
        monkeypatch.setattr(poller, "POLL_SECONDS", 2.0)
        pace = poller.PollInterval(first=0.01, most=0.05)
        with suppress(LlmtuneError):
            run.wait(timeout=120, pace=pace)
        vendor.faults.clear()
        monkeypatch.setattr(poller, "POLL_SECONDS", 300.0)
        assert run.wait(timeout=120, pace=pace) is not None
        assert run.state is RunState.SUCCEEDED
        assert len(vendor.jobs) == 1
        assert vendor.standing == []

    def test_the_whole_way_while_the_store_blinks(self, vendor: FakeVendor, provider: Provider, job: TuningJob) -> None:
        from llmtune.runs.api import start
        from llmtune.runs.poller import PollInterval
        from llmtune.runs.store.store import open_store

        run = start(job, provider)
        with store_faults.store_away(open_store(), times=3, after=8):
            run.wait(timeout=120, pace=PollInterval(first=0.01, most=0.05))
        assert run.state is RunState.SUCCEEDED
        assert len(vendor.jobs) == 1
        assert vendor.standing == []


def _row(number: int) -> dict[str, Any]:
    subject, team = ("invoice", "billing") if number % 2 else ("router", "network")
    return {
        "messages": [
            {"role": "system", "content": "Name the team."},
            {"role": "user", "content": f"ticket {number}: the {subject} is wrong"},
            {"role": "assistant", "content": team},
        ]
    }


def _graded_row(number: int) -> dict[str, Any]:
    question = f"ticket {number} has {number} lines and {number + 3} more: how many, and why?"
    return {"messages": [{"role": "user", "content": question}], "answer": str(2 * number + 3)}
