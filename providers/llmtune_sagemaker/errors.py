"""What boto3 raises, as what llmtune raises: SageMaker's own codes here, all others as in Bedrock's package."""

from __future__ import annotations

import re
from typing import Any

from llmtune.errors import LimitKind, LlmtuneError, QuotaExceeded, TransientError, VendorError
from llmtune_bedrock import errors as aws_errors

#: SageMaker's code for a name in use, and for a job that cannot be deleted yet.
IN_USE = "ResourceInUse"

#: What lifts a quota, where that is not as at Bedrock.
HINTS: dict[LimitKind, str] = {
    "other": "the Service Quotas console (Amazon SageMaker) shows the quota, and raises it where it is adjustable"
}

#: SageMaker says "not found" as a validation error, whatever its service model says.
_NOT_FOUND = re.compile(r"not found|does not exist|could not find|cannot find", re.I)


def from_exception(error: Exception, *, doing: str, name: str, profile: str = "") -> LlmtuneError | None:
    """Convert a boto3 or botocore exception to ours; None for anything else."""
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        answer = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        own = from_answer(str(answer.get("Code", "")), str(answer.get("Message", "")), status, doing=doing)
        if own is not None:
            return own
    translated = aws_errors.from_exception(error, doing=doing, name=name, profile=profile)
    if isinstance(translated, VendorError) and not isinstance(translated, TransientError):
        translated.hint = advice(translated.raw or "") or translated.hint
    return translated


def from_answer(code: str, message: str, status: int | None, *, doing: str) -> LlmtuneError | None:
    """Convert an error answer that is SageMaker's own; None for one that every service of AWS may give."""
    quotation = f"AWS said {message.rstrip('.')!r}" if message else f"AWS said {code}"
    facts: dict[str, Any] = {"code": code, "raw": f"{code}: {message}"}
    if code == "ResourceNotFound" or (code == "ValidationException" and _NOT_FOUND.search(message)):
        return VendorError(f"not found ({doing}: {quotation})", status=404, **facts)
    if code == IN_USE or (code == "ConflictException" and status is not None and status < 500):
        return VendorError(f"it is in use ({doing}: {quotation})", status=status, **facts)
    if code == "ResourceLimitExceeded":
        limit = aws_errors.limit_of(message)
        hint = HINTS.get(limit, aws_errors.HINTS[limit])
        return QuotaExceeded(f"the account's quota is reached ({doing}: {quotation})", hint=hint, limit=limit)
    return None


def advice(message: str) -> str | None:
    """Return what to do about a refusal of AWS or the reason of a failed job; None if it names no known cause."""
    low = message.lower()
    denied = "service control policy" in low or "explicit deny" in low
    if "assume" in low and "role" in low and not denied:
        return "the trust policy of role_arn must let sagemaker.amazonaws.com assume it (sts:AssumeRole)"
    if "eula" in low:
        return "read the model's licence, then set accept_eula: true under provider_options of the job"
    if "dataloader is empty" in low:
        return "there are fewer training rows than batch_size: lower it, or add rows"
    return aws_errors.advice(message)
