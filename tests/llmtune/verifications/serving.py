"""A server in this process that speaks chat completions, and answers with a real model: sound, and wrong in one way.

`ModelServer` is the sound one. A wrong server, or one that only looks different, is a subclass that overrides one step:
how a conversation is rendered, how an answer is generated, how it is written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

from llmtune.data.example import Message
from llmtune.data.formats.chat import read_messages
from llmtune.provider.generation import GenerationRequest
from llmtune_local.inference.tool_call_parser import read_calls

if TYPE_CHECKING:
    from llmtune_local.inference.generator import LocalGenerator

Body = dict[str, Any]


class Refused(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass
class Made:
    """An answer before it is written: its tokens without the one that ends it, and how it ended."""

    tokens: list[int]
    finish: str
    logprobs: list[float]
    prompt_tokens: int


class Model:
    """A loaded model that generates greedily, token by token; what was generated once is remembered."""

    def __init__(self, generator: LocalGenerator) -> None:
        self.network, self.renderer = generator._load()
        self.tokenizer = self.renderer.tokenizer
        self.stops = self.renderer.stop_ids
        self._lock = threading.Lock()
        self._made: dict[Any, Made] = {}

    def generate(
        self, prompt: Sequence[int], limit: int, *, stops: frozenset[int] | None = None, choose: Any = None
    ) -> Made:
        ends = self.stops if stops is None else stops
        key = (tuple(prompt), limit, ends)
        with self._lock:
            if choose is None and key in self._made:
                return self._made[key]
            made = self._run(list(prompt), limit, ends, choose)
            if choose is None:
                self._made[key] = made
            return made

    def _run(self, prompt: list[int], limit: int, ends: frozenset[int], choose: Any) -> Made:
        import torch

        tokens: list[int] = []
        logprobs: list[float] = []
        cache, ids = None, torch.tensor([prompt])
        with torch.no_grad(), self.network.autocast(), self.network.unpacked():
            while len(tokens) < limit:
                output = self.network.causal(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, logits = output.past_key_values, output.logits[0, -1].float()
                token = int(logits.argmax()) if choose is None else int(choose(logits, [*prompt, *tokens]))
                logprobs.append(float(torch.log_softmax(logits, -1)[token]))
                if token in ends:
                    return Made(tokens, "stop", logprobs, len(prompt))
                tokens.append(token)
                ids = torch.tensor([[token]])
        return Made(tokens, "length", logprobs, len(prompt))


class ModelServer:
    """A sound server. `shows` is what it shows of prompts: routes of "llama" or "vllm", "counts" only, or "nothing"."""

    shows: ClassVar[str] = "counts"
    models: ClassVar[tuple[str, ...] | None] = ("tuned",)

    def __init__(self, model: Model, **others: Model) -> None:
        self.model = model
        self.others = others
        self.asked = 0

    # --- steps that a subclass overrides ---------------------------------------------------------------------------
    def text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        return self.model.renderer.render_prompt(messages, tools)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.tokens(self.text(messages, tools))

    def tokens(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        return self.model.generate(prompt, limit)

    def decode(self, made: Made) -> str:
        return str(self.model.tokenizer.decode(made.tokens, skip_special_tokens=True))

    def check(self, body: Body) -> None:
        """Refuse a request, or do not."""

    def message(self, text: str, body: Body) -> Body:
        content, calls = read_calls(text.strip()) if body.get("tools") else (text, ())
        message: Body = {"role": "assistant", "content": content}
        if calls:
            message["content"] = content or None
            message["tool_calls"] = [
                {"id": f"call_{n}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for n, call in enumerate(calls)
            ]
        return message

    def finish(self, made: Made, message: Body) -> str | None:
        return "tool_calls" if message.get("tool_calls") and made.finish == "stop" else made.finish

    def usage(self, made: Made) -> Body | None:
        ended = made.finish == "stop"
        counts = {"prompt_tokens": made.prompt_tokens, "completion_tokens": len(made.tokens) + ended}
        return counts | {"total_tokens": sum(counts.values())}

    def logprobs(self, made: Made, body: Body) -> Body | None:
        return None

    def limit(self, body: Body) -> int:
        return int(body.get("max_tokens") or body.get("max_completion_tokens") or 64)

    def stops(self, body: Body) -> list[str]:
        return list(body.get("stop") or [])

    def complete(self, body: Body) -> Body:
        messages = read_messages(body["messages"], [])
        prompt = self.prompt(messages, body.get("tools") or [])
        made = self.generate(prompt, self.limit(body), body)
        text = self.decode(made)
        for stop in self.stops(body):
            if stop in text:
                text, made = text.partition(stop)[0], Made(made.tokens, "stop", made.logprobs, made.prompt_tokens)
        message = self.message(text, body)
        choice = {"index": 0, "message": message, "finish_reason": self.finish(made, message)}
        if (logprobs := self.logprobs(made, body)) is not None:
            choice["logprobs"] = logprobs
        answer: Body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        answer["choices"] = [choice]
        if (usage := self.usage(made)) is not None:
            answer["usage"] = usage
        return answer

    # --- writing ---------------------------------------------------------------------------------------------------
    def write(self, answer: Any) -> bytes:
        return json.dumps(answer, ensure_ascii=False).encode()

    def pieces(self, text: str) -> list[str]:
        return [text[start : start + 5] for start in range(0, len(text), 5)]

    def events(self, answer: Body) -> Iterator[str]:
        choice = answer["choices"][0]
        message = choice["message"]

        def chunk(delta: Body, reason: str | None = None) -> str:
            return json.dumps(
                {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}, ensure_ascii=False
            )

        yield chunk({"role": "assistant", "content": ""})
        for piece in self.pieces(message["content"] or ""):
            yield chunk({"content": piece})
        for number, call in enumerate(message.get("tool_calls") or ()):
            function = call["function"]
            begun = {"index": number, **call, "function": {"name": function["name"], "arguments": ""}}
            yield chunk({"tool_calls": [begun]})
            yield chunk({"tool_calls": [{"index": number, "function": {"arguments": function["arguments"]}}]})
        yield chunk({}, choice["finish_reason"])
        yield "[DONE]"

    def stream(self, answer: Body) -> tuple[bytes, str]:
        return "".join(f"data: {event}\n\n" for event in self.events(answer)).encode(), "text/event-stream"

    def post(self, path: str, body: Body) -> tuple[bytes, str]:
        if path == "/v1/chat/completions":
            self.asked += 1
            self.check(body)
            answer = self.complete(body)
            return self.stream(answer) if body.get("stream") else (self.write(answer), "application/json")
        messages = read_messages(body["messages"], []) if "messages" in body else ()
        if path == "/apply-template" and self.shows == "llama":
            return self.write({"prompt": self.text(messages, body.get("tools") or [])}), "application/json"
        if path == "/tokenize" and self.shows == "llama" and "content" in body:
            return self.write({"tokens": self.tokens(body["content"])}), "application/json"
        if path == "/tokenize" and self.shows == "vllm" and messages:
            tokens = self.prompt(messages, body.get("tools") or [])
            return self.write({"count": len(tokens), "max_model_len": 1024, "tokens": tokens}), "application/json"
        raise Refused(404, "Not Found")

    def get(self, path: str) -> tuple[bytes, str]:
        if path == "/v1/models" and self.models is not None:
            return self.write({"object": "list", "data": [{"id": name} for name in self.models]}), "application/json"
        raise Refused(404, "Not Found")

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a port of this machine, and yield the address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.served = self  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(lambda served: served.get(self.path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(lambda served: served.post(self.path, body))

    def _answer(self, act: Any) -> None:
        headers: dict[str, str] = {}
        try:
            content, kind = act(self.server.served)  # type: ignore[attr-defined]
            status = 200
        except Refused as refused:
            content, kind = json.dumps({"error": {"message": str(refused)}}).encode(), "application/json"
            status, headers = refused.status, refused.headers
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def request(*messages: tuple[str, str], **settings: Any) -> GenerationRequest:
    """A question of these turns."""
    return GenerationRequest(messages=tuple(Message(role, text) for role, text in messages), **settings)
