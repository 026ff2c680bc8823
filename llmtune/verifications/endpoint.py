"""A server that speaks chat completions: questions to it, its answers as they came, and its tokens where it shows them.

Written after the servers' own descriptions (2026-11): chat completions with `logprobs` and streams
(`llmtune.server.protocol` names the page), `/apply-template` and `/tokenize` of llama.cpp's server
(github.com/ggml-org/llama.cpp, tools/server/README.md), `/tokenize` for conversations of vLLM (docs.vllm.ai).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from llmtune.data.example import ToolCall
from llmtune.errors import InvalidSettings, NotJudged, TransientError, VendorError
from llmtune.evaluation.cache import answer_key
from llmtune.provider.chat import FINISH_REASONS, BaseGenerator, chat_message
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.provider.http import Client

#: Seconds that each wait for an answer may take: a CPU may read a long prompt for a while.
TIMEOUT = 120.0

#: Questions at the same time.
CONCURRENCY = 4

#: Fields of a request that a server may refuse, and is then asked without.
OPTIONAL_FIELDS = ("logprobs", "seed", "max_tokens", "temperature")

#: HTTP statuses by which a server says that a field, or a whole path, is not for it.
_FIELD_REFUSED = (400, 422)
_NO_SUCH_PATH = (400, 404, 405, 415, 422, 501)

#: The seed that is sent, where the server takes one.
SEED = 0


@dataclass(frozen=True)
class ServerAnswer:
    """One answer as the server wrote it.

    `finish_reason` is its own word. `object_arguments` says that the arguments of a tool call came as an object and not
    as text. `reasoning` is what came beside the content. `logprobs` are those of the answer's tokens. `streamed` says
    that it came as a stream.
    """

    text: str
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    object_arguments: bool = False
    reasoning: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[float, ...] | None = None
    streamed: bool = False

    @property
    def generation(self) -> Generation:
        """The answer as any generator's."""
        return Generation(
            text=self.text,
            finish_reason=FINISH_REASONS.get(
                str(self.finish_reason), "stop" if self.text or self.tool_calls else "unknown"
            ),
            tool_calls=self.tool_calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )


@dataclass(frozen=True)
class PromptView:
    """What a server shows of a prompt: its tokens, and its text where it says that too."""

    tokens: tuple[int, ...]
    text: str | None = None


@dataclass
class Usage:
    """What was asked of a server, and the tokens that it counted; `counted` is False once an answer had no counts."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: ServerAnswer) -> None:
        """Count one answer."""
        with self.lock:
            self.requests += 1
            self.counted = self.counted and answer.prompt_tokens is not None
            self.prompt_tokens += answer.prompt_tokens or 0
            self.completion_tokens += answer.completion_tokens or 0


class Server(Protocol):
    """What a verification asks: an `Endpoint`, or what stands in the place of one."""

    address: str
    model: str | None
    usage: Usage
    refused: dict[str, str]
    concurrency: int
    """Questions at the same time."""

    def ask(
        self, request: GenerationRequest, *, stop: Sequence[str] = (), extra: Mapping[str, Any] | None = None
    ) -> ServerAnswer:
        """Ask one question. Raises `VendorError` where it is refused."""
        ...

    def stream(self, request: GenerationRequest) -> ServerAnswer:
        """Ask one question for a stream. Raises `VendorError` where it is refused, or breaks off."""
        ...

    def read_prompt(self, request: GenerationRequest) -> PromptView | None:
        """Return the tokens that the model is given for a request; None where they are not shown."""
        ...


class Endpoint:
    """A server that speaks chat completions.

    Args:
        address: http://host:port, with or without /v1 or /v1/chat/completions.
        model: the name to ask for; None asks the server for its only one.
        key_from: the environment variable that holds the key; None sends none.
        key: the key itself, of a server that was started for this.
        timeout: seconds that each wait for an answer may take.

    Raises:
        InvalidSettings: the address is none.
    """

    concurrency = CONCURRENCY

    def __init__(
        self,
        address: str,
        *,
        model: str | None = None,
        key_from: str | None = None,
        key: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        base, root = split_address(address)
        self.address = base
        self.model = model
        self.usage = Usage()
        self.refused: dict[str, str] = {}
        """Optional fields that the server refused, with its words."""

        self._chat = Client(base, key_env=key_from, timeout=timeout)
        self._root = Client(root, key_env=key_from, timeout=timeout)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._route: str | None = None
        self._lock = threading.Lock()

    # --- which model -------------------------------------------------------------------------------------------------
    def choose_model(self, otherwise: str) -> str:
        """Return the model to ask for: the one that was named, else the server's only one.

        Args:
            otherwise: the name for a server that lists none.

        Raises:
            NotJudged: nothing answers there, or the server has several models.
        """
        names = self._list_models()
        if self.model is None:
            if len(names) > 1:
                listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                raise NotJudged(f"{self.address} serves several models: {listed}", hint="name one with --model")
            self.model = names[0] if names else otherwise
        return self.model

    def _list_models(self) -> list[str]:
        try:
            body = self._chat.get("/models")
        except TransientError as error:
            if not error.sent and error.limit is None:
                raise NotJudged(f"nothing answers at {self.address}: {error.message}") from None
            return []
        except VendorError:
            return []
        entries = body.get("data") if isinstance(body, Mapping) else None
        return [
            entry["id"]
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)
        ]

    # --- answers -----------------------------------------------------------------------------------------------------
    def ask(
        self, request: GenerationRequest, *, stop: Sequence[str] = (), extra: Mapping[str, Any] | None = None
    ) -> ServerAnswer:
        """Ask one question. A field that the server refuses is left out from then on, and noted in `refused`.

        `stop` are texts that end the answer; `extra` are further fields of the body. Raises as `Client.send` does.
        """
        without: dict[str, str] = {}
        while True:
            body = self._body(request, self.refused | without)
            body |= dict(extra or {}) | ({"stop": list(stop)} if stop else {})
            try:
                answer = read_answer(self._chat.send("POST", "/chat/completions", body, headers=self._headers))
            except VendorError as error:
                without[_refused_field(error, body)] = error.message
                continue
            if without:
                with self._lock:
                    self.refused = self.refused | without
            self.usage.add(answer)
            return answer

    def stream(self, request: GenerationRequest) -> ServerAnswer:
        """Ask one question for a stream. Raises as `Client.send` does; `VendorError` for a stream that breaks off."""
        body = self._body(request, self.refused | {"logprobs": ""}) | {"stream": True}
        answer = read_stream(self._chat.receive("POST", "/chat/completions", body, headers=self._headers))
        self.usage.add(answer)
        return answer

    def _body(self, request: GenerationRequest, refused: Mapping[str, str]) -> dict[str, Any]:
        # Newer services take max_completion_tokens in the place of max_tokens.
        limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [chat_message(turn) for turn in request.messages],
            "temperature": request.temperature,
            limit: request.max_tokens,
            "seed": SEED,
            "logprobs": True,
        }
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        return {name: value for name, value in body.items() if value is not None and name not in refused}

    # --- prompts -----------------------------------------------------------------------------------------------------
    def read_prompt(self, request: GenerationRequest) -> PromptView | None:
        """Return the tokens that the server would give its model; None where it does not show them."""
        messages = [chat_message(turn) for turn in request.messages]
        tools = {"tools": [dict(tool) for tool in request.tools]} if request.tools else {}
        if self._route is None:
            for route in ("apply-template", "tokenize"):
                view = self._try_route(route, messages, tools)
                if view is not None:
                    self._route = route
                    return view
            self._route = ""
        return self._try_route(self._route, messages, tools) if self._route else None

    def _try_route(self, route: str, messages: list[Any], tools: dict[str, Any]) -> PromptView | None:
        try:
            if route == "tokenize":
                body = {"model": self.model, "messages": messages, "add_generation_prompt": True} | tools
                tokens = _read_tokens(self._read("/tokenize", body))
                return None if tokens is None else PromptView(tokens)
            applied = self._read("/apply-template", {"messages": messages} | tools)
            text = applied.get("prompt") if isinstance(applied, Mapping) else None
            if not isinstance(text, str):
                return None
            # The server adds to a prompt what its tokenizer adds to any text, so it is asked for that too.
            request = {"content": text, "add_special": True, "parse_special": True}
            tokens = _read_tokens(self._read("/tokenize", request))
            return None if tokens is None else PromptView(tokens, text)
        except TransientError:
            return None
        except VendorError as error:
            if error.status in _NO_SUCH_PATH:
                return None
            raise

    def _read(self, path: str, body: Any) -> Any:
        return self._root.send("POST", path, body, headers=self._headers, safe=True)


class EndpointGenerator(BaseGenerator):
    """A server as a generator, which keeps each answer as the server wrote it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.max_concurrency = server.concurrency
        self._answers: dict[str, ServerAnswer] = {}

    def answer(self, request: GenerationRequest) -> Generation:
        """Ask the server once."""
        answer = self._server.ask(request)
        self._answers[answer_key("", "text", request)] = answer
        return answer.generation

    def find_answer(self, request: GenerationRequest) -> ServerAnswer | None:
        """Return the answer to a request as the server wrote it; None where it was refused."""
        return self._answers.get(answer_key("", "text", request))


def split_address(address: str) -> tuple[str, str]:
    """Return the address that chat completions are under, and the one that a server's other paths are under.

    Raises `InvalidSettings` for one with a query, or with no host.
    """
    text = address.strip().rstrip("/").removesuffix("/chat/completions")
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        raise InvalidSettings(f"{address!r} has a query, which is not sent", hint="write it up to /v1")
    base = text if parts.path else f"{text}/v1"
    return base, base.removesuffix("/v1")


def _refused_field(error: VendorError, body: Mapping[str, Any]) -> str:
    """Return the optional field that a refusal is about: the one it names, else the next that is worth leaving out.

    Raises the error where it can be none.
    """
    fields = [name for name in OPTIONAL_FIELDS if name in body]
    text = f"{error.message} {error.raw or ''}".lower()
    named = [name for name in fields if name in text] or [name for name in fields if name in ("logprobs", "seed")]
    if error.status not in _FIELD_REFUSED or not named:
        raise error
    return named[0]


# --- reading ---------------------------------------------------------------------------------------------------------
def read_answer(body: Any) -> ServerAnswer:
    """Return a chat completion as the server wrote it. Raises `VendorError` for one that is none."""
    choice = _first_choice(body)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise VendorError("the answer holds no message", code="no_answer")
    calls = [_read_call(call) for call in _list(message.get("tool_calls"))]
    prompt_tokens, completion_tokens = _read_usage(body)
    return ServerAnswer(
        text=_read_text(message.get("content")) or _read_text(message.get("refusal")),
        finish_reason=_word(choice.get("finish_reason")),
        tool_calls=tuple(call for call, _ in calls),
        object_arguments=any(is_object for _, is_object in calls),
        reasoning=_read_text(message.get("reasoning_content")) or _read_text(message.get("reasoning")),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        logprobs=_read_logprobs(choice.get("logprobs")),
    )


def read_stream(content: bytes) -> ServerAnswer:
    """Return the whole of a streamed answer. Raises `VendorError` for an error in it, or where it breaks off."""
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):  # one answer, whole, in the place of a stream
        try:
            return read_answer(json.loads(text))
        except ValueError:
            raise VendorError("the streamed answer is neither events nor JSON", code="no_answer") from None
    stream = _Stream()
    for data in _events(text):
        if data == "[DONE]":
            stream.ended = True
            break
        try:
            chunk = json.loads(data)
        except ValueError:
            raise VendorError("an event of the stream is not JSON", code="no_answer") from None
        if isinstance(chunk, Mapping):
            stream.add(chunk)
    return stream.answer()


class _Stream:
    """A streamed answer, as far as it has been read."""

    def __init__(self) -> None:
        self.ended = False
        self._answered = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._objects = False
        self._finish_reason: str | None = None
        self._usage: tuple[int | None, int | None] = (None, None)

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add one event. Raises `VendorError` for an error in it."""
        if chunk.get("error"):
            raise VendorError(f"the stream ends in an error: {_describe_error(chunk['error'])}", code="no_answer")
        counts = _read_usage(chunk)
        self._usage = counts if counts[0] is not None else self._usage
        for choice in _list(chunk.get("choices"))[:1]:
            if isinstance(choice, Mapping):
                self._add_choice(choice)

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        self._answered = True
        self._finish_reason = _word(choice.get("finish_reason")) or self._finish_reason
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            return
        self._text.append(_read_text(delta.get("content")))
        self._reasoning.append(_read_text(delta.get("reasoning_content")) or _read_text(delta.get("reasoning")))
        for number, call in enumerate(_list(delta.get("tool_calls"))):
            self._objects = _add_call(self._calls, number, call) or self._objects

    def answer(self) -> ServerAnswer:
        """Return the answer. Raises `VendorError` where the stream broke off, or holds none."""
        if not self.ended and self._finish_reason is None:
            raise VendorError("the stream breaks off before the answer ends", code="no_answer")
        if not self._answered:
            raise VendorError("the stream ends without an answer", code="no_answer")
        calls = (call for _, call in sorted(self._calls.items()))
        return ServerAnswer(
            text="".join(self._text),
            finish_reason=self._finish_reason,
            tool_calls=tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in calls),
            object_arguments=self._objects,
            reasoning="".join(self._reasoning),
            prompt_tokens=self._usage[0],
            completion_tokens=self._usage[1],
            streamed=True,
        )


def _events(text: str) -> Iterator[str]:
    """Yield the data of server-sent events: lines of one event are joined, comments and other fields are left out."""
    lines: list[str] = []
    for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines).strip()
            lines = []


def _add_call(calls: dict[int, dict[str, str]], number: int, call: Any) -> bool:
    """Add a piece of a tool call to those so far; return whether its arguments came as an object."""
    if not isinstance(call, Mapping):
        return False
    index = call.get("index")
    call_so_far = calls.setdefault(index if isinstance(index, int) else number, {"id": "", "name": "", "arguments": ""})
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    call_so_far["id"] = str(call.get("id") or call_so_far["id"])
    call_so_far["name"] += str(function.get("name") or "")
    arguments = function.get("arguments")
    call_so_far["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
    return bool(arguments) and not isinstance(arguments, str)


def _first_choice(body: Any) -> Mapping[str, Any]:
    choices = _list(body.get("choices")) if isinstance(body, Mapping) else []
    if not choices or not isinstance(choices[0], Mapping):
        raise VendorError("the answer holds no choice", code="no_answer")
    return choices[0]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str | None:
    return value[:100] if isinstance(value, str) else None


def _read_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "".join(text for text in texts if isinstance(text, str))
    raise VendorError(f"the content of the answer is {type(content).__name__}, not text", code="no_answer")


def _read_call(call: Any) -> tuple[ToolCall, bool]:
    if not isinstance(call, Mapping):
        raise VendorError("a tool call of the answer is no object", code="no_answer")
    function = call.get("function")
    function = function if isinstance(function, Mapping) else call
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments if arguments is not None else {})
    is_object = arguments is not None and not isinstance(arguments, str)
    return ToolCall(str(call.get("id") or ""), str(function.get("name") or ""), text), is_object


def _read_usage(body: Any) -> tuple[int | None, int | None]:
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return None, None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (
        count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 40 else None
        for count in counts
    )
    # A server that does not count says 0: no prompt has no tokens.
    return (prompt or None), (completion if prompt else None)


def _read_logprobs(value: Any) -> tuple[float, ...] | None:
    entries = value.get("content") if isinstance(value, Mapping) else None
    if not isinstance(entries, list) or not entries:
        return None
    logprobs: list[float] = []
    for entry in entries:
        logprob = entry.get("logprob") if isinstance(entry, Mapping) else None
        if not isinstance(logprob, int | float) or not -1e6 < logprob <= 1e-3:
            return None
        logprobs.append(float(logprob))
    return tuple(logprobs)


def _read_tokens(body: Any) -> tuple[int, ...] | None:
    tokens = body.get("tokens") if isinstance(body, Mapping) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        return None
    return tuple(tokens)


def _describe_error(error: Any) -> str:
    message = error.get("message") if isinstance(error, Mapping) else error
    return str(message)[:200]
