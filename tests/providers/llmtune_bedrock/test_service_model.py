"""What botocore does not check is found before the job is sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune_bedrock import service_model
from llmtune_bedrock.fake.service import FakeBedrock
from llmtune_bedrock.requests import with_key, with_sample_files
from tests.job_texts import JOB_CHARACTERS
from tests.providers.llmtune_bedrock import conftest
from tests.providers.llmtune_bedrock.conftest import encoded, provider_at
from tests.providers.llmtune_bedrock.test_declarations import body_for, receipt_for

GOOD: dict[str, Any] = {
    "jobName": "job-1",
    "customModelName": "model-1",
    "roleArn": "arn:aws:iam::123456789012:role/r",
    "baseModelIdentifier": "amazon.nova-micro-v1:0:128k",
    "trainingDataConfig": {"s3Uri": "s3://my-bucket/a.jsonl"},
    "outputDataConfig": {"s3Uri": "s3://my-bucket/out"},
    "hyperParameters": {"epochCount": "2"},
}


def faults(**changed: Any) -> list[tuple[str, str]]:
    return service_model.faults("bedrock", "CreateModelCustomizationJob", GOOD | changed)


def test_a_good_request_has_no_fault() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"roleArn": "role/llmtune"}, "roleArn"),
        ({"customizationType": "TUNING"}, "customizationType"),
        ({"customModelName": "two--dashes"}, "customModelName"),
        ({"customModelName": "x" * 64}, "customModelName"),
        ({"jobName": "-starts-badly"}, "jobName"),
        ({"trainingDataConfig": {"s3Uri": "gs://bucket/a"}}, "trainingDataConfig.s3Uri"),
        ({"hyperParameters": {"epochCount": 2}}, "hyperParameters.epochCount"),
        ({"vpcConfig": {"subnetIds": ["subnet-1"]}}, "vpcConfig.securityGroupIds"),
        ({"vpcConfig": {"subnetIds": [], "securityGroupIds": ["sg-1"]}}, "vpcConfig.subnetIds"),
        ({"jobTags": [{"key": "k" * 129, "value": ""}]}, "jobTags[0].key"),
        ({"customizationConfig": {}}, "customizationConfig"),
        ({"learningRate": "1"}, "learningRate"),
    ],
)
def test_maximum_pattern_enum_and_names_are_checked(changed: dict[str, Any], path: str) -> None:
    assert [where for where, _ in faults(**changed)][:1] == [path]


def test_a_missing_member_is_named() -> None:
    without = {name: value for name, value in GOOD.items() if name != "roleArn"}
    assert service_model.faults("bedrock", "CreateModelCustomizationJob", without) == [("roleArn", "is missing")]


def test_the_job_name_that_would_take_seconds_takes_none() -> None:
    started = time.perf_counter()
    assert [where for where, _ in faults(jobName="a" + "-" * 26 + "!")] == ["jobName"]
    assert [where for where, _ in faults(jobName="a" + "-" * 61 + "!")] == ["jobName"]
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("name", ["a", "a-b", "a--b", "a-", "a+.b-c", "a---", "0.0", "a-+", "A1"])
def test_the_linear_pattern_takes_the_same_names(name: str) -> None:
    import re

    aws_match = bool(re.fullmatch(service_model._JOB_NAME, name))
    linear_match = bool(re.fullmatch(service_model._LINEAR[service_model._JOB_NAME], name))
    assert linear_match == aws_match


def test_bucket_and_region_are_looked_at(vendor: FakeBedrock, tmp_path: Path) -> None:
    provider = provider_at(vendor)
    job_request = provider.build(conftest.receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    assert provider.preflight(job_request) == []
    vendor.buckets["my-bucket"] = "eu-west-1"
    (finding,) = provider.preflight(job_request)
    assert finding.is_error
    assert "is in eu-west-1, but jobs run in us-east-1" in finding.message
    vendor.buckets["my-bucket"] = "us-west-2"
    west = provider_at(vendor, region="us-west-2")
    (finding,) = west.preflight(job_request)
    assert not finding.is_error
    assert "is tuned in us-east-1; the region is us-west-2" in finding.message


def test_a_role_of_the_wrong_shape_is_an_error(vendor: FakeBedrock, tmp_path: Path) -> None:
    provider = provider_at(vendor, role_arn="llmtune-role")
    job_request = provider.build(conftest.receipt_for(provider), {"train": provider.upload(encoded(tmp_path))})
    (finding,) = provider.preflight(job_request)
    assert finding.message.startswith("roleArn must match arn:aws")


def test_names_of_any_job_pass_once_the_key_is_in_them() -> None:
    for name in ("x" * 50, "a", "a-b-c"):
        keyed = with_key(GOOD | {"customModelName": name}, "lt0123456789")
        assert service_model.faults("bedrock", "CreateModelCustomizationJob", keyed) == []


@given(name=st.text(JOB_CHARACTERS, min_size=1, max_size=128))
def test_any_name_of_a_job_becomes_names_that_aws_takes(name: str) -> None:
    sent = body_for("amazon.nova-micro-v1:0:128k", name=name)
    keyed = with_key(with_sample_files(sent), "lt0123456789")
    assert service_model.faults("bedrock", "CreateModelCustomizationJob", keyed) == []
    assert keyed["jobName"].endswith("-lt0123456789")


@given(
    tags=st.dictionaries(
        st.text(JOB_CHARACTERS, min_size=1, max_size=130), st.text(JOB_CHARACTERS, max_size=260), max_size=3
    )
)
def test_tags_are_refused_or_ones_that_aws_takes(tags: dict[str, str]) -> None:
    row = receipt_for("amazon.nova-micro-v1:0:128k", tags=tags)["tags"]
    assert row.support in ("sent", "invalid", "default")
    if row.support == "sent":
        assert faults(jobTags=row.encoded) == []
