"""The body that creates a job: the vendor's envelope around the receipt's parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from llmtune.provider import Files, Receipt, Request, RunKey, deep_merge
from llmtune_openai.declarations import KEY_TAG, METHOD_WORDS
from llmtune_openai.services import Service

OPERATION = "POST /fine_tuning/jobs"

#: What `openai.resources.fine_tuning.jobs.create` takes by name; anything else goes through its `extra_body`.
SDK_FIELDS = frozenset(
    {
        "model",
        "training_file",
        "validation_file",
        "method",
        "hyperparameters",
        "suffix",
        "seed",
        "integrations",
        "metadata",
    }
)


def build(service: Service, receipt: Receipt, files: Files) -> Request:
    """Build the exact body, without the run key. Pure."""
    target = receipt.target
    body: dict[str, Any] = {"model": target.model, "training_file": files["train"].id}
    if "validation" in files:
        body["validation_file"] = files["validation"].id
    if service.lora_flag:
        body["hyperparameters"] = {"lora": target.adapter == "lora"}
    else:
        body["method"] = {"type": METHOD_WORDS.get(target.method, target.method)}
    body = deep_merge(body, receipt.request_parameters())
    if wandb := target.options.get("wandb"):
        body["integrations"] = [{"type": "wandb", "wandb": dict(wandb)}]
    left_out = set(service.left_out) - ({"method"} if target.method in service.methods_sent else set())
    sent = {name: value for name, value in body.items() if name not in left_out}
    return Request(operation=OPERATION, body=sent)


def keyed(service: Service, body: Mapping[str, Any], key: RunKey) -> dict[str, Any]:
    """Return the body with the run key where this service allows it."""
    tagged = copy.deepcopy(dict(body))
    if "metadata" in service.key_in:
        tagged["metadata"] = {**tagged.get("metadata", {}), KEY_TAG: key}
    if "suffix" in service.key_in:
        name = str(tagged.get("suffix") or "")[: service.longest_suffix - len(key) - 1].strip("-")
        tagged["suffix"] = f"{name}-{key}" if name else key
    return tagged


def carries(job: Mapping[str, Any], key: RunKey) -> bool:
    """Return whether a job shows the run key: in its metadata, its suffix, or the name of its model."""
    if (job.get("metadata") or {}).get(KEY_TAG) == key:
        return True
    names = (job.get("suffix"), job.get("user_provided_suffix"), job.get("fine_tuned_model"))
    return any(key in str(name) for name in names if name)


def for_sdk(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body as arguments of the SDK's call; what it does not know by name goes into `extra_body`."""
    arguments = {name: value for name, value in body.items() if name in SDK_FIELDS}
    extra = {name: value for name, value in body.items() if name not in SDK_FIELDS}
    return arguments | ({"extra_body": extra} if extra else {})
