"""What servers send is read as it comes, whatever it is; an address is read as people write it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.errors import InvalidSettings, LlmtuneError, NotJudged, VendorError
from llmtune.verifications.endpoint import Endpoint, read_answer, read_stream, split_address
from tests.llmtune.verifications.serving import Body, ModelServer, Refused, request


@pytest.mark.parametrize(
    ("address", "base", "root"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("https://acme.example/api/v1", "https://acme.example/api/v1", "https://acme.example/api"),
        ("https://acme.example/v1/chat/completions", "https://acme.example/v1", "https://acme.example"),
        ("https://acme.example/api/v3", "https://acme.example/api/v3", "https://acme.example/api/v3"),
    ],
)
def test_an_address_is_read_as_people_write_it(address: str, base: str, root: str) -> None:
    assert split_address(address) == (base, root)


@pytest.mark.parametrize("address", ["localhost:8080", "", "ftp://x", "https://acme.example/v1?api-version=1"])
def test_an_address_that_is_none_is_refused_in_one_sentence(address: str) -> None:
    with pytest.raises(InvalidSettings):
        Endpoint(address)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("message", "delta", "content", "tool_calls", "function", "arguments", "finish_reason", "logprobs", "logprob")


@given(
    st.fixed_dictionaries(
        {
            "choices": JSON | st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), max_size=2),
            "usage": JSON,
        }
    )
)
def test_an_odd_answer_is_read_or_refused_and_breaks_nothing(body: dict[str, Any]) -> None:
    for read, content in ((read_answer, body), (read_stream, f"data: {json.dumps(body)}\n\n".encode())):
        with suppress(LlmtuneError):
            read(content)  # type: ignore[operator]


@given(st.binary(max_size=200))
def test_odd_bytes_are_no_stream(content: bytes) -> None:
    with pytest.raises(VendorError):
        read_stream(content)


@pytest.mark.parametrize("events", ["data: [DONE]", 'data: {"choices": [], "usage": {}}\n\ndata: [DONE]'])
def test_a_stream_that_ends_without_an_answer_is_none(events: str) -> None:
    with pytest.raises(VendorError, match="the stream ends without an answer"):
        read_stream(f"{events}\n\n".encode())


def test_a_stream_is_read_whatever_its_lines_end_in() -> None:
    events = [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in ("Gr", "ü", "ße")]
    for end in ("\n", "\r\n", "\r"):
        content = "".join(f": ping{end}{end}data:{json.dumps(event)}{end}{end}" for event in events)
        assert read_stream(f"{content}data: [DONE]".encode()).text == "Grüße"


def test_a_count_of_zero_is_none() -> None:
    answer = read_answer({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 0}})
    assert (answer.prompt_tokens, answer.completion_tokens) == (None, None)


class Answering(ModelServer):
    """Answers without a model."""

    def __init__(self, **refused: str) -> None:
        self.asked = 0
        self.refused = refused
        self.bodies: list[Body] = []

    def complete(self, body: Body) -> Body:
        self.bodies.append(body)
        for name, words in self.refused.items():
            if name in body:
                raise Refused(400, words)
        return {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}


def test_a_field_that_is_refused_is_left_out_from_then_on() -> None:
    server = Answering(logprobs="logprobs is not supported", max_tokens="use max_completion_tokens, not max_tokens")
    with server.running() as address:
        endpoint = Endpoint(address, model="tuned")
        question = request(("user", "Well?"), max_tokens=5)
        assert endpoint.ask(question).text == "yes"
        sent = len(server.bodies)
        assert endpoint.ask(question).text == "yes"
        assert len(server.bodies) == sent + 1
    assert server.bodies[-1]["max_completion_tokens"] == 5
    assert sorted(endpoint.refused) == ["logprobs", "max_tokens"]
    assert endpoint.usage.requests == 2


def test_a_question_that_is_refused_for_itself_costs_no_field() -> None:
    server = Answering(messages="this prompt is too long")
    with server.running() as address:
        endpoint = Endpoint(address, model="tuned")
        with pytest.raises(VendorError, match="too long"):
            endpoint.ask(request(("user", "Well?"), max_tokens=5))
    assert endpoint.refused == {}


def test_of_several_models_one_must_be_named() -> None:
    class Two(Answering):
        models = ("base", "tuned")

    with Two().running() as address:
        with pytest.raises(NotJudged, match="base, tuned") as raised:
            Endpoint(address).choose_model("run")
        assert "--model" in str(raised.value.hint)
        assert Endpoint(address, model="tuned").choose_model("run") == "tuned"


def test_where_nothing_answers_is_said() -> None:
    with pytest.raises(NotJudged, match="nothing answers at http://127"):
        Endpoint("http://127.0.0.1:9").choose_model("run")


def test_the_key_is_sent_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.redaction.secrets import scrub

    monkeypatch.setenv("ACME_KEY", "sk-canary-verify-1234567890")
    with Answering(seed="seed refused with sk-canary-verify-1234567890").running() as address:
        endpoint = Endpoint(address, model="tuned", key_from="ACME_KEY")
        endpoint.ask(request(("user", "Well?")))
    assert "canary" not in scrub(str(endpoint.refused))
