"""The line before a model: who is asked again, and that nothing that goes wrong ends it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

import pytest

from llmtune.data.example import Message
from llmtune.errors import InvalidData, TransientError, VendorError
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.server.queue import BatchQueue, QueuedRequest

Told = Generation | Exception


class Model:
    """Answers many questions in one call, badly where one of them asks for it; counts what it was asked."""

    max_concurrency = 1

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.open = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.open.wait(5)
        self.calls.append(len(requests))
        texts = [request.messages[0].content for request in requests]
        if "too long" in texts:
            raise InvalidData("it does not fit")
        if "busy" in texts:
            raise TransientError("too many requests")
        return [Generation(text="yes") for text in texts if text != "lost"]


def ask(model: Model, *texts: str) -> list[Told]:
    """What each is told: the first is asked alone, the others together, since they came while it was."""
    line = BatchQueue(model)
    results: dict[str, Told] = {}
    started = threading.Event()
    for text in texts:
        request = GenerationRequest(messages=(Message(role="user", content=text),))

        def done(result: Told, text: str = text) -> None:
            results[text] = result

        line.submit(QueuedRequest(request=request, on_piece=lambda _: None, on_done=done))
        if not started.is_set():
            started.set()
            while line._queue.qsize():  # until the first is in the model's hands
                threading.Event().wait(0.001)
    model.open.set()
    line.close()
    return [results[text] for text in texts]


def test_one_bad_question_does_not_spoil_its_neighbours() -> None:
    model = Model()
    first, good, bad, fine = ask(model, "first", "good", "too long", "fine")
    assert all(isinstance(result, Generation) for result in (first, good, fine))
    assert isinstance(bad, InvalidData)
    assert model.calls == [1, 3, 1, 1, 1]


def test_a_busy_model_is_not_asked_again() -> None:
    model = Model()
    first, *results = ask(model, "first", "good", "busy", "fine")
    assert isinstance(first, Generation)
    assert all(isinstance(result, TransientError) for result in results)
    assert model.calls == [1, 3]


@pytest.mark.timeout(30)
def test_an_answer_too_few_is_an_error_and_the_line_goes_on() -> None:
    model = Model()
    lost, good = ask(model, "lost", "good")
    assert isinstance(lost, VendorError)
    assert "0 answers to 1 questions" in str(lost)
    assert isinstance(good, Generation)


def test_a_model_is_idle_for_whoever_has_its_last_answer() -> None:
    model = Model()
    line = BatchQueue(model)
    idle: list[bool] = []
    skipped = QueuedRequest(request=question("skipped"), on_piece=lambda _: None, on_done=lambda _: idle.append(True))
    skipped.abandon()
    line.submit(skipped)
    for text in ("first", "busy"):
        line.submit(
            QueuedRequest(request=question(text), on_piece=lambda _: None, on_done=lambda _: idle.append(line.idle))
        )
    assert not line.idle
    model.open.set()
    line.close()
    assert idle == [False, True]
    assert line.idle


def question(text: str) -> GenerationRequest:
    return GenerationRequest(messages=(Message(role="user", content=text),))
