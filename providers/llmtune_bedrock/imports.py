"""Weights that were trained elsewhere, imported into Bedrock (CreateModelImportJob).

Source: botocore's service model `bedrock` (1.44.5): the job, its states InProgress, Completed and Failed, and the
client token, which makes the same call start the same job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import llmtune.provider as core
from llmtune.errors import InvalidData, TransientError
from llmtune_bedrock import service_model
from llmtune_bedrock.client import Sdk
from llmtune_bedrock.declarations import RUN_TAG
from llmtune_bedrock.files import S3

COST = (
    "Bedrock bills an imported model by the minute while copies of it answer (none while it is not asked), and its"
    " storage by the month, at prices that llmtune does not know (AWS, Bedrock pricing, Custom Model Import; seen"
    " 2026-11-30); the import itself is not billed by the token"
)
_STATES: dict[str, Literal["running", "succeeded", "failed"]] = {"Completed": "succeeded", "Failed": "failed"}
_LONGEST_NAME = 63


def find(sdk: Sdk, key: core.RunKey) -> core.WeightImport | None:
    """Return the last import whose job name carries the key, with its model or the reason of its failure."""
    jobs = _jobs(sdk, key)
    return _describe(sdk, jobs[-1]["jobArn"]) if jobs else None


def start(sdk: Sdk, storage: S3, folder: Path, name: str, key: core.RunKey) -> core.WeightImport:
    """Upload the folder's files, those that are there already left out, and start the import: one call by its token.

    Raises:
        InvalidData: the folder holds no weights as safetensors.
    """
    settings = sdk.settings
    settings.require(sdk.name, "bucket", "role_arn")
    earlier = len(_jobs(sdk, key))  # every one of them has failed
    job_name = _job_name(name, key, earlier)
    body: dict[str, Any] = {
        "jobName": job_name,
        "importedModelName": job_name,
        "roleArn": settings.role_arn,
        "modelDataSource": {"s3DataSource": {"s3Uri": _upload(storage, folder)}},
        "jobTags": [{"key": RUN_TAG, "value": key}],
        "importedModelTags": [{"key": RUN_TAG, "value": key}],
        "clientRequestToken": f"{key}-import-{earlier}",
    }
    if settings.kms_key_id:
        body["importedModelKmsKeyId"] = settings.kms_key_id
    if faults := service_model.faults("bedrock", "CreateModelImportJob", body):
        raise InvalidData("AWS would refuse the import: " + "; ".join(f"{path} {fault}" for path, fault in faults))
    with sdk.translate_errors("starting the import"):
        answer = sdk.bedrock.create_model_import_job(**body)
    if "jobArn" not in answer:
        raise TransientError("AWS's answer to the new import could not be read", sent=True, raw=str(answer))
    return _describe(sdk, answer["jobArn"])


def _job_name(name: str, key: core.RunKey, earlier: int) -> str:
    """Return a name that holds the key: letters, digits and single hyphens, at most 63."""
    end = f"-{key}" + (f"-{earlier}" if earlier else "")
    plain = re.sub(r"[^0-9a-zA-Z]+", "-", name).strip("-")[: _LONGEST_NAME - len(end)].strip("-")
    return f"{plain or 'llmtune'}{end}"


def _upload(storage: S3, folder: Path) -> str:
    """Send the files of a folder under a prefix that their content names; return the prefix's address."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    names = {path.name for path in paths}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InvalidData(
            f"{folder} holds no model as config.json and *.safetensors, which is what Bedrock imports",
            hint="export one with llmtune export RUN --format merged",
        )
    digests = {path: _digest(path) for path in paths}
    content = hashlib.sha256("".join(f"{path.name} {digest}\n" for path, digest in digests.items()).encode())
    prefix = f"{storage.folder}import/{content.hexdigest()[:32]}/"
    for path, digest in digests.items():
        size = path.stat().st_size
        if storage.size(storage.bucket, prefix + path.name) == size:  # an earlier call came this far
            continue
        file = core.EncodedFile(role="train", path=path, sha256=digest, rows=0, bytes=size, format="weights")
        storage.put(file, storage.bucket, prefix + path.name)
    return storage.uri(storage.bucket, prefix)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _jobs(sdk: Sdk, key: core.RunKey) -> list[Mapping[str, Any]]:
    """Return the imports whose names carry the key, oldest first."""
    with sdk.translate_errors("looking for the import"):
        pages = sdk.bedrock.get_paginator("list_model_import_jobs").paginate(nameContains=key)
        jobs = [job for page in pages for job in page.get("modelImportJobSummaries", [])]
    return sorted(jobs, key=lambda job: str(job.get("creationTime")))


def _describe(sdk: Sdk, arn: str) -> core.WeightImport:
    with sdk.translate_errors(f"looking at the import {arn}"):
        answer = sdk.bedrock.get_model_import_job(jobIdentifier=arn)
    raw_state = str(answer.get("status"))
    model = answer.get("importedModelArn")
    name = str(answer.get("importedModelName") or "")
    notes = [COST]
    if model:
        notes.append(f"it is asked through boto3's bedrock-runtime under modelId {model}")
        notes.append(f"remove it: aws bedrock delete-imported-model --model-identifier {name}")
    return core.WeightImport(
        id=arn,
        state=_STATES.get(raw_state, "running"),
        raw_state=raw_state,
        name=name,
        model=model,
        error=answer.get("failureMessage") if raw_state == "Failed" else None,
        notes=tuple(notes),
    )
