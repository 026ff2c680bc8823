"""Tuned models behind one endpoint, asked by the real client of OpenAI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import llmtune
from llmtune import Hyperparameters, TuningJob
from llmtune.errors import InvalidSettings, RunNotFound, TransientError
from llmtune.job.spec import EvaluationSpec
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.runs.api import attach
from llmtune.runs.poller import PollInterval
from llmtune.server.protocol import RequestError, StopFilter, parse_chat_request
from llmtune.server.queue import MAX_QUEUED, BatchQueue, QueuedRequest
from llmtune.server.server import Server
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake

openai = pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

QUICK = PollInterval(first=0.01, most=0.05)
JSON = {"content-type": "application/json"}
JSON_HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HI = [{"role": "user", "content": "case 1"}]


def job(folder: Path, **changes: Any) -> TuningJob:
    rows = (
        {"messages": [{"role": "user", "content": f"case {at}"}, {"role": "assistant", "content": "yn"[at % 2]}]}
        for at in range(60)
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuningJob(
        name="answering",
        dataset=str(folder / "rows.jsonl"),
        model={"fake": "m-1", "local": "tiny"},
        hyperparameters=Hyperparameters(epochs=1),
        evaluation=EvaluationSpec(max_rows=4),
        **changes,
    )


@pytest.fixture
def vendor() -> Iterator[Fake]:
    with Fake() as fake:
        yield fake
        assert not fake.complaints, "\n".join(fake.complaints)


@pytest.fixture
def run(vendor: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished run of a vendor."""
    monkeypatch.setenv("LLMTUNE_FAKE_BASE_URL", vendor.url)
    llmtune.start(job(tmp_path), FakeProvider("fake", FakeSettings(base_url=vendor.url, timeout=30))).wait(pace=QUICK)
    return attach("answering")


def client(server: Server, key: str = "none", **options: Any) -> Any:
    return openai.OpenAI(base_url=server.url, api_key=key, max_retries=0, timeout=120, **options)


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_a_vendors_model_answers_the_real_client(run: Any) -> None:
    with run.model() as model:
        expected = model.generate("case 1")
    with Server([run], port=0) as server, client(server) as api:
        assert [model.id for model in api.models.list()] == ["answering"]
        assert api.models.retrieve("answering").owned_by == "llmtune"
        completion = api.chat.completions.create(model="answering", messages=HI, temperature=0)
        assert completion.choices[0].message.content == expected.text
        assert completion.choices[0].finish_reason == "stop"
        assert completion.model == "answering"
        by_id = api.chat.completions.create(model=run.id, messages=HI, temperature=0)
        assert by_id.choices[0].message.content == expected.text
        stream = list(
            api.chat.completions.create(
                model="answering", messages=HI, temperature=0, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == expected.text
        assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "stop"


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_a_local_adapter_answers_and_streams_piece_by_piece(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from llmtune.server.server import find_serving_command

    short = {"adapter": "lora", "hyperparameters": Hyperparameters(epochs=1, max_steps=2)}
    short_job = job(tmp_path).model_copy(update=short)
    llmtune.tune(short_job, "local")
    tuned = attach("answering")
    command = find_serving_command(tuned)
    assert command is not None
    assert "--enable-lora --lora-modules answering=" in command
    assert "--max-lora-rank 16" in command
    with Server([tuned], port=0) as server, client(server) as api:
        options: dict[str, Any] = {"model": "answering", "messages": HI, "temperature": 0, "max_tokens": 12}
        answer = api.chat.completions.create(**options)
        assert answer.usage.completion_tokens <= 12
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        chunks = list(api.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
        pieces = [
            chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
        ]
        assert "".join(pieces) == answer.choices[0].message.content
        assert chunks[-1].usage == answer.usage
        if answer.usage.completion_tokens > 3:
            assert len(pieces) > 1
        # Sixty-four at once, some of which go away in the middle of their stream.
        with ThreadPoolExecutor(64) as pool:

            def ask(number: int) -> str:
                if number % 8 == 0:
                    with api.chat.completions.create(stream=True, **options) as stream:
                        next(iter(stream))
                        return "left"
                return str(api.chat.completions.create(**options).choices[0].message.content)

            answers = list(pool.map(ask, range(64)))
        assert set(answers) == {"left", answer.choices[0].message.content}
        with pytest.raises(openai.BadRequestError, match="does not fit the model's context"):
            api.chat.completions.create(model="answering", messages=[{"role": "user", "content": "a b c " * 3000}])
        assert api.chat.completions.create(**options).choices == answer.choices


def test_what_a_tuned_model_cannot_do_is_refused_by_name(run: Any) -> None:
    with Server([run], port=0) as server, client(server) as api:
        ask = api.chat.completions.create
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5' here; there are answering"):
            ask(model="gpt-5", messages=HI)
        for wrong in (
            {"n": 2},
            {"logprobs": True},
            {"presence_penalty": 0.5},
            {"response_format": {"type": "json_object"}},
        ):
            with pytest.raises(openai.BadRequestError, match=f"{next(iter(wrong))} is not supported") as caught:
                ask(model="answering", messages=HI, **wrong)
            assert caught.value.param == next(iter(wrong))
        with pytest.raises(openai.BadRequestError, match="temperature must be a number from 0 to 2"):
            ask(model="answering", messages=HI, temperature=3)
        with pytest.raises(openai.BadRequestError):
            ask(model="answering", messages=[])
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            api.embeddings.create(model="answering", input="x")
        assert ask(model="answering", messages=HI, n=1, user="me", presence_penalty=0).choices


def test_a_key_is_asked_for_where_one_is_set(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"off this machine .* a key is required and LLMTUNE_SERVE_KEY"):
        Server([run], host="0.0.0.0", port=0)
    monkeypatch.setenv("LLMTUNE_SERVE_KEY", "canary-5f2c")
    with Server([run], port=0) as server:
        with client(server, "wrong") as api, pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            api.models.list()
        with client(server, "canary-5f2c") as api:
            assert api.chat.completions.create(model="answering", messages=HI).choices
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"canary-5f2c" not in path.read_bytes()


def test_without_a_key_only_this_machine_is_answered(run: Any) -> None:
    import httpx

    with Server([run], port=0) as server:
        root = server.url.removesuffix("/v1")
        response = httpx.get(f"{server.url}/models", headers={"host": "evil.example:80"})
        assert response.status_code == 403
        assert "evil.example" in response.json()["error"]["message"]
        assert httpx.get(f"{root}/health").json() == {"status": "ok"}


def test_sixty_four_clients_a_slow_one_one_that_goes_away_and_a_large_body(run: Any) -> None:
    import httpx

    before = threading.active_count()
    with Server([run], port=0) as server, client(server) as api:
        # One that sends its request a byte at a time, and never ends.
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall((JSON_HEAD + "Content-Length: 500\r\n\r\n{").encode())
        # One that goes away before its answer.
        gone = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"model": "answering", "messages": HI}).encode()
        head = f"{JSON_HEAD}Content-Length: {len(body)}\r\n\r\n"
        gone.sendall(head.encode() + body)
        gone.close()
        with ThreadPoolExecutor(64) as pool:
            answers = list(
                pool.map(
                    lambda n: (
                        api.chat.completions.create(
                            model="answering", messages=[{"role": "user", "content": f"case {n}"}], temperature=0
                        )
                        .choices[0]
                        .message.content
                    ),
                    range(64),
                )
            )
        assert len(answers) == 64
        assert all(answers)
        large = httpx.post(f"{server.url}/chat/completions", content=b"x" * (50 << 20), headers=JSON, timeout=120)
        assert large.status_code == 413
        assert large.json()["error"]["message"] == "the body is larger than 10 MB"
        slow.sendall(b" ")
        slow.close()
        assert api.models.list()
    until(lambda: threading.active_count() <= before + 1)


class Backend:
    """A generator that can be held."""

    max_concurrency = 1

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[int] = []
        self.fails = False

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        self.asked.append(len(requests))
        self.go.wait(60)
        if self.fails:
            raise TransientError("the model is waking up", retry_after=3)
        return [Generation(text=request.messages[0].words) for request in requests]

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_questions_wait_in_a_bounded_line_and_are_asked_together() -> None:
    backend = Backend()
    line = BatchQueue(backend)
    answers: list[Any] = []
    request = GenerationRequest(messages=(llmtune.Message("user", "x"),))

    def question() -> QueuedRequest:
        return QueuedRequest(request=request, on_piece=answers.append, on_done=answers.append)

    line.submit(question())
    until(lambda: backend.asked == [1])
    waiting = [question() for _ in range(MAX_QUEUED)]
    for queued in waiting:
        line.submit(queued)
    with pytest.raises(RequestError, match="are waiting for this model already") as caught:
        line.submit(question())
    assert caught.value.status == 429
    for request_left in waiting[:-5]:
        request_left.abandon()
    backend.go.set()
    until(lambda: len(answers) == 6)
    assert sum(backend.asked) == 6  # whoever left was not asked for
    line.close()


def test_a_failure_is_everybodys_own() -> None:
    backend = Backend()
    backend.go.set()
    backend.fails = True
    line = BatchQueue(backend)
    answers: list[Any] = []
    line.submit(QueuedRequest(request=GenerationRequest(messages=()), on_piece=answers.append, on_done=answers.append))
    until(lambda: len(answers) == 1)
    refused = RequestError.of(answers[0])
    assert (refused.status, refused.wait, str(refused)) == (503, 3, "the model is waking up")
    assert RequestError.of(ZeroDivisionError("secret")).body["error"]["message"].startswith("the model failed")
    line.close()


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_an_answer_ends_at_a_stop_text_however_it_comes(size: int) -> None:
    text = "one, two END three"
    for stop, expected in ((("END",), "one, two "), ((", ", "END"), "one"), (("four",), text), ((), text)):
        stop_filter = StopFilter(stop)
        pieces = [stop_filter.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join(pieces) + stop_filter.flush() == expected
        assert stop_filter.ended == (expected != text)


def test_requests_are_read_as_the_api_has_them() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ],
        "max_completion_tokens": 7,
        "stop": "x",
        "top_p": 0.5,
        "seed": 3,
    }
    chat = parse_chat_request(body)
    assert chat.request.messages[1].words == "a\nb"
    assert (chat.request.temperature, chat.request.max_tokens, chat.stop) == (1.0, 7, ("x",))
    for wrong, message in (
        (body | {"stop": [""]}, "stop must be"),
        (body | {"max_tokens": 1.5}, "a whole number"),
        (body | {"best_of": 2}, "best_of is not supported"),
        ({"messages": body["messages"]}, "model is missing"),
    ):
        with pytest.raises(RequestError, match=message):
            parse_chat_request(wrong)


def test_a_run_that_does_not_exist_and_a_taken_port_are_said(run: Any) -> None:
    with pytest.raises(RunNotFound):
        Server(["nobody"], port=0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidSettings, match="cannot listen on"):
            Server([run], port=taken.getsockname()[1])
    with run.model() as model:  # it was let go of
        assert model.generate("case 1").text


def test_the_command_serves_until_it_is_told_to_end(run: Any) -> None:
    command = [sys.executable, "-m", "llmtune", "serve", "answering", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with openai.OpenAI(base_url=url, api_key="none", timeout=120) as api:
            assert api.chat.completions.create(model="answering", messages=HI).choices
        process.send_signal(signal.SIGTERM)
        _, output = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert 'client.chat.completions.create(model="answering"' in output
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    with run.model() as model:  # the lease was given back
        assert model.generate("case 1").text
