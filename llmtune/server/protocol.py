"""Requests and responses of OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat (2026-11).

A parameter that tuned models do not support is refused by name: none is silently ignored.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmtune.data.findings import Finding
from llmtune.data.formats.chat import read_messages, read_tools
from llmtune.errors import InvalidData, LlmtuneError, QuotaExceeded, StoreUnavailable, TransientError, VendorError
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.redaction.documents import dump_json
from llmtune.redaction.secrets import scrub, scrub_error

#: Parameters accepted only with values that have no effect.
_NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
#: Labels of the caller, which do not affect the answer.
_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
_SUPPORTED = (
    *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
    *("seed", "stop", "stream", "stream_options", "tools"),
)


#: Most characters of an error's message and of the parameter that it names: both may quote what a client sent.
_MESSAGE, _PARAM = 4000, 200


class RequestError(Exception):
    """A refused request: HTTP status, OpenAI's error object, and the seconds of Retry-After (`wait`).

    A 429 without `wait` is a limit that waiting does not lift: clients are asked not to try again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: float | None = None
    ) -> None:
        message = message if len(message) <= _MESSAGE else f"{message[:_MESSAGE]}..."
        super().__init__(message)
        self.status = status
        self.wait = wait
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            status, "invalid_request_error" if status < 500 else "server_error"
        )
        if code == "insufficient_quota":
            kind = code  # https://platform.openai.com/docs/guides/error-codes (2026-11)
        param = None if param is None else param[:_PARAM]
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, error: Exception) -> RequestError:
        """Convert an exception to the error that the caller gets, with secrets masked."""
        if isinstance(error, RequestError):
            return error
        scrub_error(error)
        if isinstance(error, InvalidData):
            return cls(400, error.message, param="messages")
        if isinstance(error, QuotaExceeded):
            return cls(429, error.message, code="insufficient_quota")
        if isinstance(error, StoreUnavailable):
            return cls(503, error.message, code="unavailable", wait=1)
        if isinstance(error, TransientError):
            return cls(503, error.message, code="unavailable", wait=error.retry_after or 1)
        if isinstance(error, VendorError):
            return cls(502, error.message, code="backend_failed")
        if isinstance(error, LlmtuneError):
            return cls(500, error.message)
        return cls(500, "the model failed; see the log of `llmtune serve`")


@dataclass(frozen=True)
class ChatRequest:
    """A parsed request. `stop` are texts at which an answer ends."""

    model: str
    request: GenerationRequest
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    """Whether a stream ends with the token counts."""


def parse_chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Parse a request's body. Raises `RequestError` with the parameter that is invalid or not supported."""
    for name, value in body.items():
        if name in _SUPPORTED or name in _LABELS or value is None:
            continue
        if value not in _NO_EFFECT.get(name, ()):
            raise RequestError(
                400, f"{name} is not supported by this endpoint", param=name, code="unsupported_parameter"
            )
    if not isinstance(body.get("model"), str):
        raise RequestError(400, "model is missing: name one of GET /v1/models", param="model")
    findings: list[Finding] = []
    messages = read_messages(body.get("messages"), findings)
    tools = read_tools(body.get("tools"), None, findings) if body.get("tools") else ()
    first_error = next((finding for finding in findings if finding.severity == "error"), None)
    if first_error is not None:
        raise RequestError(400, first_error.message, param="messages")
    if not messages:
        raise RequestError(400, "messages is empty", param="messages")
    options = body.get("stream_options") or {}
    limits = [_read_number(body, name, int, 1, 1 << 20) for name in ("max_completion_tokens", "max_tokens")]
    temperature = _read_number(body, "temperature", float, 0, 2)
    request = GenerationRequest(
        messages=messages,
        tools=tuple(dict(tool) for tool in tools),
        temperature=1.0 if temperature is None else temperature,  # the API's default
        top_p=_read_number(body, "top_p", float, 0, 1),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        seed=_read_number(body, "seed", int, -(1 << 63), (1 << 63) - 1),
    )
    return ChatRequest(
        model=body["model"],
        request=request,
        stop=_read_stop(body.get("stop")),
        stream=bool(body.get("stream")),
        usage=bool(isinstance(options, dict) and options.get("include_usage")),
    )


def _read_number(body: Mapping[str, Any], name: str, kind: type, low: float, high: float) -> Any:
    value = body.get(name)
    if value is None:
        return None
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not low <= value <= high or (kind is int and value != int(value)):
        what = "a whole number" if kind is int else "a number"
        raise RequestError(400, f"{name} must be {what} from {low:g} to {high:g}", param=name)
    return kind(value)


def _read_stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(400, "stop must be a string or a list of up to four strings", param="stop")
    return tuple(texts)


@dataclass
class StopFilter:
    """A filter that passes an answer on up to the first stop text, holding back a possible beginning of one."""

    stop: tuple[str, ...]
    ended: bool = False
    _held: str = field(default="", init=False)

    def feed(self, text: str) -> str:
        """Take the next piece of the answer, and return the text that can be sent now."""
        if self.ended:
            return ""
        self._held += text
        positions = [at for stop_text in self.stop if (at := self._held.find(stop_text)) >= 0]
        if positions:
            self.ended = True
            return self._release(min(positions))
        keep = max((self._partial_match(stop_text) for stop_text in self.stop), default=0)
        return self._release(len(self._held) - keep)

    def flush(self) -> str:
        """Return the text held back, at the end of the answer."""
        return "" if self.ended else self._release(len(self._held))

    def _partial_match(self, stop: str) -> int:
        """Return how many characters at the end may be the beginning of this stop text."""
        return next((size for size in range(len(stop) - 1, 0, -1) if self._held.endswith(stop[:size])), 0)

    def _release(self, size: int) -> str:
        out, self._held = self._held[:size], self._held[size:]
        return out


class Writer:
    """Builds the response objects and stream chunks of one request."""

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._model = model
        self._created = int(time.time())

    def completion(self, answer: Generation, chat: ChatRequest) -> dict[str, Any]:
        """Build a chat.completion object."""
        stop_filter = StopFilter(chat.stop)
        text = scrub(stop_filter.feed(answer.text) + stop_filter.flush())
        content = text or None if answer.tool_calls else text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if answer.tool_calls:
            message["tool_calls"] = _calls(answer)
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": _finish_reason(answer, stop_filter),
            "logprobs": None,
        }
        completion = self._frame("chat.completion") | {"choices": [choice]}
        if (usage := _usage(answer)) is not None:
            completion["usage"] = usage
        return completion

    def first(self) -> bytes:
        """Build the chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """Build a chunk of text."""
        return self._chunk({"content": scrub(text)})

    def last(self, answer: Generation, stop_filter: StopFilter, *, usage: bool) -> bytes:
        """Build the last chunks: tool calls, finish reason, the usage if requested, and the end of the stream."""
        out = b""
        if answer.tool_calls:
            calls = [{"index": at} | call for at, call in enumerate(_calls(answer))]
            out += self._chunk({"tool_calls": calls})
        out += self._chunk({}, reason=_finish_reason(answer, stop_filter))
        if usage:
            frame = self._frame("chat.completion.chunk") | {"choices": [], "usage": _usage(answer)}
            out += _event(frame)
        return out + b"data: [DONE]\n\n"

    def error(self, error: RequestError) -> bytes:
        """Build the event for an error in the middle of a stream."""
        return _event(error.body)

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event(self._frame("chat.completion.chunk") | {"choices": [choice]})

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + dump_json(data, indent=False).encode() + b"\n\n"


def _calls(answer: Generation) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": scrub(call.arguments)}}
        for call in answer.tool_calls
    ]


def _finish_reason(answer: Generation, stop_filter: StopFilter) -> str:
    return "stop" if stop_filter.ended or answer.finish_reason == "unknown" else answer.finish_reason


def _usage(answer: Generation) -> dict[str, int] | None:
    """Return the token counts that the backend reports; None where it does not: they are never estimated."""
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if prompt is None or completion is None:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
