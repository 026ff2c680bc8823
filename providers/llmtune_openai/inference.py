"""A model that answers through the chat API: base, tuned, checkpoint or deployment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from llmtune.data.example import ImagePart, Message, OtherPart, TextPart, ToolCall
from llmtune.provider import Generation

if TYPE_CHECKING:
    from llmtune.provider import GenerationRequest
    from llmtune_openai.client import Connection

_REASONS: dict[str, Any] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChatGenerator:
    """Asks one model. Nothing is held open, so closing does nothing.

    Calls may run in several threads: no limit is published for a single account, and four stay polite.
    """

    max_concurrency = 4

    def __init__(self, connection: Connection, model: str, max_tokens_word: str) -> None:
        self._connection = connection
        self._model = model
        self._max_tokens_word = max_tokens_word

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer per request, in order."""
        return [self._one(request) for request in requests]

    def _one(self, request: GenerationRequest) -> Generation:
        body = question(self._model, request, self._max_tokens_word)
        began = time.monotonic()
        answer = self._connection.ask(lambda sdk: sdk.chat.completions.with_raw_response.create(**body))
        return generation(answer, time.monotonic() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def question(model: str, request: GenerationRequest, max_tokens_word: str) -> dict[str, Any]:
    """The body of one chat completion."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [message(turn) for turn in request.messages],
        "temperature": request.temperature,
    }
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.max_tokens is not None:
        body[max_tokens_word] = request.max_tokens
    if request.seed is not None:
        body["seed"] = request.seed
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    return body


def message(turn: Message) -> dict[str, Any]:
    """One turn as the chat API takes it; a training weight has no place in a question."""
    spoken: dict[str, Any] = {"role": turn.raw_role or turn.role, "content": _content(turn.content)}
    if turn.tool_calls:
        spoken["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    if turn.tool_call_id is not None:
        spoken["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        spoken["name"] = turn.name
    return spoken


def _content(content: str | tuple[TextPart | ImagePart | OtherPart, ...] | None) -> Any:
    if content is None or isinstance(content, str):
        return content
    return [_part(part) for part in content]


def _part(part: TextPart | ImagePart | OtherPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": part.url} | ({"detail": part.detail} if part.detail else {})}
    return dict(part.raw)


def generation(answer: Mapping[str, Any], seconds: float) -> Generation:
    """What came back. A refusal to answer counts as the text it was given in."""
    choice = (answer.get("choices") or [{}])[0]
    spoken = choice.get("message") or {}
    usage = answer.get("usage") or {}
    calls = tuple(
        ToolCall(
            id=str(call.get("id") or ""),
            name=str((call.get("function") or {}).get("name") or ""),
            arguments=str((call.get("function") or {}).get("arguments") or ""),
        )
        for call in spoken.get("tool_calls") or ()
    )
    return Generation(
        text=str(spoken.get("content") or spoken.get("refusal") or ""),
        finish_reason=_REASONS.get(str(choice.get("finish_reason")), "unknown"),
        tool_calls=calls,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        seconds=seconds,
    )
