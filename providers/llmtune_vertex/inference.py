"""Asking Gemini: a tuned endpoint, a checkpoint's endpoint, or a base model; and removing what a job left standing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal, Self

from llmtune.data.example import Example, ToolCall
from llmtune.provider import Generation, GenerationRequest, ModelRef
from llmtune_vertex import responses
from llmtune_vertex.client import Sdk
from llmtune_vertex.rows import GeminiRows

#: Google publishes requests a minute rather than at once; four at once is modest.
CONCURRENCY = 4

#: Seconds until removing an endpoint or a model is given up.
REMOVE_SECONDS = 300.0

Finish = Literal["stop", "length", "tool_calls", "content_filter", "unknown"]

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
}

#: Thinking tokens count against `max_tokens`, and tuned models answer best with little thinking (Google Cloud, About
#: supervised fine-tuning, 2026): where thinking can be switched off, it is.
_NO_THINKING = ("gemini-2.5-flash",)


class GeminiGenerator:
    """One model behind generateContent; nothing is held open."""

    max_concurrency = CONCURRENCY

    def __init__(self, sdk: Sdk, model: ModelRef, location: str | None) -> None:
        self._sdk = sdk
        self._model = model
        self._location = location

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free: the endpoint stands until the model is deleted, and bills by the token only."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """One answer per request, in order."""
        return [self._ask(request) for request in requests]

    def _ask(self, request: GenerationRequest) -> Generation:
        contents, config = arguments(request, self._model.base or self._model.id)
        client = self._sdk.genai(self._location)
        started = time.monotonic()
        with self._sdk.calling(f"asking {self._model.id}"):
            answer = client.models.generate_content(model=self._model.id, contents=contents, config=config)
            told = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        return generation(told, time.monotonic() - started)


def arguments(request: GenerationRequest, base: str) -> tuple[list[Any], dict[str, Any]]:
    """A request as the arguments of generate_content: (contents, config)."""
    row = GeminiRows().write(Example(messages=request.messages, tools=request.tools))
    settings = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "max_output_tokens": request.max_tokens,
        "seed": request.seed,
    }
    config: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if "systemInstruction" in row:
        config["system_instruction"] = row["systemInstruction"]
    if row.get("tools"):
        config["tools"] = row["tools"]
    if any(base.startswith(each) for each in _NO_THINKING):
        config["thinking_config"] = {"thinking_budget": 0}
    return list(row["contents"]), config


def generation(answer: dict[str, Any], seconds: float | None = None) -> Generation:
    """A generateContent answer as ours; thoughts are left out of the text."""
    candidate: dict[str, Any] = next(iter(answer.get("candidates") or []), {})
    parts = (candidate.get("content") or {}).get("parts") or []
    usage = answer.get("usageMetadata") or {}
    calls = tuple(
        ToolCall(id=call.get("id") or f"call_{index}", name=call["name"], arguments=json.dumps(call.get("args") or {}))
        for index, call in enumerate(part["functionCall"] for part in parts if part.get("functionCall"))
    )
    finish: Finish = _FINISH.get(str(candidate.get("finishReason")), "unknown")
    return Generation(
        text="".join(part.get("text", "") for part in parts if not part.get("thought")),
        finish_reason="tool_calls" if calls and finish == "stop" else finish,
        tool_calls=calls,
        prompt_tokens=usage.get("promptTokenCount"),
        completion_tokens=usage.get("candidatesTokenCount"),
        seconds=seconds,
    )


def remove(sdk: Sdk, ref: ModelRef) -> None:
    """Remove a tuned model with its endpoint; quietly done when they are gone. Base models are left alone."""
    if not ref.tuned:
        return
    sdk.gapic("ModelServiceClient", responses.location_of(ref.id) or sdk.location)  # says what is missing, if it is
    from google.api_core.exceptions import NotFound

    with sdk.calling(f"removing {ref.id}"):
        if "/endpoints/" in ref.id:
            location = responses.location_of(ref.id) or sdk.location
            client = sdk.gapic("EndpointServiceClient", location)
            try:
                endpoint = client.get_endpoint(name=ref.id, retry=None)
                for deployed in endpoint.deployed_models:
                    client.undeploy_model(endpoint=ref.id, deployed_model_id=deployed.id).result(REMOVE_SECONDS)
                client.delete_endpoint(name=ref.id).result(REMOVE_SECONDS)
            except NotFound:
                pass
        if model := ref.data.get("model") or (ref.id if "/models/" in ref.id else None):
            location = responses.location_of(model) or sdk.location
            try:
                name = str(model).partition("@")[0]
                sdk.gapic("ModelServiceClient", location).delete_model(name=name).result(REMOVE_SECONDS)
            except NotFound:
                pass
