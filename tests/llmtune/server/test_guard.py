"""What stands before every route of an endpoint: pages of other sites, bodies that are none, faults in one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.provider.generation import Generation
from llmtune.server.guard import DEPTH, parse_json_object
from llmtune.server.protocol import RequestError

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

ROUTES = [
    ("GET", "/health"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/m"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/nowhere"),
    ("DELETE", "/v1/models"),
]
CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Is it open?"}]}


class Echo:
    """A model that answers with what it is asked, and breaks where it is asked to."""

    max_concurrency = 1

    def generate(self, requests: Any) -> list[Generation]:
        return [Generation(text=request.messages[-1].words) for request in requests]


@pytest.fixture
def http() -> Iterator[Any]:
    """A client of an endpoint without a key, on loopback."""
    from llmtune.server.app import Served, make_app
    from llmtune.server.queue import BatchQueue
    from llmtune.server.server import HttpServer

    class Endpoint(HttpServer):
        def __init__(self) -> None:
            super().__init__("127.0.0.1", 0, purpose="a test")
            line = BatchQueue(Echo())
            self._stack.callback(line.close)
            self._run(make_app({"m": Served("m", 0, line)}, None))

    with Endpoint() as server, httpx.Client(base_url=server.url.removesuffix("/v1"), timeout=60) as client:
        yield client


def error_of(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_every_route_refuses_a_page_of_another_site(http: Any, method: str, path: str, headers: Any) -> None:
    response = http.request(method, path, headers=headers, json=BODY if method == "POST" else None)
    assert (response.status_code, error_of(response)["code"]) == (403, "foreign_origin")


def test_a_page_of_this_server_and_a_program_are_answered(http: Any) -> None:
    same_origin = {"origin": f"http://{http.base_url.netloc.decode()}", "sec-fetch-site": "same-origin"}
    for headers in ({}, same_origin, {"sec-fetch-site": "none"}):
        answer = http.post(CHAT, json=BODY, headers=headers).json()
        assert answer["choices"][0]["message"]["content"] == "Is it open?"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_a_body_must_be_declared_as_json(http: Any, content_type: str) -> None:
    response = http.post(CHAT, content=json.dumps(BODY), headers={"content-type": content_type})
    assert (response.status_code, error_of(response)["code"]) == (415, "invalid_type")


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


ODD_BODIES = {
    "nothing": b"",
    "half": b"{",
    "a list": b"[]",
    "a number": b"1",
    "half a surrogate pair as a key": b'{"\\ud800": 1}',
    "half a surrogate pair as a value": json.dumps(BODY | {"model": "\udc00"}).encode(),
    "half a surrogate pair in a turn": json.dumps(
        BODY | {"messages": [{"role": "user", "content": "\ud83d"}]}
    ).encode(),
    "bytes that are not UTF-8": b'{"model": "\xff"}',
    "900 levels of tools": json.dumps(BODY | {"tools": [nested(900)]}).encode(),
    "200000 levels": b"[" * 200_000,
    "NaN": b'{"model": "m", "temperature": NaN}',
    "a number beyond floats": json.dumps(BODY)[:-1].encode() + b', "temperature": 1e999}',
    "an integer of 6000 digits": json.dumps(BODY)[:-1].encode() + b', "seed": ' + b"9" * 6000 + b"}",
    "an integer of 40 digits": json.dumps(BODY)[:-1].encode() + b', "max_tokens": ' + b"9" * 40 + b"}",
    "a NUL in the model": json.dumps(BODY | {"model": "\0"}).encode(),
    "turns that are none": json.dumps(BODY | {"messages": [[[]]]}).encode(),
    "tools that are none": json.dumps(BODY | {"tools": [None, 1]}).encode(),
    "an object for a text": json.dumps(BODY | {"model": {}}).encode(),
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_an_odd_body_is_refused_in_the_shape_of_the_api(http: Any, name: str) -> None:
    response = http.post(CHAT, content=ODD_BODIES[name], headers={"content-type": "application/json"})
    assert response.status_code in (400, 404)
    assert error_of(response)["message"]
    assert http.get("/health").json() == {"status": "ok"}


def test_a_body_may_be_nested_as_far_as_is_said() -> None:
    assert parse_json_object(json.dumps(nested(DEPTH - 1)).encode())
    with pytest.raises(RequestError, match=f"more than {DEPTH} levels"):
        parse_json_object(json.dumps(nested(DEPTH)).encode())


def test_a_route_that_breaks_answers_in_the_shape_of_the_api(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.server.app import Served

    monkeypatch.setattr(Served, "describe", lambda served: 1 / 0)
    for path in ("/v1/models", "/v1/models/m"):
        response = http.get(path)
        assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
