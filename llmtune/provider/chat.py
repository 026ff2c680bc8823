"""Generators that make one call per request, and the chat completions format, which most vendors have taken over."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

from llmtune.data.example import ImagePart, Message, OtherPart, TextPart, ToolCall
from llmtune.errors import VendorError
from llmtune.provider.generation import Generation, GenerationRequest

#: Why an answer ends.
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "unknown"]

#: The fields of a chat completion, by our names for them. Vendors rename or lack some.
CHAT_FIELDS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "seed": "seed",
}

#: What chat completions say of why an answer ends.
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class BaseGenerator(ABC):
    """A model that is asked by one call per request. Nothing is held open, so closing frees nothing."""

    max_concurrency = 4
    """How many calls may run at once. Few vendors publish a limit; four are modest."""

    @abstractmethod
    def answer(self, request: GenerationRequest) -> Generation:
        """Ask the model once. Raises `TransientError` where trying again later is right."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Answer the requests one by one, each with the seconds that it took. Raises what `answer` raises."""
        return [self._answer_timed(request) for request in requests]

    def _answer_timed(self, request: GenerationRequest) -> Generation:
        start = time.monotonic()
        generation = self.answer(request)
        if generation.seconds is not None:
            return generation
        return replace(generation, seconds=time.monotonic() - start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class FunctionGenerator(BaseGenerator):
    """A generator that calls a function for each request.

    Args:
        answer: answers one request; raises `TransientError` where trying again later is right.
        max_concurrency: how many calls the vendor stands at once. >= 1.
    """

    def __init__(self, answer: Callable[[GenerationRequest], Generation], *, max_concurrency: int = 8) -> None:
        self._answer = answer
        self.max_concurrency = max_concurrency

    def answer(self, request: GenerationRequest) -> Generation:
        """Call the function."""
        return self._answer(request)


class ChatGenerator(BaseGenerator):
    """A model behind a chat completions endpoint.

    Args:
        model: the id that the endpoint knows.
        ask: sends the body of one chat completion and returns the answer as plain data.
        fields: the endpoint's names of sampling settings, by ours; what it lacks is left out.
    """

    def __init__(
        self,
        model: str,
        ask: Callable[[dict[str, Any]], Mapping[str, Any]],
        *,
        fields: Mapping[str, str] = CHAT_FIELDS,
    ) -> None:
        self._model = model
        self._ask = ask
        self._fields = fields

    def answer(self, request: GenerationRequest) -> Generation:
        """Ask the endpoint once."""
        body: dict[str, Any] = {"model": self._model, "messages": [self.message(turn) for turn in request.messages]}
        body |= sampling_settings(request, self._fields)
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        return read_completion(self._ask(body))

    def message(self, turn: Message) -> dict[str, Any]:
        """Return one turn as the endpoint takes it; override for one that takes less."""
        return chat_message(turn)


def sampling_settings(request: GenerationRequest, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a request that are set, under the vendor's names; `fields` holds those by ours."""
    values = {name: getattr(request, attribute) for attribute, name in fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def chat_message(turn: Message) -> dict[str, Any]:
    """Return one turn as chat completions take it: the role that training used, and no weight."""
    content = turn.words if turn.role == "tool" and not turn.images else _write_content(turn.content)
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        message["name"] = turn.name
    return message


def _write_content(content: str | tuple[TextPart | ImagePart | OtherPart, ...] | None) -> Any:
    if content is None or isinstance(content, str):
        return content
    return [_write_part(part) for part in content]


def _write_part(part: TextPart | ImagePart | OtherPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": part.url} | ({"detail": part.detail} if part.detail else {})}
    return dict(part.raw)


def read_completion(answer: Mapping[str, Any]) -> Generation:
    """Return a chat completion as ours. A refusal to answer counts as the text it was given in.

    Raises `VendorError` for an answer that holds none, which is no wrong answer of the model.
    """
    if not answer.get("choices"):
        raise VendorError("the answer holds no choice", code="no_answer")
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    usage = answer.get("usage") or {}
    return Generation(
        text=_read_text(message.get("content")) or _read_text(message.get("refusal")),
        finish_reason=FINISH_REASONS.get(str(choice.get("finish_reason")), "unknown"),
        tool_calls=tuple(_read_tool_call(call) for call in message.get("tool_calls") or ()),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
    )


def _read_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type") == "text")
    raise VendorError(f"the content of the answer is {type(content).__name__}, not text", code="no_answer")


def _read_tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(str(call.get("id") or ""), str(function.get("name") or ""), str(function.get("arguments") or ""))
