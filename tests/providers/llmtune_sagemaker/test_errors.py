"""Refusals of SageMaker as llmtune's errors."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from llmtune.errors import MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune_sagemaker import errors


def refusal(code: str, message: str = "", status: int = 400) -> Any:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return errors.from_exception(ClientError(answer, "X"), doing="starting the job", name="sagemaker")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ResourceNotFound", "gone"),
        ("ValidationException", "Requested resource not found."),
        ("ValidationException", "ModelPackageGroup arn:... does not exist."),
    ],
)
def test_not_found_under_any_code(code: str, message: str) -> None:
    assert refusal(code, message).status == 404


def test_a_name_in_use() -> None:
    error = refusal("ResourceInUse", "the name is taken")
    assert type(error) is VendorError
    assert error.code == errors.IN_USE


def test_a_limit() -> None:
    error = refusal("ResourceLimitExceeded", "The account-level service limit for serverless training jobs is 2")
    assert isinstance(error, QuotaExceeded)
    assert error.limit == "active_jobs"
    assert "Amazon SageMaker" in str(refusal("ResourceLimitExceeded", "too much").hint)


def test_what_every_service_of_aws_says_is_read_as_there() -> None:
    assert refusal("ThrottlingException", "slow down").sent is False
    assert isinstance(refusal("InternalFailure", "", 500), TransientError)
    assert refusal("InternalFailure", "", 500).sent is True
    assert isinstance(refusal("UnrecognizedClientException", "bad key"), MissingCredentials)
    assert isinstance(errors.from_exception(NoCredentialsError(), doing="x", name="sagemaker"), MissingCredentials)
    assert errors.from_exception(KeyError("x"), doing="x", name="sagemaker") is None


def test_advice_names_sagemaker() -> None:
    hint = refusal("ValidationException", "Could not assume role arn:aws:iam::1:role/x").hint
    assert "sagemaker.amazonaws.com" in hint
    assert "bedrock" not in hint
    assert "accept_eula" in refusal("ValidationException", "You must accept the EULA").hint
