"""What boto3 raises, as what llmtune raises: one clear sentence each."""

from __future__ import annotations

from typing import Any

from llmtune import errors
from llmtune.provider import retry_after as seconds_to_wait

#: AWS's code for a name in use, and for a resource that is not in the state for such a call.
CONFLICT = "ConflictException"

_THROTTLED = {"ThrottlingException", "TooManyRequestsException", "Throttling", "RequestLimitExceeded", "SlowDown"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN_KEY = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "IncompleteSignature",
}
_DENIED = {"AccessDeniedException", "AccessDenied", "403"}
_GONE = {"ResourceNotFoundException", "NoSuchKey", "NoSuchBucket", "NotFound", "404"}


#: What lifts a quota of each kind at AWS.
HINTS: dict[errors.LimitKind, str] = {
    **errors.LIMIT_HINTS,
    "active_jobs": "wait for running jobs to end, or ask for more in the Service Quotas console",
    "deployments": "remove a deployment or provisioned throughput, or ask for more in the Service Quotas console",
    "other": "the Service Quotas console (Amazon Bedrock) shows the quota, and raises it where it is adjustable",
}


def limit_of(message: str) -> errors.LimitKind:
    """Return what a quota in AWS's words is on. AWS has one code for all of them."""
    low = message.lower()
    if "deployment" in low or "throughput" in low or "model unit" in low:
        return "deployments"
    return "active_jobs" if "job" in low and "record" not in low else "other"


def from_answer(
    code: str, message: str, status: int | None, *, doing: str, retry_after: float | None = None, profile: str = ""
) -> errors.LlmtuneError:
    """Convert an error answer of AWS. `doing` is what was being done ("starting the job"), for the sentence."""
    raw = f"{code}: {message}"
    quotation = f"AWS said {message.rstrip('.')!r}" if message else f"AWS said {code}"
    facts: dict[str, Any] = {"code": code, "status": status, "raw": raw}
    if code in _THROTTLED or status == 429:
        # Refused before anything was done: even the paid call may be repeated.
        return errors.TransientError(
            f"AWS is throttling {doing}: {quotation}", sent=False, retry_after=retry_after, limit="rate", **facts
        )
    if code in _EXPIRED:
        return errors.MissingCredentials(
            f"the AWS credentials have expired ({doing}: {quotation})", hint=_login_hint(profile)
        )
    if code in _UNKNOWN_KEY or status == 401:
        return errors.MissingCredentials(
            f"AWS does not accept the credentials ({doing}: {quotation})", hint=_login_hint(profile)
        )
    if code in _DENIED:
        hint = (
            advice(message) or "give your user or role the permission named there (llmtune doctor checks what it can)"
        )
        return errors.VendorError(f"AWS does not allow {doing}: {quotation}", hint=hint, **facts)
    if code in ("ServiceQuotaExceededException", "LimitExceededException"):
        limit = limit_of(message)
        return errors.QuotaExceeded(
            f"the account's quota is reached ({doing}: {quotation})", hint=HINTS[limit], limit=limit
        )
    if code == CONFLICT:
        return errors.VendorError(
            f"there is something of that name or in that state already ({doing}: {quotation})", **facts
        )
    if code == "NoSuchBucket" or (code in _GONE and doing.startswith("looking at the bucket")):
        return errors.InvalidSettings(f"the bucket does not exist ({doing}): fix bucket in llmtune.toml, or create it")
    if code in _GONE:
        return errors.VendorError(f"not found ({doing}: {quotation})", **facts)
    if status is not None and status >= 500:
        return errors.TransientError(
            f"AWS is unavailable for now ({doing}: {quotation})", sent=True, retry_after=retry_after, **facts
        )
    return errors.VendorError(f"AWS refused {doing}: {quotation}", hint=advice(message), **facts)


def advice(message: str) -> str | None:
    """Return what to do about a refusal of AWS or the reason of a failed job; None if it names no known cause."""
    low = message.lower()
    if "service control policy" in low:
        return "a service control policy of your organisation denies it: no permission of yours helps, ask who keeps it"
    if "explicit deny" in low:
        return (
            "a policy denies it explicitly (of the user or role, its permissions boundary, or the resource), which no"
            " permission outweighs: that statement has to go"
        )
    if "assume" in low and "role" in low:
        return (
            "the trust policy of role_arn must let bedrock.amazonaws.com assume it (sts:AssumeRole), for this account"
            " and region"
        )
    if "kms" in low:
        return "role_arn needs kms:Decrypt and kms:GenerateDataKey on that key, and the key's policy must let it"
    if "s3" in low or "object" in low or "bucket" in low:
        return (
            "look whether the file is there, in the job's region, and that role_arn has s3:GetObject on it and"
            " s3:ListBucket on the bucket (and kms:Decrypt where the bucket is encrypted with a key of yours)"
        )
    return None


def from_exception(error: Exception, *, doing: str, name: str, profile: str = "") -> errors.LlmtuneError | None:
    """Convert a boto3 or botocore exception to ours; None for anything else."""
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        answer = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        return from_answer(
            str(answer.get("Code", "")),
            str(answer.get("Message", "")),
            meta.get("HTTPStatusCode"),
            doing=doing,
            retry_after=seconds_to_wait(meta.get("HTTPHeaders")),
            profile=profile,
        )
    if isinstance(error, (aws.SSOError, aws.TokenRetrievalError, aws.LoginError)):
        return errors.MissingCredentials(
            f"the AWS single sign-on has expired ({doing}: {error})", hint=_login_hint(profile)
        )
    if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)):
        return errors.MissingCredentials(
            f"AWS's credential chain found nothing usable for {name} ({doing}: {error})", hint=_login_hint(profile)
        )
    if isinstance(error, aws.NoAuthTokenError):
        return errors.MissingCredentials(
            f"no bearer token was found for {name} ({doing}: {error})", hint=_login_hint(profile)
        )
    return _not_sent_error(error, doing=doing, name=name) or _connection_error(error, doing=doing)


def _not_sent_error(error: Exception, *, doing: str, name: str) -> errors.LlmtuneError | None:
    """Convert an exception that was raised before anything was sent; None for any other."""
    from botocore import exceptions as aws

    if isinstance(error, aws.ProfileNotFound):
        return errors.InvalidSettings(f"{error}: fix profile under [providers.{name}], or run aws configure")
    if isinstance(error, aws.NoRegionError):
        return errors.InvalidSettings(
            f"{name} needs region: set it under [providers.{name}] in llmtune.toml, or AWS_REGION"
        )
    if isinstance(error, aws.InvalidEndpointConfigurationError):
        return errors.InvalidSettings(
            f"AWS_BEARER_TOKEN_BEDROCK is set and base_url is plain http, where a bearer token is never sent ({error}):"
            " unset it, or use https"
        )
    if isinstance(error, aws.ParamValidationError):
        return errors.VendorError(f"botocore would not send the request ({doing}): {error}", raw=str(error))
    if isinstance(error, (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.ProxyConnectionError)):
        return errors.TransientError(f"AWS cannot be reached ({doing}): {error}", sent=False, raw=str(error))
    return None


def _connection_error(error: Exception, *, doing: str) -> errors.LlmtuneError | None:
    """Convert an exception raised on the way, when the request may have arrived."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    if isinstance(error, (aws.HTTPClientError, aws.ConnectionError, ResponseParserError, aws.ChecksumError)):
        return errors.TransientError(f"the connection to AWS broke ({doing}): {error}", sent=True, raw=str(error))
    if isinstance(error, aws.BotoCoreError):
        return errors.VendorError(f"boto3 could not go on ({doing}): {error}", raw=str(error))
    return None


def _login_hint(profile: str) -> str:
    return f"aws sso login{f' --profile {profile}' if profile else ''} (or: aws configure)"
