"""OpenAI's chat completions, read and written: https://platform.openai.com/docs/api-reference/chat (read 2026-11).

What a tuned model cannot do is refused by name: no parameter is silently ignored.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmtune.data.findings import Finding
from llmtune.data.formats.chat import read_messages, read_tools
from llmtune.errors import InvalidData, LlmtuneError, QuotaExceeded, TransientError, VendorError
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.redaction.secrets import scrub, scrub_error

#: Parameters that are taken only with the value that changes nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
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
#: Labels of the caller's own, which no answer depends on.
_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
_READ = (
    *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
    *("seed", "stop", "stream", "stream_options", "tools"),
)


class Refused(Exception):
    """A request that is not answered: HTTP status, and OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            status, "invalid_request_error" if status < 500 else "server_error"
        )
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, error: Exception) -> Refused:
        """What a failed question is to the caller."""
        if isinstance(error, Refused):
            return error
        scrub_error(error)
        if isinstance(error, InvalidData):
            return cls(400, error.message, param="messages")
        if isinstance(error, QuotaExceeded):
            return cls(429, error.message, code="insufficient_quota")
        if isinstance(error, TransientError):
            return cls(503, error.message, code="unavailable", wait=error.retry_after or 1)
        if isinstance(error, VendorError):
            return cls(502, error.message, code="backend_failed")
        if isinstance(error, LlmtuneError):
            return cls(500, error.message)
        return cls(500, "the model failed; the log of `llmtune serve` says how")


@dataclass(frozen=True)
class Asked:
    """A request, read. `stop` are texts at which an answer ends."""

    model: str
    request: GenerationRequest
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    """Whether a stream ends with the count of tokens."""


def read(found: Mapping[str, Any]) -> Asked:
    """Read a request's body. Raises `Refused` with the parameter that is wrong or that no tuned model takes."""
    for name, value in found.items():
        if name in _READ or name in _LABELS or value is None:
            continue
        if value not in _IDLE.get(name, ()):
            raise Refused(400, f"{name} is not supported by this endpoint", param=name, code="unsupported_parameter")
    if not isinstance(found.get("model"), str):
        raise Refused(400, "model is missing: name one of GET /v1/models", param="model")
    faults: list[Finding] = []
    messages = read_messages(found.get("messages"), faults)
    tools = read_tools(found.get("tools"), None, faults) if found.get("tools") else ()
    wrong = next((fault for fault in faults if fault.severity == "error"), None)
    if wrong is not None:
        raise Refused(400, wrong.message, param="messages")
    if not messages:
        raise Refused(400, "messages is empty", param="messages")
    options = found.get("stream_options") or {}
    most = [_number(found, name, int, 1, 1 << 20) for name in ("max_completion_tokens", "max_tokens")]
    warm = _number(found, "temperature", float, 0, 2)
    request = GenerationRequest(
        messages=messages,
        tools=tuple(dict(tool) for tool in tools),
        temperature=1.0 if warm is None else warm,  # the API's default
        top_p=_number(found, "top_p", float, 0, 1),
        max_tokens=next((each for each in most if each is not None), None),
        seed=_number(found, "seed", int, -(1 << 63), (1 << 63) - 1),
    )
    return Asked(
        model=found["model"],
        request=request,
        stop=_stop(found.get("stop")),
        stream=bool(found.get("stream")),
        usage=bool(isinstance(options, dict) and options.get("include_usage")),
    )


def _number(found: Mapping[str, Any], name: str, kind: type, low: float, high: float) -> Any:
    value = found.get(name)
    if value is None:
        return None
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right or not low <= value <= high or (kind is int and value != int(value)):
        what = "a whole number" if kind is int else "a number"
        raise Refused(400, f"{name} must be {what} from {low:g} to {high:g}", param=name)
    return kind(value)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(text, str) and text for text in texts):
        raise Refused(400, "stop must be a text or a list of up to four", param="stop")
    return tuple(texts)


@dataclass
class Cutter:
    """Lets an answer through up to the first stop text, holding back what might be the beginning of one."""

    stop: tuple[str, ...]
    ended: bool = False
    _held: str = field(default="", init=False)

    def more(self, text: str) -> str:
        """What of the answer may be sent now."""
        if self.ended:
            return ""
        self._held += text
        places = [at for each in self.stop if (at := self._held.find(each)) >= 0]
        if places:
            self.ended = True
            return self._let(min(places))
        keep = max((self._beginning(each) for each in self.stop), default=0)
        return self._let(len(self._held) - keep)

    def rest(self) -> str:
        """What was held back, at the end of the answer."""
        return "" if self.ended else self._let(len(self._held))

    def _beginning(self, stop: str) -> int:
        return next((size for size in range(len(stop) - 1, 0, -1) if self._held.endswith(stop[:size])), 0)

    def _let(self, size: int) -> str:
        out, self._held = self._held[:size], self._held[size:]
        return out


class Writer:
    """The answers to one request."""

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._model = model
        self._created = int(time.time())

    def whole(self, answer: Generation, asked: Asked) -> dict[str, Any]:
        """A chat.completion."""
        cutter = Cutter(asked.stop)
        text = scrub(cutter.more(answer.text) + cutter.rest())
        content = text or None if answer.tool_calls else text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if answer.tool_calls:
            message["tool_calls"] = _calls(answer)
        choice = {"index": 0, "message": message, "finish_reason": _reason(answer, cutter), "logprobs": None}
        found = self._frame("chat.completion") | {"choices": [choice]}
        if (usage := _usage(answer)) is not None:
            found["usage"] = usage
        return found

    def first(self) -> bytes:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """A chunk of text."""
        return self._chunk({"content": scrub(text)})

    def last(self, answer: Generation, cutter: Cutter, *, usage: bool) -> bytes:
        """Tool calls, the reason why the answer ended, the usage where it was asked for, and the end of the stream."""
        out = b""
        if answer.tool_calls:
            calls = [{"index": at} | call for at, call in enumerate(_calls(answer))]
            out += self._chunk({"tool_calls": calls})
        out += self._chunk({}, reason=_reason(answer, cutter))
        if usage:
            frame = self._frame("chat.completion.chunk") | {"choices": [], "usage": _usage(answer)}
            out += _event(frame)
        return out + b"data: [DONE]\n\n"

    def broken(self, refused: Refused) -> bytes:
        """An error in the middle of a stream."""
        return _event(refused.body)

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event(self._frame("chat.completion.chunk") | {"choices": [choice]})

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def _calls(answer: Generation) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": scrub(call.arguments)}}
        for call in answer.tool_calls
    ]


def _reason(answer: Generation, cutter: Cutter) -> str:
    return "stop" if cutter.ended or answer.finish_reason == "unknown" else answer.finish_reason


def _usage(answer: Generation) -> dict[str, int] | None:
    """The counts of tokens, where the backend tells them; they are never guessed."""
    prompt, said = answer.prompt_tokens, answer.completion_tokens
    if prompt is None or said is None:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


#: Told each piece of an answer; says whether the rest is still wanted.
Tell = Callable[[str], bool]
