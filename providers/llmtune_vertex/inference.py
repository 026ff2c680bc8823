"""Asking Gemini: a tuned endpoint, a checkpoint's endpoint, or a base model; and removing what a job left standing."""

from __future__ import annotations

import json
from typing import Any

import llmtune.provider as core
from llmtune.data.example import Example, ToolCall
from llmtune.provider.chat import FinishReason
from llmtune_vertex import responses
from llmtune_vertex.client import Sdk
from llmtune_vertex.rows import GeminiRows

#: Seconds until removing an endpoint or a model is given up.
REMOVE_SECONDS = 300.0

_FILTERED = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")
_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(_FILTERED, "content_filter"),
}

_SETTINGS = {**core.CHAT_FIELDS, "top_k": "top_k", "max_tokens": "max_output_tokens"}

#: Thinking tokens count against `max_tokens`, and tuned models answer best with little thinking (Google Cloud, About
#: supervised fine-tuning, 2026): where thinking can be switched off, it is.
_NO_THINKING = ("gemini-2.5-flash",)


class GeminiGenerator(core.BaseGenerator):
    """One model behind generateContent. Its endpoint stands until the model is deleted, and bills by the token only."""

    def __init__(self, sdk: Sdk, model: core.ModelRef, location: str | None) -> None:
        self._sdk = sdk
        self._model = model
        self._location = location

    def answer(self, request: core.GenerationRequest) -> core.Generation:
        """Ask the model once."""
        contents, config = arguments(request, self._model.base or self._model.id)
        client = self._sdk.genai(self._location)
        with self._sdk.translate_errors(f"asking {self._model.id}"):
            answer = client.models.generate_content(model=self._model.id, contents=contents, config=config)
            return generation(answer.model_dump(mode="json", by_alias=True, exclude_none=True))


def arguments(request: core.GenerationRequest, base: str) -> tuple[list[Any], dict[str, Any]]:
    """Convert a request to the arguments of generate_content: (contents, config)."""
    row = GeminiRows().write(Example(messages=request.messages, tools=request.tools))
    config = core.sampling_settings(request, _SETTINGS)
    if "systemInstruction" in row:
        config["system_instruction"] = row["systemInstruction"]
    if row.get("tools"):
        config["tools"] = row["tools"]
    if any(base.startswith(prefix) for prefix in _NO_THINKING):
        config["thinking_config"] = {"thinking_budget": 0}
    return list(row["contents"]), config


def generation(answer: dict[str, Any]) -> core.Generation:
    """Convert a generateContent answer; thoughts are left out of the text."""
    candidate: dict[str, Any] = next(iter(answer.get("candidates") or []), {})
    parts = (candidate.get("content") or {}).get("parts") or []
    usage = answer.get("usageMetadata") or {}
    calls = tuple(
        ToolCall(id=call.get("id") or f"call_{index}", name=call["name"], arguments=json.dumps(call.get("args") or {}))
        for index, call in enumerate(part["functionCall"] for part in parts if part.get("functionCall"))
    )
    finish: FinishReason = _FINISH.get(str(candidate.get("finishReason")), "unknown")
    return core.Generation(
        text="".join(part.get("text", "") for part in parts if not part.get("thought")),
        finish_reason="tool_calls" if calls and finish == "stop" else finish,
        tool_calls=calls,
        prompt_tokens=usage.get("promptTokenCount"),
        completion_tokens=usage.get("candidatesTokenCount"),
    )


def remove(sdk: Sdk, ref: core.ModelRef | core.DeploymentRef) -> None:
    """Remove a tuned model with its endpoint; quietly done when they are gone. Base models are left alone."""
    if isinstance(ref, core.ModelRef) and not ref.tuned:
        return
    if "/endpoints/" in ref.id:
        endpoints = sdk.rest(responses.location_of(ref.id) or sdk.location)
        with core.ignore_not_found(), sdk.translate_errors(f"removing {ref.id}"):
            for deployed in endpoints.get(ref.id).get("deployedModels") or ():
                body = {"deployedModelId": deployed["id"]}
                endpoints.wait(endpoints.post(f"{ref.id}:undeployModel", body), REMOVE_SECONDS)
            endpoints.wait(endpoints.delete(ref.id), REMOVE_SECONDS)
    if model := ref.data.get("model") or (ref.id if "/models/" in ref.id else None):
        name = str(model).partition("@")[0]
        models = sdk.rest(responses.location_of(name) or sdk.location)
        with core.ignore_not_found(), sdk.translate_errors(f"removing {name}"):
            models.wait(models.delete(name), REMOVE_SECONDS)
