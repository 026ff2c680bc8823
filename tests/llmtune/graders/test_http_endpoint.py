"""Graders that ask an endpoint: what is sent, what is repeated, and what is never stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.errors import InvalidJob, MissingCredentials
from llmtune.graders import Answer, GraderProcess, Score, http_endpoint, make_grader
from llmtune.testing.faults import Fault
from llmtune.testing.http import Call, Reply, serve

ROW = {"messages": [{"role": "user", "content": "How many?"}], "answer": "11"}


class Endpoint:
    """A grader that pays 1 for the field `answer`; `replies` come before its own answers."""

    name = "endpoint"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.replies: list[Reply] = []

    def receive(self, call: Call) -> Fault | None:
        self.calls.append(call)
        return None

    def answer_call(self, call: Call, fault: Fault | None) -> Reply:
        if self.replies:
            return self.replies.pop(0)
        return Reply({"score": float(call.data["answer"] == call.data["row"]["answer"])})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(http_endpoint, "FIRST_PAUSE", 0.0)
    endpoint = Endpoint()
    server, endpoint.url = serve(endpoint)  # type: ignore[attr-defined]
    yield endpoint
    server.shutdown()
    server.server_close()


def score(endpoint: Any, answer: str = "11", **fields: Any) -> Score:
    with GraderProcess(make_grader({"kind": "http", "url": endpoint.url, **fields})) as process:
        return process.score(ROW, Answer(answer, (("find", {"n": 1}),)))


def test_an_answer_is_scored_by_the_endpoint(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", "k-123456789")
    assert score(endpoint, key_env="GRADER_KEY") == Score(1.0)
    assert score(endpoint, "12") == Score(0.0)
    first, second = endpoint.calls
    assert first.data == {"row": ROW, "answer": "11", "tool_calls": [{"name": "find", "arguments": {"n": 1}}]}
    assert first.headers["authorization"] == "Bearer k-123456789"
    assert "authorization" not in second.headers


def test_a_part_of_the_answer_and_a_range_of_its_own(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply({"score": -3})]
    fields = {"answer_from": {"regex": "#(.*)"}, "lowest": -3, "highest": 0}
    assert score(endpoint, "It is #11", **fields) == Score(-3.0)
    assert endpoint.calls[0].data["answer"] == "11"
    assert score(endpoint, "no part", **fields) == Score(-3.0)
    endpoint.replies = [Reply({"score": 1})]
    assert "outside -3 to 0" in score(endpoint, "#11", **fields).error


def test_what_may_pass_is_repeated(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(status=503), Reply(status=429, headers={"retry-after": "0"})]
    assert score(endpoint) == Score(1.0)
    assert len(endpoint.calls) == 3
    endpoint.replies = [Reply(status=503)]
    assert score(endpoint, retries=0) == Score(None, "the endpoint answered with 503")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"score": "1"}), "no number"),
        (Reply({"score": True}), "no number"),
        (Reply([1]), "no number"),
        (Reply("not json"), "is not JSON"),
        (Reply(b'{"score": 1e400}'), "score is inf"),
        (Reply(b'{"score": 1' + b"0" * 400 + b"}"), "score is inf"),
        (Reply(b"[" * 60_000), "is not JSON"),
        (Reply({"score": 1, "why": "x" * 70_000}), "more than 65,536 bytes"),
        (Reply({"score": 1}, headers={"content-encoding": "gzip"}), "compressed"),
        (Reply({"score": 1}, status=201), "answered with 201"),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), "answered with 302"),
        (Reply(status=401), "answered with 401"),
    ],
)
def test_an_odd_answer_is_no_score_and_asked_once(endpoint: Endpoint, reply: Reply, error: str) -> None:
    endpoint.replies = [reply]
    found = score(endpoint)
    assert found.value is None
    assert error in found.error
    assert len(endpoint.calls) == 1


def test_an_endpoint_that_is_not_there_is_given_up(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(http_endpoint.HttpEndpoint, "_ask", lambda *_: asked.append(1) or (None, "gone", 0.0))
    grader = make_grader({"kind": "http", "url": endpoint.url, "retries": 1})  # type: ignore[attr-defined]
    with GraderProcess(grader) as process:
        assert {process.score(ROW, Answer("x")).error for _ in range(20)} == {"gone"}
    assert len(asked) == 2 * http_endpoint.MOST_FAILURES


def test_a_port_where_nobody_listens_is_a_sentence() -> None:
    with GraderProcess(make_grader({"kind": "http", "url": "http://127.0.0.1:9/a?key=abc", "retries": 0})) as process:
        assert process.score(ROW, Answer("x")).error == (
            "the endpoint http://127.0.0.1:9/a cannot be reached (ConnectError)"
        )


def test_a_row_that_is_too_large_is_not_sent(endpoint: Endpoint) -> None:
    assert "1,048,576 are sent at most" in score(endpoint, "x" * 1_100_000).error
    assert not endpoint.calls


def test_a_key_that_is_not_set_is_said_before_anything_is_sent(endpoint: Endpoint) -> None:
    with pytest.raises(MissingCredentials, match="NO_SUCH_KEY is not set"):
        score(endpoint, key_env="NO_SUCH_KEY")
    assert not endpoint.calls


def test_weighted_with_others(endpoint: Endpoint) -> None:
    parts = [
        {"weight": 3, "grader": {"kind": "http", "url": endpoint.url}},  # type: ignore[attr-defined]
        {"weight": 1, "grader": {"kind": "regex", "pattern": "z"}},
    ]
    with GraderProcess(make_grader({"kind": "weighted", "parts": parts})) as process:
        assert process.score(ROW, Answer("11")) == Score(0.75)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://grader.example/score", "unencrypted"),
        ("https://me:secret@grader.example/", "use key_env"),
        ("ftp://grader.example/", "no address"),
        ("https:///score", "no address"),
        ("https://grader.example/\nHost: evil", "no address"),
        ("https://[::1", "no address"),
        ("https://a:99999/", "no address"),
        ("grader.example", "no address"),
    ],
)
def test_addresses_that_are_refused(url: str, sentence: str) -> None:
    with pytest.raises(InvalidJob, match=sentence) as caught:
        make_grader({"kind": "http", "url": url})
    assert "secret" not in str(caught.value)


def test_the_key_is_never_in_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", "k-123456789")
    grader = make_grader({"kind": "http", "url": "https://grader.example/", "key_env": "GRADER_KEY"})
    assert "k-123456789" not in json.dumps(grader.model_dump(mode="json"))
