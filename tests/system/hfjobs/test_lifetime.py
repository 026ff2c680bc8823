"""One machine at a time for a run, none that nobody follows, and nothing that a bucket or an answer leads astray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import SubmitUnknown, TransientError, VendorError
from llmtune.job.spec import TuningJob
from llmtune.provider.types import JobRef, Request, RunState
from llmtune.runs.ids import new_run_id, run_key
from llmtune.testing.http import Refusal
from llmtune_hfjobs import HfJobsProvider
from llmtune_hfjobs.fake.service import FakeHfJobs
from llmtune_hfjobs.files import Bucket, _has_content
from llmtune_hfjobs.responses import read_job, read_machine
from llmtune_local.rented.vendor import StoredFile
from llmtune_local.run_state.process import FolderLock
from llmtune_local.run_state.schema import Verdict
from tests.providers.llmtune_hfjobs.conftest import provider_at
from tests.providers.llmtune_hfjobs.test_provider import build, job

__all__ = ["job"]


@pytest.fixture
def request_(vendor: FakeHfJobs, provider: HfJobsProvider, job: TuningJob, tmp_path: Path) -> Request:
    vendor.outcome = "failure"  # nothing is trained
    return build(provider, job, tmp_path / "e")


@pytest.fixture
def failed(vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request) -> JobRef:
    """A run whose job has ended without a model."""
    ref = provider.submit(request_, run_key(new_run_id()))
    vendor.jobs[ref.id].data["stage"] = "ERROR"
    assert provider.poll(ref, None).state is RunState.FAILED
    return ref


def stages(vendor: FakeHfJobs) -> list[str]:
    return [job.data["stage"] for job in vendor.jobs.values()]


def test_a_resumed_run_is_followed_and_stopped_at_the_machine_that_it_was_resumed_on(
    vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request, failed: JobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor, "_play", lambda job: None)
    provider.restart(failed, request_)
    assert stages(vendor) == ["ERROR", "SCHEDULING"]
    assert provider.poll(failed, None).state is RunState.QUEUED, "the reference names the first job"
    elsewhere = JobRef(id=failed.id, data={"key": failed.data["key"], "folder": str(Path(failed.data["folder"]) / "x")})
    assert provider.poll(elsewhere, None).state is RunState.QUEUED, "a machine that did not resume it finds it too"
    provider.restart(failed, request_)
    assert len(vendor.jobs) == 2, "one that runs is not started again"
    provider.cancel(failed)
    assert stages(vendor) == ["ERROR", "CANCELED"]
    assert provider.poll(failed, None).state is RunState.CANCELLED


def test_the_end_of_an_earlier_job_is_not_told_of_a_later_one(
    vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request, failed: JobRef
) -> None:
    run = vendor.root / "buckets" / "acme" / "llmtune" / "runs" / failed.data["key"]
    (run / "ended.json").write_text('{"reason": "budget", "step": 3}', encoding="utf-8")
    assert "stopped at its limit" in str(provider.poll(failed, None).error)
    provider.restart(failed, request_)
    for rented in vendor.jobs.values():
        rented.data["stage"] = "ERROR"
    assert "the job ended as ERROR without a result" in str(provider.poll(failed, None).error)


def test_a_machine_that_may_have_been_started_is_not_started_again_by_a_retry(
    vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request, failed: JobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor, "_play", lambda job: None)
    create: Callable[[Any], Any] = vendor.create_job

    def lose_answer(call: Any) -> Any:
        create(call)
        raise Refusal(502, "bad gateway")

    monkeypatch.setattr(vendor, "create_job", lose_answer)
    with pytest.raises(SubmitUnknown, match="may have started a machine for run key"):
        provider.restart(failed, request_)
    provider.restart(failed, request_)
    assert stages(vendor) == ["ERROR", "SCHEDULING"]
    assert provider.poll(failed, None).state is RunState.QUEUED


def test_a_job_that_ends_while_it_is_stopped_is_no_error(
    vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = provider.submit(request_, run_key(new_run_id()))

    def too_late(call: Any) -> Any:
        vendor.jobs[ref.id].data["stage"] = "ERROR"
        raise Refusal(400, "the job is not running")

    monkeypatch.setattr(vendor, "cancel", too_late)
    provider.cancel(ref)


def test_a_storage_that_does_not_let_files_go_takes_no_model_away(
    provider: HfJobsProvider, failed: JobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise VendorError("this token may not delete", status=404)

    monkeypatch.setattr(provider, "_assess", lambda *_: Verdict(state="succeeded"))
    monkeypatch.setattr(provider._jobs, "remove_files", refuse)
    snapshot = provider.poll(failed, None)
    assert snapshot.state is RunState.SUCCEEDED
    assert f"remove runs/{failed.data['key']} there: this token may not delete" in snapshot.warnings[-1]


def test_rows_stay_while_another_run_needs_them(
    vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request, failed: JobRef
) -> None:
    rows = request_.body["files"]["train"]
    assert provider._is_used_elsewhere(rows, "ltother"), "the failed run can be resumed"
    assert not provider._is_used_elsewhere(rows, failed.data["key"])
    vendor.jobs[failed.id].body["labels"] |= {"llmtune-data": "0", "llmtune-validation": rows[:32]}
    assert provider._is_used_elsewhere(rows, "ltother"), "as its validation file"
    provider._jobs.remove_files([file.path for file in provider._jobs.list_files(f"runs/{failed.data['key']}")])
    assert not provider._is_used_elsewhere(rows, "ltother")


def test_what_a_bucket_lists_stays_inside_the_run_folder_and_is_none_of_its_notes(
    provider: HfJobsProvider, failed: JobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"runs/{failed.data['key']}/"
    names = ["../x", "/etc/x", "a/../../x", "C:x", "a\\x", "a\0b", "a\nb", "settled.json", "resumed.json", "lock"]
    listed = [StoredFile(path=prefix + name, size=1, version="1") for name in [*names, "metrics.jsonl"]]
    fetched: list[Path] = []
    monkeypatch.setattr(provider._jobs, "list_files", lambda folder: listed)
    monkeypatch.setattr(provider._jobs, "fetch_files", lambda files: fetched.extend(files.values()))
    provider.poll(failed, None)
    assert fetched == [Path(failed.data["folder"]) / "metrics.jsonl"]


def test_files_of_a_run_are_fetched_by_one_process_at_a_time(
    vendor: FakeHfJobs, provider: HfJobsProvider, request_: Request, failed: JobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor, "_play", lambda job: None)
    with FolderLock(Path(failed.data["folder"]) / ".fetching"):
        with pytest.raises(TransientError, match="another process fetches"):
            provider.poll(failed, None)
        provider.restart(failed, request_)
        assert provider.poll(failed, None).state is RunState.QUEUED


def test_a_label_leads_to_no_other_folder(vendor: FakeHfJobs, provider: HfJobsProvider, failed: JobRef) -> None:
    vendor.jobs[failed.id].body["labels"]["llmtune-run"] = "../../elsewhere"
    with pytest.raises(VendorError, match="is not one of its jobs"):
        provider.poll(JobRef(id=failed.id), None)


def test_an_adopted_job_is_deleted_in_its_own_folder(
    provider: HfJobsProvider, failed: JobRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / failed.id).mkdir()
    provider.delete(JobRef(id=failed.id))
    assert (tmp_path / failed.id).is_dir(), "a folder here that has the job's name"
    assert not Path(failed.data["folder"]).exists()


def test_a_list_has_only_what_lies_in_the_folder() -> None:
    paths = ["runs/a/x", "runs/ab/x", "inputs/x"]
    entries: list[Any] = [{"type": "file", "path": path, "size": 1, "xetHash": "h"} for path in paths]

    class Client:
        def get_pages(self, path: str, **query: str) -> Any:
            yield [*entries, {"type": "file", "path": "runs/a/y", "size": None, "xetHash": "h"}, 3]

    bucket = Bucket(Client(), "acme/llmtune", key_env="HF_TOKEN")  # type: ignore[arg-type]
    assert [file.path for file in bucket.list("runs/a")] == ["runs/a/x"]


def test_a_fetch_that_is_broken_off_does_not_fetch_again_what_it_had(
    provider: HfJobsProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider._jobs.put_files({"runs/a/model/one": b"weights"})
    (file,) = provider._jobs.list_files("runs/a")
    target = tmp_path / "one"

    def break_off(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", break_off)
        with pytest.raises(KeyboardInterrupt):
            provider._jobs.fetch_files({file: target})
    assert not target.exists()
    part = tmp_path / ".one.part"
    assert _has_content(part, file)
    monkeypatch.setattr(provider._jobs.bucket, "_connection", break_off)
    provider._jobs.fetch_files({file: target})
    assert target.read_bytes() == b"weights"
    part.write_bytes(b"another")
    assert not _has_content(part, file), "as long, and of another content"
    with pytest.raises(KeyboardInterrupt):
        provider._jobs.fetch_files({file: target})


@pytest.mark.parametrize("odd", [[], "x", 3, {"runningSecs": float("inf")}, {"runningSecs": -1}])
def test_a_job_that_was_started_is_read_whatever_else_its_answer_has(odd: Any) -> None:
    answer = {
        "id": "job-1",
        "status": {"stage": "RUNNING", "message": 3},
        "durations": odd,
        "owner": odd,
        "labels": odd,
    }
    rented = read_job(answer, "hfjobs")
    assert (rented.id, rented.seconds, rented.message) == ("job-1", 0.0, "3")


@pytest.mark.parametrize("price", [-1, float("nan"), float("inf"), "7000", None])
def test_a_machine_without_a_price_is_not_rented(price: Any) -> None:
    assert read_machine({"name": "x", "ram": "16 GB", "unitLabel": "minute", "unitCostMicroUSD": price}) is None
    assert (
        read_machine(json.loads('{"name":"x","unitLabel":"minute","unitCostMicroUSD":1,"accelerator":"gpu"}')) is None
    )


def test_the_token_of_one_run_does_not_reach_another(
    vendor: FakeHfJobs, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_TOKEN", "hf_only-reads-models-0123")
    provider = provider_at(vendor, model_token_env="MODEL_TOKEN")
    gated = request_.model_copy(update={"body": request_.body | {"machine": {"gated": True}}})
    refs: list[JobRef] = []
    pack: Callable[..., Any] = provider._prepare

    def start_another_meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(provider, "_prepare", pack)
        refs.append(provider.submit(request_, run_key(new_run_id())))
        return pack(*arguments, **options)

    monkeypatch.setattr(provider, "_prepare", start_another_meanwhile)
    refs.append(provider.submit(gated, run_key(new_run_id())))
    sent = [vendor.jobs[ref.id].body.get("secrets") for ref in refs]
    assert sent == [None, {"HF_TOKEN": "hf_only-reads-models-0123"}]
