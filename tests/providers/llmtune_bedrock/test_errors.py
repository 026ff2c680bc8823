"""Each way AWS says no is one clear sentence, and never a second job."""

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
from llmtune.provider.types import DeploymentRef, JobRef, ModelRef, Request, RunKey, UploadRef
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
from llmtune_bedrock import BedrockProvider, errors
from llmtune_bedrock.fake.service import FakeBedrock
from tests.providers.llmtune_bedrock.conftest import encoded, provider_at, receipt_for

KEY = RunKey("lt0123456789")
OTHER = RunKey("lt9876543210")


def request(provider: BedrockProvider, tmp_path: Path) -> Request:
    return provider.build(receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})


def one_sentence(error: LlmtuneError) -> None:
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("code", "status", "message", "kind", "expected"),
    [
        ("ThrottlingException", 429, "Too many requests", TransientError, "throttling starting the job"),
        ("ServiceQuotaExceededException", 400, "You have 2 jobs", QuotaExceeded, "quota is reached"),
        ("AccessDeniedException", 403, "not authorized: bedrock:X", VendorError, "does not allow starting the job"),
        ("ExpiredTokenException", 403, "The token is expired", MissingCredentials, "have expired"),
        ("UnrecognizedClientException", 403, "The token is invalid", MissingCredentials, "does not accept"),
        ("ValidationException", 400, "Unable to access S3 object s3://b/k", VendorError, "S3 object s3://b/k"),
        ("TooManyTagsException", 400, "Too many tags", VendorError, "refused starting the job"),
        ("InternalServerException", 500, "oops", TransientError, "unavailable"),
        ("ServiceUnavailableException", 503, "later", TransientError, "unavailable"),
    ],
)
def test_refusals_are_one_sentence_and_no_job(
    vendor: FakeBedrock,
    provider: BedrockProvider,
    tmp_path: Path,
    code: str,
    status: int,
    message: str,
    kind: type[LlmtuneError],
    expected: str,
) -> None:
    job_request = request(provider, tmp_path)
    vendor.faults.add(refusal(status, message, code), role="submit")
    with pytest.raises(kind, match=expected) as caught:
        provider.submit(job_request, KEY)
    one_sentence(caught.value)
    assert vendor.counts["submit"] == 1
    assert len(vendor.jobs) == 0
    if isinstance(caught.value, TransientError):
        assert caught.value.sent is (status >= 500)


def test_throttling_tells_when_to_come_back(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    job_request = request(provider, tmp_path)
    vendor.faults.add(rate_limit(retry_after=3), role="submit")
    with pytest.raises(TransientError) as caught:
        provider.submit(job_request, KEY)
    assert (caught.value.retry_after, caught.value.sent) == (3.0, False)


def test_a_name_in_use_is_a_conflict_unless_the_job_is_ours(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    job_request = request(provider, tmp_path)
    first = provider.submit(job_request, KEY)
    (job,) = vendor.jobs.values()
    job.token = "someone-elses"  # AWS has forgotten the token: the name still tells that the job is ours
    assert provider.submit(job_request, KEY) == first
    assert len(vendor.jobs) == 1
    vendor.faults.add(refusal(400, "Job name is in use", "ConflictException"), role="submit")
    with pytest.raises(VendorError, match="something of that name") as caught:
        provider.submit(job_request, OTHER)
    one_sentence(caught.value)
    assert len(vendor.jobs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", [accept_then_drop(), truncated(), garbled(), server_error(handled=True)])
def test_an_unclear_submit_says_so_and_the_same_token_finds_the_job(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path, fault: object
) -> None:
    job_request = request(provider, tmp_path)
    vendor.faults.add(fault, role="submit")  # type: ignore[arg-type]
    with pytest.raises(TransientError) as caught:
        provider.submit(job_request, KEY)
    assert caught.value.sent
    one_sentence(caught.value)
    assert len(vendor.jobs) == 1
    assert provider.submit(job_request, KEY) == provider.find(KEY)
    assert len(vendor.jobs) == 1


def test_a_dropped_poll_may_be_asked_again(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    job = provider.submit(request(provider, tmp_path), KEY)
    for fault in (reset(), garbled(), server_error(503), rate_limit()):
        vendor.faults.add(fault, role="poll")
        with pytest.raises(TransientError):
            provider.poll(job, None)
    assert provider.poll(job, None).raw_state == "InProgress"
    with pytest.raises(VendorError, match="not found") as caught:
        provider.poll(
            JobRef(id="arn:aws:bedrock:us-east-1:123456789012:model-customization-job/a.b/000000000000"), None
        )
    one_sentence(caught.value)


def test_nobody_is_listening(tmp_path: Path) -> None:
    vendor = FakeBedrock().start()
    provider = provider_at(vendor)
    vendor.close()
    with pytest.raises(TransientError, match="cannot be reached") as caught:
        provider.poll(JobRef(id="x"), None)
    assert not caught.value.sent


def test_a_missing_file_is_found_before_the_job(vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path) -> None:
    job_request = request(provider, tmp_path)
    vendor.objects.clear()
    (finding,) = provider.preflight(job_request)
    assert "is not there" in finding.message
    with pytest.raises(VendorError, match="Unable to access S3 object") as caught:
        provider.submit(job_request, KEY)
    one_sentence(caught.value)
    assert "role_arn" in (caught.value.hint or "")
    with pytest.raises(VendorError) as gone:
        provider.download(job_request.body["trainingDataConfig"]["s3Uri"], tmp_path)
    one_sentence(gone.value)


def test_a_missing_bucket_is_one_sentence(vendor: FakeBedrock, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"bedrock needs bucket .* LLMTUNE_BEDROCK_BUCKET"):
        provider_at(vendor, bucket=None).upload(encoded(tmp_path))
    nowhere = provider_at(vendor, bucket="another-bucket")
    with pytest.raises(InvalidSettings, match="the bucket does not exist") as caught:
        nowhere.upload(encoded(tmp_path))
    one_sentence(caught.value)
    job_request = nowhere.build(receipt_for(nowhere), {"train": provider_at(vendor).upload(encoded(tmp_path))})
    (finding,) = nowhere.preflight(job_request)
    assert finding.is_error
    assert "does not exist" in finding.message


def test_a_bucket_that_may_not_be_listed_still_takes_the_file(
    vendor: FakeBedrock, provider: BedrockProvider, tmp_path: Path
) -> None:
    """Without s3:ListBucket S3 answers 403 for a bucket, and for every object that is not there."""
    vendor.faults.add(refusal(403, "Forbidden"), route="head_object", times=2)
    ref = provider.upload(encoded(tmp_path))
    job_request = provider.build(receipt_for(provider), {"train": ref})
    vendor.faults.add(refusal(403, "Forbidden"), route="head_bucket")
    (finding,) = provider.preflight(job_request)
    assert not finding.is_error
    assert "does not allow looking at the bucket" in finding.message


def test_a_bearer_token_is_never_sent_over_plain_http(vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "secret-token-value")
    with pytest.raises(InvalidSettings, match="AWS_BEARER_TOKEN_BEDROCK is set and base_url is plain http") as caught:
        provider_at(vendor).find(KEY)
    one_sentence(caught.value)
    assert "secret-token-value" not in str(caught.value)
    assert vendor.counts["find"] == 0


def test_no_credentials_at_all(vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MissingCredentials, match="credential chain found nothing") as caught:
        provider_at(vendor).find(KEY)
    assert "aws sso login" in (caught.value.hint or "")


def test_an_expired_single_sign_on(vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    config = tmp_path / "aws-config"
    config.write_text(
        "[profile work]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Dev\nregion = us-east-1\n"
        "[sso-session corp]\nsso_start_url = https://corp.awsapps.com/start\nsso_region = us-east-1\n"
    )
    with pytest.raises(MissingCredentials, match="single sign-on has expired") as caught:
        provider_at(vendor, profile="work").find(KEY)
    assert "aws sso login --profile work" in (caught.value.hint or "")
    one_sentence(caught.value)


def test_a_profile_that_is_not_there(vendor: FakeBedrock) -> None:
    with pytest.raises(InvalidSettings, match=r"fix profile under \[providers.bedrock\]"):
        provider_at(vendor, profile="nobody").find(KEY)


def test_a_missing_role_stops_before_anything_is_sent(vendor: FakeBedrock, tmp_path: Path) -> None:
    provider = provider_at(vendor, role_arn=None)
    job_request = request(provider, tmp_path)
    with pytest.raises(InvalidSettings, match="role_arn"):
        provider.submit(job_request, KEY)
    assert "role_arn" in provider.preflight(job_request)[0].message
    assert vendor.counts["submit"] == 0


def test_without_boto3_every_call_says_what_to_install(
    vendor: FakeBedrock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = provider_at(vendor)
    job_request = provider.build(receipt_for(provider), {"train": UploadRef(id="s3://my-bucket/a.jsonl")})
    for name in [name for name in sys.modules if name.split(".")[0] in ("boto3", "botocore")] + ["boto3", "botocore"]:
        monkeypatch.setitem(sys.modules, name, None)
    model = ModelRef(id="arn:m")
    calls: list[Callable[[], object]] = [
        lambda: provider.submit(job_request, KEY),
        lambda: provider.find(KEY),
        lambda: provider.poll(JobRef(id="x"), None),
        lambda: provider.cancel(JobRef(id="x")),
        lambda: provider.find_upload("0" * 64),
        lambda: provider.upload(encoded(tmp_path)),
        lambda: provider.undeploy(DeploymentRef(id="arn:d")),
        lambda: provider.delete(model),
        lambda: list(provider.inventory()),
    ]
    for call in calls:
        with pytest.raises(MissingExtra) as caught:
            call()
        assert caught.value.hint == "pip install 'llmtune-sdk[bedrock]'"


def test_an_answer_that_takes_too_long_is_not_asked_for_twice(vendor: FakeBedrock, tmp_path: Path) -> None:
    provider = provider_at(vendor, timeout=0.4)
    job_request = request(provider, tmp_path)
    vendor.faults.add(accept_then_hold(1.5), role="submit", times=5)
    with pytest.raises(TransientError) as caught:
        provider.submit(job_request, KEY)
    assert caught.value.sent
    one_sentence(caught.value)
    assert vendor.counts["submit"] == 1
    assert len(vendor.jobs) == 1


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("ValidationException", "Could not assume provided IAM role.", "let bedrock.amazonaws.com assume it"),
        (
            "AccessDeniedException",
            "User: arn:aws:iam::1:user/a is not authorized to perform: bedrock:CreateModelCustomizationJob on resource:"
            " arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-micro-v1:0:128k with an explicit deny"
            " in a service control policy",
            "no permission of yours helps",
        ),
        ("ValidationException", "Access denied to the KMS key of the training data.", "kms:Decrypt"),
        ("ValidationException", "Could not validate GetObject permissions to access S3 bucket.", "s3:GetObject"),
        ("ValidationException", "Unable to list the objects of the bucket.", "s3:ListBucket"),
    ],
)
def test_a_permission_that_is_missing_is_named(code: str, message: str, hint: str) -> None:
    error = errors.from_answer(code, message, 400, doing="starting the job")
    assert isinstance(error, VendorError)
    assert hint in str(error.hint)
    assert message.rstrip(".") in error.message


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("You have reached the maximum of 2 concurrent model customization jobs.", "active_jobs"),
        ("The number of custom model deployments exceeds the limit.", "deployments"),
        ("The sum of training and validation records for the job exceeds the limit.", "other"),
    ],
)
def test_a_quota_has_its_kind(message: str, limit: str) -> None:
    error = errors.from_answer("ServiceQuotaExceededException", message, 400, doing="starting the job")
    assert isinstance(error, QuotaExceeded)
    assert error.limit == limit
    assert error.hint == errors.HINTS[error.limit]
