"""The body of CreateModelCustomizationJob, exactly as boto3 puts it on the wire."""

from __future__ import annotations

import copy
from typing import Any

from llmtune.errors import InvalidJob
from llmtune.provider import Files, Receipt
from llmtune_bedrock.declarations import RUN_TAG, as_text
from llmtune_bedrock.settings import PLACEHOLDERS, BedrockSettings


def build(receipt: Receipt, files: Files, settings: BedrockSettings, *, validation: bool) -> dict[str, Any]:
    """Build the body for this receipt. Job name, token and the run key's tags are added when the job is sent.

    `validation` is whether the family uses validation rows at all.
    """
    target, options = receipt.target, receipt.target.options
    bucket = settings.bucket or PLACEHOLDERS["bucket"]
    body: dict[str, Any] = {
        "roleArn": settings.role_arn or PLACEHOLDERS["role_arn"],
        "baseModelIdentifier": target.model,
        "customizationType": "CONTINUED_PRE_TRAINING" if options.get("continued_pretraining") else "FINE_TUNING",
        "trainingDataConfig": {"s3Uri": files["train"].id},
        "outputDataConfig": {"s3Uri": f"s3://{bucket}/{settings.prefix.strip('/')}/output"},
    }
    if validation and "validation" in files:
        body["validationDataConfig"] = {"validators": [{"s3Uri": files["validation"].id}]}
    if settings.kms_key_id:
        body["customModelKmsKeyId"] = settings.kms_key_id
    if settings.subnet_ids or settings.security_group_ids:
        body["vpcConfig"] = {
            "subnetIds": list(settings.subnet_ids),
            "securityGroupIds": list(settings.security_group_ids),
        }
    parameters = receipt.request_parameters()
    sent = parameters.pop("hyperParameters", {})
    free = dict(options.get("extra_hyperparameters", {}))
    if (share := options.get("eval_percentage")) is not None:
        free["evalPercentage"] = as_text(share)
    if twice := sorted(set(free) & set(sent)):
        raise InvalidJob(
            f"provider_options.{target.provider}.extra_hyperparameters sets {', '.join(twice)},"
            " which the job's own hyperparameters set too: leave it out there"
        )
    if free or sent:
        body["hyperParameters"] = {**free, **sent}
    return body | parameters


def with_key(body: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the body with the run key as token, at the end of both names, and as a tag of job and model."""
    keyed = copy.deepcopy(body)
    name = f"{keyed['customModelName']}-{key}"
    tag = {"key": RUN_TAG, "value": key}
    keyed["jobName"] = keyed["customModelName"] = name
    keyed["clientRequestToken"] = key
    keyed["jobTags"] = [*keyed.get("jobTags", []), tag]
    keyed["customModelTags"] = [tag]
    return keyed


def with_sample_files(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with a well-formed address for every file that is only a placeholder ("<train file>")."""
    filled = copy.deepcopy(body)
    for config in _inputs(filled):
        if str(config.get("s3Uri", "")).startswith("<"):
            config["s3Uri"] = "s3://bucket/file.jsonl"
    return filled


def input_files(body: dict[str, Any]) -> list[str]:
    """Return the S3 addresses that a body reads from, without placeholders of files that are not uploaded yet."""
    uris = (str(config.get("s3Uri", "<")) for config in _inputs(body))
    return [uri for uri in uris if not uri.startswith("<")]


def _inputs(body: dict[str, Any]) -> list[dict[str, Any]]:
    validators = (body.get("validationDataConfig") or {}).get("validators", [])
    return [body.get("trainingDataConfig") or {}, *validators]
