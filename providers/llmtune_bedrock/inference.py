"""Asking models: Converse for base models and deployments; deployments made, found again and removed."""

from __future__ import annotations

import json
from typing import Any, Self

import llmtune.provider as core
from llmtune.data.example import Message, TextPart, ToolCall
from llmtune.errors import InvalidData, TransientError, VendorError
from llmtune.provider.chat import FinishReason
from llmtune_bedrock.client import Sdk
from llmtune_bedrock.declarations import RUN_TAG
from llmtune_bedrock.errors import CONFLICT
from llmtune_bedrock.rows import write_blocks, write_result, write_tool

#: How long a deployment may take to become usable, and the longest pause between two looks at it, in seconds.
DEPLOY_SECONDS = 3600.0
LOOK_SECONDS = 10.0

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}

_SETTINGS = {"temperature": "temperature", "top_p": "topP", "max_tokens": "maxTokens"}

#: Where each kind of deployment is listed: operation, key of the list, and keys of name and ARN in it.
_LISTS = {
    "on demand": (
        "list_custom_model_deployments",
        "modelDeploymentSummaries",
        "customModelDeploymentName",
        "customModelDeploymentArn",
    ),
    "provisioned": (
        "list_provisioned_model_throughputs",
        "provisionedModelSummaries",
        "provisionedModelName",
        "provisionedModelArn",
    ),
}


class ConverseGenerator(core.BaseGenerator):
    """One model behind Converse. A deployment is waited for when the generator is entered."""

    def __init__(self, sdk: Sdk, model_id: str, deployment: core.DeploymentRef | None = None) -> None:
        self._sdk = sdk
        self._model_id = model_id
        self._deployment = deployment

    def __enter__(self) -> Self:
        if self._deployment is not None:
            wait(self._sdk, self._deployment)
        return self

    def answer(self, request: core.GenerationRequest) -> core.Generation:
        """Ask the model once."""
        body = converse(request)
        with self._sdk.translate_errors(f"asking {self._model_id}"):
            return generation(self._sdk.runtime.converse(modelId=self._model_id, **body))


def converse(request: core.GenerationRequest) -> dict[str, Any]:
    """Convert a request to Converse's arguments. Raises `InvalidData` for what Converse cannot be asked with."""
    system: list[dict[str, str]] = []
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role == "system":
            system.append({"text": message.words})
            continue
        role = "assistant" if message.role == "assistant" else "user"
        content = _content(message)
        if messages and messages[-1]["role"] == role:  # Converse wants turns to alternate
            messages[-1]["content"] += content
        else:
            messages.append({"role": role, "content": content})
    body: dict[str, Any] = {"messages": messages, "inferenceConfig": core.sampling_settings(request, _SETTINGS)}
    if system:
        body["system"] = system
    if request.tools:
        body["toolConfig"] = {"tools": [_tool(tool) for tool in request.tools]}
    return body


def _content(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [write_result(message)]
    parts = () if isinstance(message.content, str) else message.content or ()
    if any(not isinstance(part, TextPart) and not getattr(part, "url", "").startswith("s3://") for part in parts):
        raise InvalidData("Converse is asked with text and with images in S3 only (s3://...)")
    # Converse takes no empty text and no empty turn.
    return [block for block in write_blocks(message) if block.get("text") != ""] or [{"text": " "}]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    taken = ("name", "description", "parameters")
    return write_tool({"function": {key: function[key] for key in taken if function.get(key)}})


def generation(answer: dict[str, Any]) -> core.Generation:
    """Convert a Converse answer."""
    blocks = ((answer.get("output") or {}).get("message") or {}).get("content") or []
    usage = answer.get("usage") or {}
    calls = tuple(
        ToolCall(id=use["toolUseId"], name=use["name"], arguments=json.dumps(use["input"]))
        for use in (block.get("toolUse") for block in blocks)
        if use
    )
    return core.Generation(
        text="".join(block.get("text", "") for block in blocks),
        finish_reason=_FINISH.get(str(answer.get("stopReason")), "unknown"),
        tool_calls=calls,
        prompt_tokens=usage.get("inputTokens"),
        completion_tokens=usage.get("outputTokens"),
    )


# --- deployments ---------------------------------------------------------------------------------------------------
def name_for(key: core.RunKey) -> str:
    """Return the name of a run's deployment, by which it is found again."""
    return f"llmtune-{key}"


def deploy(sdk: Sdk, model: core.ModelRef, key: core.RunKey, *, on_demand: bool) -> core.DeploymentRef | None:
    """Start serving a custom model: on demand where its base allows that, else on bought throughput if allowed."""
    tags = [{"key": RUN_TAG, "value": key}]
    name = name_for(key)
    if on_demand:
        with sdk.translate_errors(f"deploying {model.id} on demand"):
            answer = sdk.bedrock.create_custom_model_deployment(
                modelDeploymentName=name, modelArn=model.id, tags=tags, clientRequestToken=key
            )
        return core.DeploymentRef(id=answer["customModelDeploymentArn"], data={"kind": "on demand", "model": model.id})
    units = sdk.settings.provisioned_units
    if units is None:
        return None
    with sdk.translate_errors(f"buying provisioned throughput for {model.id}"):
        answer = sdk.bedrock.create_provisioned_model_throughput(
            modelUnits=units, provisionedModelName=name, modelId=model.id, tags=tags, clientRequestToken=key
        )
    return core.DeploymentRef(id=answer["provisionedModelArn"], data={"kind": "provisioned", "model": model.id})


def find(sdk: Sdk, key: core.RunKey) -> core.DeploymentRef | None:
    """Find the deployment of that run, on demand or provisioned."""
    name = name_for(key)
    with sdk.translate_errors("looking for the run's deployment"):
        for kind, (operation, summaries, name_key, arn_key) in _LISTS.items():
            for page in sdk.bedrock.get_paginator(operation).paginate(nameContains=name):
                for entry in page.get(summaries, []):
                    if entry[name_key] == name:
                        return core.DeploymentRef(id=entry[arn_key], data={"kind": kind, "model": entry["modelArn"]})
    return None


def look(sdk: Sdk, ref: core.DeploymentRef) -> tuple[str, str]:
    """Return state and failure message of a deployment, in AWS's words."""
    with sdk.translate_errors(f"looking at the deployment {ref.id}"):
        if is_provisioned(ref):
            answer = sdk.bedrock.get_provisioned_model_throughput(provisionedModelId=ref.id)
        else:
            answer = sdk.bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=ref.id)
    return str(answer["status"]), str(answer.get("failureMessage") or "")


def wait(sdk: Sdk, ref: core.DeploymentRef) -> None:
    """Wait until a deployment answers. Raises `VendorError` when it fails or takes longer than an hour."""
    for _ in core.growing_pauses(DEPLOY_SECONDS, longest=LOOK_SECONDS):
        status, message = look(sdk, ref)
        if status in ("Active", "InService"):
            return
        if status == "Failed":
            raise VendorError(f"the deployment {ref.id} failed: {message or 'AWS does not say why'}", raw=message)
    raise VendorError(f"the deployment {ref.id} is still {status} after an hour; undeploy it or wait on")


def undeploy(sdk: Sdk, ref: core.DeploymentRef) -> None:
    """Remove a deployment; quietly done when it is gone already."""
    try:
        with core.ignore_not_found(), sdk.translate_errors(f"removing the deployment {ref.id}"):
            if is_provisioned(ref):
                sdk.bedrock.delete_provisioned_model_throughput(provisionedModelId=ref.id)
            else:
                sdk.bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=ref.id)
    except VendorError as error:
        if error.code != CONFLICT:
            raise
        raise TransientError(  # it is still being made: the same call is right a little later
            f"the deployment {ref.id} cannot be removed just now: {error.raw}", retry_after=LOOK_SECONDS, sent=False
        ) from error


def is_provisioned(ref: core.DeploymentRef) -> bool:
    """Return whether the deployment is bought throughput rather than on demand."""
    return ref.data.get("kind") == "provisioned" or ":provisioned-model/" in ref.id
