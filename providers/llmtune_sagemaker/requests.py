"""The body of CreateTrainingJob for a serverless job, exactly as boto3 puts it on the wire."""

from __future__ import annotations

import copy
import re
from typing import Any

from llmtune.provider import Files, Receipt, deep_merge
from llmtune_bedrock.declarations import RUN_TAG
from llmtune_bedrock.requests import fill_placeholders, join_hyperparameters, list_addresses
from llmtune_sagemaker.recipes import HUB, TECHNIQUES
from llmtune_sagemaker.settings import PLACEHOLDERS, SageMakerSettings


def build(receipt: Receipt, files: Files, settings: SageMakerSettings, *, converse: bool) -> dict[str, Any]:
    """Build the body for this receipt. The run key's place in the job's name and tags is filled in when it is sent.

    `converse` is whether the rows are Bedrock's Converse rows, which the request names as a kind of their own.
    """
    target, options = receipt.target, receipt.target.options
    bucket = settings.bucket or PLACEHOLDERS["bucket"]
    region = settings.value_of("region") or PLACEHOLDERS["region"]
    role = settings.role_arn or PLACEHOLDERS["role_arn"]
    serverless: dict[str, Any] = {
        "BaseModelArn": model_arn(target.model, region),
        "JobType": "FineTuning",
        "CustomizationTechnique": TECHNIQUES.get(target.method, target.method.upper()),
    }
    if target.adapter == "lora":
        serverless["Peft"] = "LORA"  # nothing: all weights
    if options.get("sequence_length"):
        serverless["SequenceLength"] = options["sequence_length"]
    if options.get("accept_eula"):
        serverless["AcceptEula"] = True
    package = {"ModelPackageGroupArn": group_arn(settings, region)}
    if options.get("source_model_package"):
        package["SourceModelPackageArn"] = options["source_model_package"]
    output = {"S3OutputPath": f"s3://{bucket}/{settings.prefix.strip('/')}/output"}
    if settings.kms_key_id:
        output["KmsKeyId"] = settings.kms_key_id
    kind = "Converse" if converse else "S3Prefix"
    body: dict[str, Any] = {
        "RoleArn": role,
        "InputDataConfig": [
            _channel(channel, files[name].id, kind)
            for name, channel in (("train", "train"), ("validation", "validation"))
            if name in files
        ],
        "OutputDataConfig": output,
        "ServerlessJobConfig": serverless,
        "ModelPackageConfig": package,
    }
    if settings.subnet_ids or settings.security_group_ids:
        body["VpcConfig"] = {
            "SecurityGroupIds": list(settings.security_group_ids),
            "Subnets": list(settings.subnet_ids),
        }
    if settings.mlflow_arn:
        body["MlflowConfig"] = {"MlflowResourceArn": settings.mlflow_arn}
    if (seconds := options.get("max_runtime_seconds")) is not None:
        body["StoppingCondition"] = {"MaxRuntimeInSeconds": seconds}
    parameters = receipt.request_parameters()
    sent = parameters.pop("HyperParameters", {})
    if joined := join_hyperparameters(target.provider, options.get("extra_hyperparameters", {}), sent):
        body["HyperParameters"] = joined
    return deep_merge(body, parameters)


def _channel(name: str, uri: str, kind: str) -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def model_arn(model: str, region: str) -> str:
    """Return the ARN of a model of the public hub; SageMaker takes its latest version. An ARN stays as it is."""
    return model if model.startswith("arn:") else f"arn:aws:sagemaker:{region}:aws:hub-content/{HUB}/Model/{model}"


def group_arn(settings: SageMakerSettings, region: str) -> str:
    """Return the ARN of the group of model packages; the account is the role's."""
    group = settings.model_package_group or PLACEHOLDERS["model_package_group"]
    account = re.match(r"arn:aws[a-z-]*:iam::(\d{12}):", settings.role_arn or "")
    return f"arn:aws:sagemaker:{region}:{account[1] if account else '<account>'}:model-package-group/{group}"


def with_key(body: dict[str, Any], key: str, region: str) -> dict[str, Any]:
    """Return the body with the run key at the end of the job's name and as a tag, and with the `region` filled in."""
    keyed = copy.deepcopy(body)
    keyed["TrainingJobName"] = f"{keyed['TrainingJobName']}-{key}"
    keyed["Tags"] = [*keyed.get("Tags", []), {"Key": RUN_TAG, "Value": key}]
    for part, name in (("ServerlessJobConfig", "BaseModelArn"), ("ModelPackageConfig", "ModelPackageGroupArn")):
        if name in keyed.get(part, {}):
            keyed[part][name] = keyed[part][name].replace(PLACEHOLDERS["region"], region)
    return keyed


def with_sample_files(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with a well-formed address for every file that is only a placeholder ("<train file>")."""
    return fill_placeholders(body, _sources, "S3Uri")


def input_files(body: dict[str, Any]) -> list[str]:
    """Return the S3 addresses that a body reads from, without placeholders of files that are not uploaded yet."""
    return list_addresses(_sources(body), "S3Uri")


def _sources(body: dict[str, Any]) -> list[dict[str, Any]]:
    channels = body.get("InputDataConfig") or []
    return [(channel.get("DataSource") or {}).get("S3DataSource") or {} for channel in channels]
