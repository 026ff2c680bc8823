"""Each way Google says no is one clear sentence, and never a second job."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune.errors import (
    InvalidSettings,
    LlmtuneError,
    MissingCredentials,
    MissingExtra,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune.provider.types import JobRef, ModelRef, Request, RunKey, UploadRef
from llmtune.testing import (
    accept_then_drop,
    accept_then_hold,
    garbled,
    rate_limit,
    refusal,
    reset,
    server_error,
    truncated,
)
from llmtune_vertex import VertexProvider, errors
from llmtune_vertex.fake.service import FakeVertex
from tests.providers.llmtune_vertex.conftest import encoded, provider_at, receipt_for

KEY = RunKey("lt0123456789")


def request(provider: VertexProvider, tmp_path: Path, **fields: object) -> Request:
    return provider.build(receipt_for(provider, **fields), {"train": provider.upload(encoded(tmp_path))})  # type: ignore[arg-type]


def one_sentence(error: LlmtuneError) -> None:
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    assert len(error.message) < 660


@pytest.mark.parametrize(
    ("status", "message", "kind", "expected", "hint"),
    [
        (
            403,
            "Permission 'aiplatform.tuningJobs.create' denied",
            VendorError,
            "does not allow starting",
            "aiplatform.user",
        ),
        (
            403,
            "Vertex AI API has not been used in project 1 before",
            VendorError,
            "not allow",
            "gcloud services enable",
        ),
        (401, "Request had invalid credentials", MissingCredentials, "does not accept the credentials", "gcloud auth"),
        (429, "Quota exceeded for concurrent tuning jobs", QuotaExceeded, "quota is reached", "one tuning job"),
        (429, "Quota exceeded: requests per minute", TransientError, "limiting starting the job", ""),
        (
            400,
            "Base model gemini-0 is not supported.",
            VendorError,
            "the base model cannot be tuned here",
            "known to be tunable: gemini-3.5-flash",
        ),
        (
            400,
            "Tuning is not supported in location x.",
            VendorError,
            "is not available in this location",
            "fix location",
        ),
        (
            400,
            "The adapter size is not supported for this base model.",
            VendorError,
            "cannot be tuned with an adapter of this size",
            "lora_rank to another of 1, 2, 4, 8, 16, or leave it out",
        ),
        (
            400,
            "Dataset example 1 of 14: function calls are not supported by this model.",
            VendorError,
            "rows of the dataset are not accepted",
            "llmtune data check",
        ),
        (
            403,
            "Permission denied for the Vertex AI Service Agent on the object.",
            VendorError,
            "does not allow",
            "service agent that lacks it",
        ),
        (
            400,
            "List of found errors: 1.Field: supervised_tuning_spec.training_dataset_uri; Message: Invalid value, it"
            " should be a GCS object of type JSONL. 2.Field: supervised_tuning_spec.validation_dataset_uri; Message:"
            " Invalid value, it should be a GCS object of type JSONL.",
            VendorError,
            "a dataset in Cloud Storage is not accepted",
            "roles/storage.objectViewer",
        ),
        (429, "Quota exceeded for tuning requests per day", QuotaExceeded, "quota is reached", "tomorrow"),
        (400, "Invalid dataset row", VendorError, "Google refused starting the job", ""),
        (500, "oops", TransientError, "unavailable", ""),
        (503, "later", TransientError, "unavailable", ""),
    ],
)
def test_refusals_are_one_sentence_and_no_job(
    vendor: FakeVertex,
    provider: VertexProvider,
    tmp_path: Path,
    status: int,
    message: str,
    kind: type[LlmtuneError],
    expected: str,
    hint: str,
) -> None:
    job_request = request(provider, tmp_path)
    vendor.faults.add(refusal(status, message), role="submit")
    with pytest.raises(kind, match=expected) as caught:
        provider.submit(job_request, KEY)
    one_sentence(caught.value)
    assert hint in (caught.value.hint or "")
    assert message.rstrip(".") in caught.value.message
    assert vendor.counts["submit"] == 1
    assert len(vendor.jobs) == 0
    if isinstance(caught.value, TransientError):
        assert caught.value.sent is (status >= 500)


def test_a_limit_tells_when_to_come_back(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    job_request = request(provider, tmp_path)
    vendor.faults.add(rate_limit(retry_after=3), role="submit")
    with pytest.raises(TransientError) as caught:
        provider.submit(job_request, KEY)
    assert (caught.value.retry_after, caught.value.sent) == (3.0, False)


@pytest.mark.parametrize("fault", [accept_then_drop(), truncated(), garbled(), server_error(handled=True)])
def test_an_unclear_submit_says_so_and_the_job_is_found(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path, fault: object
) -> None:
    job_request = request(provider, tmp_path)
    vendor.faults.add(fault, role="submit")  # type: ignore[arg-type]
    with pytest.raises(TransientError) as caught:
        provider.submit(job_request, KEY)
    assert caught.value.sent
    one_sentence(caught.value)
    assert vendor.counts["submit"] == 1
    job = provider.find(KEY)
    assert job is not None
    assert [job.id] == [job.data["name"] for job in vendor.jobs.values()]


def test_lists_lag_and_then_show_the_job(tmp_path: Path) -> None:
    with FakeVertex(lag=100) as vendor:
        provider = provider_at(vendor)
        provider.submit(request(provider, tmp_path), KEY)
        assert provider.find(KEY) is None
        vendor.advance(101)
        assert provider.find(KEY) is not None


def test_a_filter_that_is_refused_does_not_hide_the_job(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    ref = provider.submit(request(provider, tmp_path), KEY)
    vendor.faults.add(refusal(400, "Invalid filter."), route="list_jobs")
    assert provider.find(KEY) == ref


def test_a_dropped_poll_may_be_asked_again(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    job = provider.submit(request(provider, tmp_path), KEY)
    for fault in (reset(), garbled(), truncated(), server_error(503), rate_limit()):
        vendor.faults.add(fault, role="poll")
        with pytest.raises(TransientError):
            provider.poll(job, None)
    assert provider.poll(job, None).raw_state
    with pytest.raises(VendorError, match="not found") as caught:
        provider.poll(JobRef(id="projects/my-project/locations/us-central1/tuningJobs/1"), None)
    one_sentence(caught.value)


def test_nobody_is_listening() -> None:
    vendor = FakeVertex().start()
    provider = provider_at(vendor)
    vendor.close()
    with pytest.raises(TransientError, match="cannot be reached") as caught:
        provider.find(KEY)
    assert not caught.value.sent
    with pytest.raises(TransientError, match="cannot be reached"):
        provider.find_upload("0" * 64)


def test_a_missing_bucket(vendor: FakeVertex, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"vertex needs bucket .* LLMTUNE_VERTEX_BUCKET"):
        provider_at(vendor, bucket=None).upload(encoded(tmp_path))
    nowhere = provider_at(vendor, bucket="nowhere")
    with pytest.raises(InvalidSettings, match="fix bucket under") as caught:
        nowhere.upload(encoded(tmp_path))
    one_sentence(caught.value)
    job_request = nowhere.build(receipt_for(nowhere), {"train": provider_at(vendor).upload(encoded(tmp_path))})
    (finding,) = nowhere.preflight(job_request)
    assert finding.is_error
    assert "bucket does not exist" in finding.message


def test_a_wrong_region(vendor: FakeVertex, tmp_path: Path) -> None:
    provider = provider_at(vendor, location="asia-east1")
    job_request = request(provider, tmp_path, model="gemini-3.1-flash-lite")
    (finding,) = provider.preflight(job_request)
    assert "tuned in us-central1 or europe-west4; location is 'asia-east1'" in finding.message
    with pytest.raises(VendorError, match="is not available in this location") as caught:
        provider.submit(job_request, KEY)
    one_sentence(caught.value)
    assert "fix location under [providers.vertex]" in (caught.value.hint or "")


def test_an_unsupported_base_model(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    job_request = request(provider, tmp_path, model="gemini-1.0-pro")
    with pytest.raises(VendorError, match="base model cannot be tuned here") as caught:
        provider.submit(job_request, KEY)
    one_sentence(caught.value)


def test_what_preflight_sees(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    job_request = request(provider, tmp_path)
    assert provider.preflight(job_request) == []
    provider.submit(job_request, KEY)
    (running,) = provider.preflight(job_request)
    assert "1 tuning job(s) are not finished" in running.message
    vendor.objects.clear()
    assert any("is not there" in finding.message for finding in provider.preflight(job_request))
    vendor.faults.add(refusal(403, "no storage.buckets.get"), route="get_bucket")
    assert any(not f.is_error and "does not allow" in f.message for f in provider.preflight(job_request))
    with_key = provider_at(vendor, kms_key_name="k")
    lite = with_key.build(receipt_for(with_key, "gemini-3.1-flash-lite"), {"train": with_key.upload(encoded(tmp_path))})
    assert any("does not support customer-managed keys" in finding.message for finding in with_key.preflight(lite))
    bare = provider_at(vendor, bucket=None, project=None)
    assert "project" in bare.preflight(job_request)[0].message


def test_no_credentials_at_all(vendor: FakeVertex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(MissingCredentials, match="credential chain found nothing") as caught:
        provider_at(vendor, token_env=None).find(KEY)
    assert "gcloud auth application-default login" in (caught.value.hint or "")
    monkeypatch.delenv("LLMTUNE_TEST_TOKEN")
    with pytest.raises(MissingCredentials, match="LLMTUNE_TEST_TOKEN, which token_env names, is not set"):
        provider_at(vendor).find(KEY)


def test_curves_that_cannot_be_read_do_not_fail_the_job(
    vendor: FakeVertex, provider: VertexProvider, tmp_path: Path
) -> None:
    job = provider.submit(request(provider, tmp_path), KEY)
    vendor.faults.add(refusal(403, "no TensorBoard for you"), route="get_context", times=9)
    while not (snapshot := provider.poll(job, None)).state.final:
        assert snapshot.warnings == ()
    assert snapshot.model is not None
    assert "the curves could not be read" in snapshot.warnings[0]
    assert snapshot.points == ()


def test_two_uploads_at_once_do_no_harm(vendor: FakeVertex, provider: VertexProvider, tmp_path: Path) -> None:
    file = encoded(tmp_path)
    vendor.before_route = lambda call: (
        vendor.put("my-bucket", f"llmtune/data/{file.sha256}.jsonl", file.path.read_bytes()) and None
        if call.role == "upload"
        else None
    )
    assert provider.upload(file).data["bytes"] == file.bytes


def test_without_googles_libraries_every_call_says_what_to_install(
    vendor: FakeVertex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = provider_at(vendor)
    job_request = provider.build(receipt_for(provider), {"train": UploadRef(id="gs://my-bucket/a.jsonl")})
    for name in [name for name in sys.modules if name.startswith("google.")] + ["google.genai", "google.cloud"]:
        monkeypatch.setitem(sys.modules, name, None)
    job = JobRef(id="projects/p/locations/us-central1/tuningJobs/1")
    calls: list[Callable[[], object]] = [
        lambda: provider.submit(job_request, KEY),
        lambda: provider.find(KEY),
        lambda: provider.poll(job, None),
        lambda: provider.cancel(job),
        lambda: provider.find_upload("0" * 64),
        lambda: provider.upload(encoded(tmp_path)),
        lambda: provider.delete(ModelRef(id="projects/p/locations/us-central1/endpoints/1")),
        lambda: list(provider.inventory()),
    ]
    for call in calls:
        with pytest.raises(MissingExtra) as caught:
            call()
        assert caught.value.hint == "pip install 'llmtune-sdk[vertex]'"


def test_an_answer_that_takes_too_long_is_not_asked_for_twice(vendor: FakeVertex, tmp_path: Path) -> None:
    provider = provider_at(vendor, timeout=0.4)
    job_request = request(provider, tmp_path)
    vendor.faults.add(accept_then_hold(1.5), role="submit", times=5)
    with pytest.raises(TransientError) as caught:
        provider.submit(job_request, KEY)
    assert caught.value.sent
    one_sentence(caught.value)
    assert vendor.counts["submit"] == 1
    assert len(vendor.jobs) == 1


def test_a_long_answer_ends_with_a_whole_sentence_and_is_whole_in_raw() -> None:
    violations = [f"{at}.Field: spec.field_{at}; Message: this value is not one that can be taken." for at in range(20)]
    error = errors.from_answer(400, "INVALID_ARGUMENT", " ".join(violations), doing="starting the job", name="vertex")
    assert isinstance(error, VendorError)
    assert "that can be taken. ..." in error.message
    assert error.raw == " ".join(violations)
    first = "one clause without an end, " * 60
    assert first.strip() in errors.from_answer(400, "", first + ". Second.", doing="x", name="vertex").message


@pytest.mark.parametrize(
    ("message", "limit"),
    [("Quota exceeded for tuning jobs per day", "daily"), ("Quota exceeded for concurrent jobs", "active_jobs")],
)
def test_a_quota_has_its_kind(message: str, limit: str) -> None:
    error = errors.from_answer(429, "RESOURCE_EXHAUSTED", message, doing="starting the job", name="vertex")
    assert isinstance(error, QuotaExceeded)
    assert error.limit == limit
