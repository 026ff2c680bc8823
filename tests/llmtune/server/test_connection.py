"""Connections on which a request never becomes whole."""

from __future__ import annotations

import http.client
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
connection = pytest.importorskip("llmtune.server.connection")

SECONDS = 0.5
HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An endpoint that gives a header half a second."""
    from llmtune.server.app import make_app
    from llmtune.server.server import HttpServer

    monkeypatch.setattr(connection, "HEADER_SECONDS", SECONDS)

    class Endpoint(HttpServer):
        def __init__(self) -> None:
            super().__init__("127.0.0.1", 0, purpose="a test")
            self._run(make_app({}, None))

    with Endpoint() as server:
        yield server.port


def connect(port: int, data: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=30)
    opened.sendall(data)
    return opened


def send_slowly(connections: list[socket.socket], byte: bytes, limit: float = 60) -> dict[socket.socket, bytes]:
    """Send a byte on each connection time and again until the other side has closed all; what it said on each."""
    answers = dict.fromkeys(connections, b"")
    end = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        for opened in connections:
            opened.setblocking(False)
            selector.register(opened, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < end, f"{len(selector.get_map())} connections are still open"
            for key, _ in selector.select(SECONDS / 5):
                opened: Any = key.fileobj
                try:
                    data = opened.recv(65536)
                except ConnectionError:
                    data = b""
                answers[opened] += data
                if not data:
                    selector.unregister(opened)
                    opened.close()
            for key in list(selector.get_map().values()):
                try:
                    key.fileobj.send(byte)  # type: ignore[union-attr]
                except (BlockingIOError, ConnectionError):
                    continue
    return answers


def test_two_hundred_slow_senders_of_a_header_are_closed_with_an_error(port: int) -> None:
    slow = [connect(port, HEAD + b"X-Slow: ") for _ in range(200)]
    for answer in send_slowly(slow, b"x").values():
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") or not answer  # a reset may take the answer with it
        assert not body or b'"type":"invalid_request_error"' in body


def test_a_connection_that_says_nothing_and_one_that_stops_in_its_second_request_are_closed(port: int) -> None:
    silent, second = connect(port), connect(port, HEAD + b"\r\n" + HEAD)
    answers = send_slowly([silent, second], b"")
    assert answers[silent].startswith(b"HTTP/1.1 408 ")
    assert answers[second].startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in answers[second]


def test_a_body_that_nobody_reads_does_not_keep_a_connection_open(port: int) -> None:
    opened = connect(port, b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{")
    (answer,) = send_slowly([opened], b" ").values()
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_what_is_not_http_is_refused_in_the_shape_of_the_api(port: int) -> None:
    with connect(port, b"\x16\x03\x01 not http\r\n\r\n") as opened:
        answer = b"".join(iter(lambda: opened.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b'"message":"this is not a valid HTTP request"' in body


@pytest.mark.slow
def test_requests_in_time_share_a_connection_beyond_the_limit_of_one(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 4.0)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.connect()
    address = client.sock.getsockname()
    for _ in range(5):
        time.sleep(1)
        client.request("GET", "/health")
        assert client.getresponse().read() == b'{"status":"ok"}'
        assert client.sock.getsockname() == address
    client.close()
