"""A judge served in this process: chat completions whose replies are a function of what is judged."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: From the material of a prompt and its id to the reply.
Judge = Callable[[dict[str, Any], str], str]


def read_prompt(user: str) -> tuple[dict[str, Any], str]:
    """Return what is judged, and the id that the reply must repeat, from the user's message."""
    match = re.fullmatch(r"BEGIN ([0-9a-f]{12})\n(.*)\nEND \1\n\nReply with .*", user, re.DOTALL)
    assert match is not None, user
    return json.loads(match[2]), match[1]


def prefer(better: Callable[[str], float]) -> Judge:
    """Return a judge that prefers the answer of the higher value, wherever it stands."""

    def judge(material: dict[str, Any], id: str) -> str:
        first, second = better(material["first_answer"]), better(material["second_answer"])
        verdict = "tie" if first == second else "first" if first > second else "second"
        return json.dumps({"reason": "it is better", "id": id, "verdict": verdict})

    return judge


def give(points: Callable[[str], int]) -> Judge:
    """Return a judge that gives points to an answer."""
    return lambda material, id: json.dumps({"reason": "so it is", "id": id, "score": points(material["answer"])})


@dataclass
class JudgeServer:
    """A running server: its address, and what it was asked."""

    address: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    status: int = 200


@contextmanager
def serve_judge(judge: Judge) -> Iterator[JudgeServer]:
    """Serve a judge; each answer counts 100 prompt tokens and 20 of the reply."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "the-judge"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                served.bodies.append(body)
                served.keys.append(self.headers.get("Authorization"))
            if served.status != 200:
                self._send(served.status, {"error": {"message": "the judge is out"}})
                return
            reply = judge(*read_prompt(body["messages"][-1]["content"]))
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
            usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
            self._send(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

        def _send(self, status: int, data: Any) -> None:
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = JudgeServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
