"""The body of CreateModelCustomizationJob, exactly as boto3 puts it on the wire."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmtune.errors import InvalidJob
from llmtune.provider import Files, Receipt, Target, deep_merge
from llmtune_bedrock.capabilities import REINFORCEMENT_OPTIONS
from llmtune_bedrock.declarations import RUN_TAG, as_text
from llmtune_bedrock.settings import PLACEHOLDERS, BedrockSettings

#: AWS's word for the method.
REINFORCEMENT = "REINFORCEMENT_FINE_TUNING"

Inputs = Callable[[dict[str, Any]], list[dict[str, Any]]]


def build(receipt: Receipt, files: Files, settings: BedrockSettings, *, validation: bool) -> dict[str, Any]:
    """Build the body for this receipt. Job name, token and the run key's tags are added when the job is sent.

    `validation` is whether the family uses validation rows at all.
    """
    target, options = receipt.target, receipt.target.options
    bucket = settings.bucket or PLACEHOLDERS["bucket"]
    body: dict[str, Any] = {
        "roleArn": settings.role_arn or PLACEHOLDERS["role_arn"],
        "baseModelIdentifier": target.model,
        "customizationType": _type_of(target),
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
    if target.method == "reinforcement":  # its hyperparameters have a place of their own, and are no texts
        chosen = {wire: options[name] for name, wire in REINFORCEMENT_OPTIONS.items() if options.get(name) is not None}
        if chosen:
            body["customizationConfig"] = {"rftConfig": {"hyperParameters": chosen}}
        return deep_merge(body, parameters)
    sent = parameters.pop("hyperParameters", {})
    free = dict(options.get("extra_hyperparameters", {}))
    if (share := options.get("eval_percentage")) is not None:
        free["evalPercentage"] = as_text(share)
    if joined := join_hyperparameters(target.provider, free, sent):
        body["hyperParameters"] = joined
    return body | parameters


def _type_of(target: Target) -> str:
    if target.method == "reinforcement":
        return REINFORCEMENT
    return "CONTINUED_PRE_TRAINING" if target.options.get("continued_pretraining") else "FINE_TUNING"


def join_hyperparameters(provider: str, extra: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job's own hyperparameters, as they are sent, with those of `extra_hyperparameters`.

    Raises:
        InvalidJob: one is set in both places.
    """
    if twice := sorted(set(extra) & set(sent)):
        raise InvalidJob(
            f"provider_options.{provider}.extra_hyperparameters sets {', '.join(twice)},"
            " which the job's own hyperparameters set too: leave it out there"
        )
    return {**extra, **sent}


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
    return fill_placeholders(body, _inputs, "s3Uri")


def input_files(body: dict[str, Any]) -> list[str]:
    """Return the S3 addresses that a body reads from, without placeholders of files that are not uploaded yet."""
    return list_addresses(_inputs(body), "s3Uri")


def fill_placeholders(body: dict[str, Any], list_inputs: Inputs, key: str) -> dict[str, Any]:
    """Return the body with a well-formed address where the value at `key` of an input is only a placeholder."""
    filled = copy.deepcopy(body)
    for config in list_inputs(filled):
        if str(config.get(key, "")).startswith("<"):
            config[key] = "s3://bucket/file.jsonl"
    return filled


def list_addresses(inputs: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    """Return the S3 addresses at `key` of the inputs, without placeholders."""
    return [uri for config in inputs if not (uri := str(config.get(key, "<"))).startswith("<")]


def _inputs(body: dict[str, Any]) -> list[dict[str, Any]]:
    validators = (body.get("validationDataConfig") or {}).get("validators", [])
    return [body.get("trainingDataConfig") or {}, *validators]
