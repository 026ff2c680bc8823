"""The loopback HTTP server of every fake vendor: routes, calls, replies, and injected faults."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from llmtune.testing.faults import Fault, Role
from llmtune.testing.request_schema import violations

_numbers = itertools.count()


class Refusal(Exception):
    """An error response, raised in a route; the vendor's `error_body` puts it in the vendor's format."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.field = field
        self.headers = headers or {}


@dataclass(frozen=True)
class Part:
    """One part of a multipart form.

    `content` in bytes, with the `filename` and `content_type` that the client gave, if any.
    """

    name: str
    content: bytes
    filename: str | None = None
    content_type: str | None = None

    @property
    def text(self) -> str:
        """The content as UTF-8 text."""
        return self.content.decode()


@dataclass
class Call:
    """One request, as passed to a route.

    `method` and `path` as sent, `query` by name, `body` in bytes, `time` in Unix seconds; `route` is the name of
    the function that answers, `role` its role.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""

    body: bytes
    route: str = ""
    role: Role = "other"
    params: dict[str, str] = field(default_factory=dict)
    """Values of the placeholders in the route's pattern, percent-decoded."""

    time: float = 0.0
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """The query parameters in order, including repeated ones."""

    refused: list[tuple[str, str]] = field(default_factory=list)
    """Invalid fields of this request: (path, what is wrong)."""

    status: int | None = None
    """Status of the response; None when there was none."""

    @property
    def data(self) -> Any:
        """The JSON body; None when there is none."""
        return json.loads(self.body) if self.body else None

    def json(self, shape: Any) -> Any:
        """Return the JSON body. Raises `Refusal` (400) unless it has this `shape`."""
        try:
            value = self.data
        except ValueError:
            self.refused.append(("", "is not JSON"))
            raise Refusal(400, "We could not parse the JSON body of your request.") from None
        self.hold_to(value if value is not None else {}, shape)
        return value

    def fields(self, shape: Any) -> dict[str, str]:
        """Return the query parameters, as text. Raises `Refusal` (400) unless they have this `shape`."""
        self.hold_to(self.query, shape, "query")
        return self.query

    def form(self, shape: Any) -> dict[str, Part]:
        """Return the parts of a multipart form by name. Raises `Refusal` (400) for other names than those of `shape`.

        `shape` is {name: str} (or Required(str)); the content of a part is for the route to check.
        """
        parts = {part.name: part for part in multipart(self.headers.get("content-type", ""), self.body)}
        self.hold_to(dict.fromkeys(parts, ""), shape)
        return parts

    def hold_to(self, value: Any, shape: Any, path: str = "") -> None:
        """Raise `Refusal` (400) unless `value` has this `shape`; the vendor records a complaint."""
        faults = violations(value, shape, path)
        if faults:
            self.refused += faults
            where, fault = faults[0]
            raise Refusal(400, f"Invalid request: {where or 'body'} {fault}.", code="invalid_request", field=where)


@dataclass
class Reply:
    """A response: a body (JSON data, text or bytes), a status and headers."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> tuple[bytes, str]:
        """Return the body in bytes, and its content type."""
        if self.body is None:
            return b"", "application/json"
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), "application/json"


@dataclass(frozen=True)
class Route:
    """A method of a fake vendor that answers one kind of request."""

    method: str
    pattern: str
    role: Role
    name: str
    regex: re.Pattern[str]


def route(method: str, pattern: str, *, role: Role = "other") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a method of a `FakeVendor` answer `METHOD pattern`; it takes a `Call`, returns a `Reply` or JSON data.

    In the pattern `{name}` matches one path segment and `{name*}` any number of them: "/v1/jobs/{job}/cancel",
    "/v1/{name*}:cancel". The role says what the request is for, so that faults and tests need not know the path.
    """
    escaped = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}").replace(r"\*}", "*}")
    regex = re.compile(re.sub(r"\{(\w+)(\*?)\}", lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", escaped))

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        routes = [*getattr(function, "_routes", []), Route(method, pattern, role, function.__name__, regex)]
        function._routes = routes  # type: ignore[attr-defined]
        return function

    return mark


def multipart(content_type: str, body: bytes) -> list[Part]:
    """Parse a multipart body. Raises `Refusal` (400) for any other."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    if not content_type.startswith("multipart/") or not boundary:
        raise Refusal(400, "Expected a multipart form.")
    parts = []
    for piece in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(re.findall(r"(?im)^([\w-]+):\s*(.+?)\s*$", head.decode("utf-8", "replace")))
        lowered = {name.lower(): value for name, value in headers.items()}
        disposition = dict(re.findall(r'(\w+)="([^"]*)"', lowered.get("content-disposition", "")))
        parts.append(
            Part(
                name=disposition.get("name", ""),
                content=content.removesuffix(b"\r\n"),
                filename=disposition.get("filename"),
                content_type=lowered.get("content-type"),
            )
        )
    return parts


class CallHandler(Protocol):
    """Protocol of the object that answers calls: a fake vendor."""

    @property
    def name(self) -> str:
        """Name for the server's thread."""
        ...

    def receive(self, call: Call) -> Fault | None:
        """Record the call and find its route; return the fault to inject, or None."""
        ...

    def answer_call(self, call: Call, fault: Fault | None) -> Reply:
        """Return the response of the route."""
        ...


class Server(ThreadingHTTPServer):
    """One fake vendor's listening socket."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    vendor: CallHandler

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments, **more)  # closes itself where it cannot listen

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection while it is open."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening, and close connections that clients keep open for the next request."""
        super().server_close()
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients are expected to disconnect in the middle of a request."""


class Handler(BaseHTTPRequestHandler):
    """Reads a request, passes it to the vendor, and injects faults into the response."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffer the answer: headers and body leave in one packet
    server: Server

    def handle_expect_100(self) -> bool:
        """Send "100 Continue" at once: it must not wait in the buffer until the body has arrived."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing to stderr."""

    def _any(self) -> None:
        split = urlsplit(self.path)
        call = Call(
            method=self.command,
            path=split.path,
            query=dict(parse_qsl(split.query, keep_blank_values=True)),
            pairs=parse_qsl(split.query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self._body(),
            time=time.time(),
        )
        vendor = self.server.vendor
        fault = vendor.receive(call)
        if fault is not None and fault.kind == "echo":
            headers = " ".join(f"{name}: {value}" for name, value in call.headers.items())
            self._send(call, Reply({"error": {"message": f"not allowed: {headers}", "code": "denied"}}, fault.status))
            return
        if fault is not None and not self._before(fault):
            return
        reply = vendor.answer_call(call, fault)
        if fault is not None and fault.handled and not self._after(fault, call, reply):
            return
        self._send(call, reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # killed while it was sending: this was no request
            raise ConnectionError("the client went away in the middle of its request")
        return body

    def _before(self, fault: Fault) -> bool:
        """Inject a fault before the vendor handles the request; return False when the exchange is over."""
        if fault.handled:
            return True
        if fault.kind == "reset":
            self._reset()
            return False
        if fault.kind == "hold":
            time.sleep(fault.seconds)
        elif fault.kind == "call" and fault.action is not None:
            fault.action()
        return True

    def _after(self, fault: Fault, call: Call, reply: Reply) -> bool:
        """Inject a fault after the vendor handled the request; return False when the exchange is over."""
        if fault.kind == "reset":
            self._reset()
            return False
        if fault.kind == "hold":
            time.sleep(fault.seconds)
        elif fault.kind == "call" and fault.action is not None:
            fault.action()
        elif fault.kind == "garble":
            reply.body, reply.status = "<html><body>502 upstream unavailable</body></html>", 200
        elif fault.kind == "odd":
            body, _ = reply.encode()
            with contextlib.suppress(ValueError):
                reply.body = _with_numbers(json.loads(body), fault.word)
                reply.headers |= {"Content-Type": "application/json"}
        elif fault.kind == "empty":
            reply.body = {}
        elif fault.kind == "loop":
            reply.body = _with_next_page(reply.body)
        elif fault.kind in ("endless", "trickle"):
            self._pour(fault, call, reply)
            return False
        elif fault.kind == "truncate":
            body, kind = reply.encode()
            self._head(call, reply, len(body) + 64, kind)
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._reset(linger=False)
            return False
        return True

    def _pour(self, fault: Fault, call: Call, reply: Reply) -> None:
        """Send a response without end, or one byte at a time, until the client hangs up."""
        self.close_connection = True
        body, kind = reply.encode()
        with contextlib.suppress(OSError):
            if fault.kind == "endless":
                self._head(call, reply, fault.size, kind)
                piece = b" " * 65536
                for _ in range(fault.size // len(piece)):
                    self.wfile.write(piece)
            else:
                self._head(call, reply, len(body), kind)
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(fault.seconds)
            self.wfile.flush()

    def _send(self, call: Call, reply: Reply) -> None:
        body, kind = reply.encode()
        self._head(call, reply, len(body), kind)
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _head(self, call: Call, reply: Reply, length: int, kind: str) -> None:
        call.status = reply.status
        self.send_response(reply.status)
        headers = {"Content-Type": kind, "Content-Length": str(length)} | reply.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _reset(self, *, linger: bool = True) -> None:
        self.close_connection = True
        if linger:  # an RST instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Closed by its descriptor: the reader and writer above it would keep the socket open.
        os.close(self.connection.detach())


#: Names that vendors give to the cursor of the next page.
_CURSORS = ("next_page_token", "nextPageToken", "nextToken")


def _with_next_page(body: Any) -> Any:
    """Return a response with a list as a page that is never the last one; any other response is unchanged."""
    lists = [value for value in body.values() if isinstance(value, list)] if isinstance(body, dict) else []
    if not lists:
        return body
    number = next(_numbers)
    listed = {name: [*value] for name, value in body.items() if isinstance(value, list)}
    for rows in listed.values():
        if rows and isinstance(rows[-1], dict) and isinstance(rows[-1].get("id"), str):
            rows[-1] = {**rows[-1], "id": f"{rows[-1]['id']}-{number}"}
    return {**body, **listed, "has_more": True, **dict.fromkeys(_CURSORS, f"again-{number}")}


def _with_numbers(value: Any, literal: str) -> bytes:
    """Return the JSON of a value in which every number is replaced by `literal`."""
    mark = "\x00number\x00"

    def mark_numbers(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: mark_numbers(inner) for name, inner in part.items()}
        if isinstance(part, list):
            return [mark_numbers(inner) for inner in part]
        return mark if isinstance(part, int | float) and not isinstance(part, bool) else part

    return json.dumps(mark_numbers(value)).replace(json.dumps(mark), literal).encode()


def serve(vendor: CallHandler, host: str = "127.0.0.1", port: int = 0) -> tuple[Server, str]:
    """Start serving `vendor` in its own threads; return the server and its base URL."""
    server = Server((host, port), Handler)
    server.vendor = vendor
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name=f"fake-{vendor.name}", daemon=True
    ).start()
    return server, f"http://{host}:{server.server_address[1]}"


def match_path(regex: re.Pattern[str], path: str) -> dict[str, str] | None:
    """Return the placeholders of a route's pattern, percent-decoded; None when the path does not match."""
    match = regex.fullmatch(path)
    return {name: unquote(value) for name, value in match.groupdict().items()} if match else None
