"""Models that answer in known ways, and count what they are asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from llmtune.data.example import Example, chat
from llmtune.errors import TransientError, VendorError
from llmtune.metrics.points import TokenStats
from llmtune.provider.generation import Generation, GenerationRequest


class Scripted:
    """A generator that answers by a function of the last user turn, and remembers every question."""

    def __init__(self, answer: Callable[[str], str], *, max_concurrency: int = 1) -> None:
        self.answer = answer
        self.max_concurrency = max_concurrency
        self.asked: list[str] = []
        self.requests: list[GenerationRequest] = []
        self.calls = 0
        self.running = self.peak = 0
        self.opened = self.closed = 0
        self.faults: dict[str, list[VendorError]] = {}
        self.pause = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Scripted:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.peak = max(self.peak, self.running)
        try:
            if self.pause:
                time.sleep(self.pause)
            return [self._one(request) for request in requests]
        finally:
            with self._lock:
                self.running -= 1

    def _one(self, request: GenerationRequest) -> Generation:
        prompt = request.messages[-1].words
        with self._lock:
            faults = self.faults.get(prompt)
            if faults:
                raise faults.pop(0)
            self.asked.append(prompt)
            self.requests.append(request)
        return Generation(
            text=self.answer(prompt), finish_reason="stop", prompt_tokens=7, completion_tokens=2, seconds=0.25
        )


class Likely(Scripted):
    """A generator that scores labels and rows too: the label its function answers is the likeliest by far."""

    def __init__(self, answer: Callable[[str], str], *, loss: float = 0.5) -> None:
        super().__init__(answer)
        self.loss = loss
        self.scored: list[str] = []
        self.lossy: list[Example] = []

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        rows = []
        for request in requests:
            prompt = request.messages[-1].words
            self.scored.append(prompt)
            rows.append([-0.1 if label == self.answer(prompt) else -3.0 for label in labels])
        return rows

    def token_stats(self, examples: Sequence[Example]) -> TokenStats:
        self.lossy.extend(examples)
        return TokenStats(loss_sum=self.loss * 4 * len(examples), tokens=4 * len(examples), correct=3 * len(examples))


def ticket(number: int, label: str | None = None) -> Example:
    """Build a row whose label is hidden in its number: 0 mod 3 is bug, 1 feature, 2 question."""
    return chat(
        ("system", "Classify."),
        ("user", f"ticket {number}"),
        ("assistant", label or LABELS[number % 3]),
        line=number + 1,
    )


LABELS = ("bug", "feature", "question")


def truth(prompt: str) -> str:
    """Return the true label of a ticket's prompt."""
    return LABELS[int(prompt.split()[-1]) % 3]


def often(prompt: str) -> str:
    """Right in four cases of five."""
    return truth(prompt) if int(prompt.split()[-1]) % 5 else "bug"


@pytest.fixture
def tickets() -> list[Example]:
    return [ticket(number) for number in range(120)]


def limited(seconds: float = 0.0) -> TransientError:
    return TransientError("too many requests", retry_after=seconds, sent=False, status=429)
