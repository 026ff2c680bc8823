"""The account at AWS: region, bucket, role; and the options that travel with a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llmtune.provider import Options, ProviderSettings

#: ARN of a Lambda function, or of a version or alias of one (botocore 1.44.5, LambdaArn).
FUNCTION = (
    r"^arn:aws[a-zA-Z-]*:lambda:[a-z]{2}(-gov)?-[a-z]+-\d:\d{12}:function:[a-zA-Z0-9_.-]+(:(\$LATEST|[a-zA-Z0-9_-]+))?$"
)

PLACEHOLDERS = {"role_arn": "<role_arn>", "bucket": "<bucket>"}


def _split_list(value: Any) -> Any:
    """Split a comma-separated text, as environment variables hold it; leave anything else as it is."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Ids = Annotated[tuple[str, ...], BeforeValidator(_split_list)]


class AwsSettings(ProviderSettings):
    """Account facts that every service of AWS needs. Credentials come from AWS's own chain, never from here."""

    variables = {"region": ("AWS_REGION", "AWS_DEFAULT_REGION"), "profile": ("AWS_PROFILE",)}
    required = {"region": 'region ("us-east-1")', "bucket": 'bucket (an S3 bucket, without "s3://")'}

    region: str | None = None
    """AWS region ("us-east-1"); unset: AWS_REGION or the profile's."""

    profile: str | None = None
    """Profile of the AWS configuration files; unset: AWS_PROFILE or the default one."""

    bucket: str | None = None
    """S3 bucket for datasets and results, in the same region, without "s3://"."""

    prefix: str = "llmtune"
    """Folder in the bucket."""

    kms_key_id: str | None = None
    """Key that encrypts the tuned model and the results (id, ARN or alias); unset: one owned by AWS."""

    subnet_ids: Ids = ()
    """Subnets of the VPC that the job reads its data through, 1 to 16; needs `security_group_ids`."""

    security_group_ids: Ids = ()
    """Security groups of that VPC, 1 to 5."""

    storage_url: str | None = None
    """Address of S3, for a proxy or a test; unset: AWS's."""

    pricing_url: str | None = None
    """Address of AWS's price list, for a proxy or a test; unset: AWS's."""

    lambda_url: str | None = None
    """Address of Lambda, for a proxy or a test; unset: AWS's. Only graders that run in a Lambda function are called."""

    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until a call is given up. > 0."""

    def missing(self) -> tuple[str, ...]:
        """Return the required settings that have no value. A profile may name the region, so one stands for it."""
        profile = self.value_of("profile")
        return tuple(setting for setting in super().missing() if setting != "region" or not profile)


class BedrockSettings(AwsSettings):
    """Account facts of one configured instance. Credentials come from AWS's own chain, never from here."""

    required = AwsSettings.required | {"role_arn": "role_arn (the role that Bedrock assumes)"}

    region: str | None = None
    """AWS region ("us-east-1" for Nova, "us-west-2" for Claude and Llama); unset: AWS_REGION or the profile's."""

    role_arn: str | None = None
    """Role that Bedrock assumes: it may read the datasets and write the results, and trusts bedrock.amazonaws.com."""

    provisioned_units: Annotated[int, Field(ge=1)] | None = None
    """Model units of provisioned throughput that may be bought, by the hour and without commitment, to serve a model
    whose base cannot be served on demand; unset: never bought."""

    base_url: str | None = None
    """Address of Bedrock (control plane and runtime), for a proxy or a test; unset: AWS's."""


class BedrockOptions(Options):
    """Options of Bedrock alone, under `provider_options.bedrock` in a job."""

    eval_percentage: Annotated[int, Field(ge=5, le=50)] | None = None
    """Cohere models: share of the training rows held out for evaluation when there is no validation set, 5 to 50."""

    continued_pretraining: bool = False
    """Train on plain text (rows of `text`) as CONTINUED_PRE_TRAINING instead of on conversations."""

    extra_hyperparameters: dict[str, str] = Field(default_factory=dict)
    """Hyperparameters sent as they are, for keys that AWS has added since this catalogue was made."""

    grader_function: Annotated[str, Field(pattern=FUNCTION)] | None = None
    """Reinforcement: ARN of your Lambda function that runs the source which `llmtune grade --source-for bedrock` writes
    of the job's grader. A grader of kind lambda names its function itself."""

    samples_per_prompt: Annotated[int, Field(ge=2, le=16)] | None = None
    """Reinforcement: answers to each prompt in a step, 2 to 16. Unset: AWS's choice, which is not published."""

    max_prompt_length: Annotated[int, Field(ge=1)] | None = None
    """Reinforcement: longest prompt in tokens. Integer >= 1. Unset: AWS's choice, which is not published."""

    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """Reinforcement: longest answer while training, in tokens. Integer >= 1. Unset: AWS's choice."""

    reasoning_effort: Literal["low", "medium", "high"] | None = None
    """Reinforcement: how much the model reasons while it trains. Unset: AWS's choice, which is not published."""

    base_inference_id: str | None = None
    """Id under which the base model answers (an inference profile, say); unset: the tuning id without its suffix."""


_IN_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def find_credentials() -> Literal["found", "not found", "not checked"]:
    """Return whether AWS's chain has something to read, told from files and variables alone.

    A Bedrock bearer token alone does not count: S3 does not take it.
    """
    if any(os.environ.get(name) for name in _IN_ENVIRONMENT):
        return "found"
    folder = Path.home() / ".aws"
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials",
        os.environ.get("AWS_CONFIG_FILE") or folder / "config",
    )
    if any(Path(file).is_file() for file in files):
        return "found"
    return "not checked" if _runs_on_aws() else "not found"


def _runs_on_aws() -> bool:
    """Return whether this machine is one of AWS's, where a metadata server may hand out credentials."""
    try:
        return Path("/sys/class/dmi/id/sys_vendor").read_text(encoding="utf-8").startswith("Amazon")
    except OSError:
        return False
