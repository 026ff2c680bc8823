"""Ask a model many questions: with bounded parallelism, retries and a cache, so that no answer is paid for twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from collections.abc import Generator as GeneratorOf
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from llmtune._retry import Gate, RetryPolicy, with_retries
from llmtune.errors import TransientError, VendorError
from llmtune.evaluation.cache import AnswerCache, answer_key
from llmtune.provider.generation import Generation, GenerationRequest, Generator, LabelScorer
from llmtune.provider.intake import generate

#: Requests per call to a generator that takes one call at a time. A larger batch loses more answers when it fails.
BATCH_SIZE = 32

#: What the log says while a request is retried.
ASKING = "asking the model"

#: Threads of one evaluation, however many requests the backend accepts at the same time.
MAX_THREADS = 16

#: Rows that the backend may refuse (by a content filter) before the evaluation fails: a share of them, or this many.
MAX_REFUSED_SHARE = 0.1
MIN_REFUSED_ALLOWED = 5

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

#: Called with (answers so far, answers in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """One answer, and whether it came from the cache. `refused` is the backend's message when it gave no answer."""

    generation: Generation | None
    cached: bool = False
    refused: str | None = None


def generate_answers(
    generator: Generator,
    requests: Sequence[GenerationRequest],
    *,
    model: str | None,
    cache: AnswerCache | None,
    patience: RetryPolicy,
    progress: Progress,
) -> list[Answer]:
    """Return one answer per request, in order. Equal requests are sent once, cached ones not at all.

    Args:
        generator: the model; already opened.
        requests: the questions.
        model: identity of the model in the cache's keys; None does not use the cache.
        cache: where answers are looked up and stored.
        patience: how failed calls are retried.
        progress: called as answers come in.

    Raises:
        TransientError: the backend stayed unavailable; every answer so far is in the cache.
        VendorError: the backend refused all rows, or too many for the cause to be in the rows.
    """
    keys = [answer_key(model or "", "text", request) for request in requests]
    answers: dict[str, Answer] = {}
    if cache is not None and model is not None:
        for key in keys:
            stored = cache.get(key)
            if stored is not None:
                answers[key] = Answer(_unpack(stored), cached=True)
    pending = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
    total = len(set(keys))
    progress(len(answers), total)
    refusals = _Refusals(total)

    def add(key: str, answer: Answer) -> None:
        answers[key] = answer
        if answer.generation is not None and cache is not None and model is not None:
            cache.put(key, _pack(answer.generation))
        progress(len(answers), total)

    stream = _ask_all(generator, pending, patience, refusals)
    try:
        for key, answer in stream:
            add(key, answer)
    except BaseException as error:  # noqa: BLE001 - it is raised again, by the generator
        # An error or an interrupt here must not lose the calls in flight, which have been paid for: `_ask_all` yields
        # their answers, and ends by raising the error again.
        entry = stream.throw(error)
        while True:
            add(*entry)
            entry = next(stream)
    return [answers[key] for key in keys]


def score_labels(
    generator: LabelScorer,
    requests: Sequence[GenerationRequest],
    labels: Sequence[Sequence[str]],
    *,
    model: str | None,
    cache: AnswerCache | None,
    patience: RetryPolicy,
    progress: Progress,
) -> tuple[list[list[float]], int]:
    """Return the log-likelihoods, in nats, of `labels[i]` after `requests[i]`, and how many rows came from the cache.

    Requests with the same label set are sent in batches. `model`, `cache`, `patience` and `progress` are as in
    `generate_answers`, and so are the errors.
    """
    keys = [
        answer_key(model or "", "labels", request, labels=list(choices))
        for request, choices in zip(requests, labels, strict=True)
    ]
    scores: dict[str, list[float]] = {}
    if cache is not None and model is not None:
        scores = {key: stored["scores"] for key in keys if (stored := cache.get(key)) is not None}
    cached = sum(key in scores for key in keys)
    total = len(set(keys))
    progress(len(scores), total)
    pending_by_labels: dict[tuple[str, ...], dict[str, GenerationRequest]] = {}
    for key, request, choices in zip(keys, requests, labels, strict=True):
        if key not in scores:
            pending_by_labels.setdefault(tuple(choices), {})[key] = request
    for label_set, pending in pending_by_labels.items():
        for batch in _batches(list(pending.items()), BATCH_SIZE):
            questions = [request for _, request in batch]
            rows = with_retries(partial(generator.score_labels, questions, label_set), patience, doing=ASKING)
            for (key, _), row in zip(batch, rows, strict=True):
                scores[key] = [float(value) for value in row]
                if cache is not None and model is not None:
                    cache.put(key, {"scores": scores[key]})
            progress(len(scores), total)
    return [scores[key] for key in keys], cached


def _ask_all(
    generator: Generator, pending: dict[str, GenerationRequest], patience: RetryPolicy, refusals: _Refusals
) -> GeneratorOf[tuple[str, Answer], None, None]:
    """Yield (key, answer) as answers come in, in any order; when an error is thrown in, those in flight come first."""
    if not pending:
        return
    if generator.max_concurrency > 1:
        yield from _ask_in_parallel(generator, pending, patience, refusals)
        return
    gate = Gate()
    for batch in _batches(list(pending.items()), BATCH_SIZE):
        try:
            generations = generate(generator, [request for _, request in batch])
        except VendorError as error:
            # Unavailable, rate-limited, or refusing one row of the batch: row by row, no answer is requested twice.
            if isinstance(error, TransientError):
                gate.hold(patience.pause(0, error))
            for key, request in batch:
                yield key, _ask_one(generator, request, patience, refusals, gate)
            continue
        gate.count()
        yield from ((key, Answer(generation)) for (key, _), generation in zip(batch, generations, strict=True))


def _ask_one(
    generator: Generator, request: GenerationRequest, patience: RetryPolicy, refusals: _Refusals, gate: Gate
) -> Answer:
    """Send one request, with retries. A refusal is an answer too, as long as `refusals` accepts it."""
    try:
        return Answer(with_retries(lambda: generate(generator, [request])[0], patience, doing=ASKING, gate=gate))
    except TransientError as error:
        if error.sent and gate.answered:  # other rows are answered: the backend fails on this one
            return refusals.accept(error)
        raise
    except VendorError as error:
        return refusals.accept(error)


def _ask_in_parallel(
    generator: Generator, pending: dict[str, GenerationRequest], patience: RetryPolicy, refusals: _Refusals
) -> Iterator[tuple[str, Answer]]:
    """Yield (key, answer) from several threads, which wait together when the backend limits one of them."""
    gate = Gate()
    threads = min(generator.max_concurrency, MAX_THREADS, len(pending))
    unsent = iter(pending.items())
    running: dict[Future[Answer], str] = {}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="llmtune-evaluate")
    try:
        while True:
            while len(running) < threads and (entry := next(unsent, None)) is not None:
                running[pool.submit(_ask_one, generator, entry[1], patience, refusals, gate)] = entry[0]
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            failures = [error for future in done if (error := future.exception()) is not None]
            for future in done:
                key = running.pop(future)
                if future.exception() is None:
                    yield key, future.result()
            if failures:
                raise failures[0]
    except GeneratorExit:
        raise
    except BaseException:
        # Also on an interrupt: the calls in flight have been paid for, so their answers are still yielded.
        gate.stop()
        for future, key in running.items():
            if not future.cancel() and future.exception() is None:
                yield key, future.result()
        raise
    finally:
        gate.stop()
        pool.shutdown(wait=True, cancel_futures=True)


class _Refusals:
    """Counts the rows that the backend refused, and fails once there are too many for the cause to be in the rows."""

    def __init__(self, rows: int) -> None:
        self._allowed = max(MIN_REFUSED_ALLOWED, int(rows * MAX_REFUSED_SHARE))
        self._rows = rows
        self._count = 0
        self._lock = threading.Lock()

    def accept(self, error: VendorError) -> Answer:
        """Return a refused answer. Raises the error instead where it concerns account or model, or after too many."""
        if error.status in (401, 403, 404):
            raise error
        with self._lock:
            self._count += 1
            if self._count > self._allowed or self._count == self._rows:
                raise error
        from llmtune.redaction.secrets import scrub

        return Answer(None, refused=scrub(error.message))


def _batches(items: list[tuple[K, T]], size: int) -> Iterator[list[tuple[K, T]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _pack(generation: Generation) -> dict[str, Any]:
    """Return a generation as plain JSON data, for the cache. `cache.VERSION` changes with these keys."""
    return {
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "tool_calls": [_pack_call(call) for call in generation.tool_calls],
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "seconds": generation.seconds,
    }


def _pack_call(call: Any) -> dict[str, str]:
    if isinstance(call, dict):
        return {
            "id": str(call.get("id", "")),
            "name": str(call.get("name", "")),
            "arguments": call.get("arguments", ""),
        }
    return {"id": str(call.id), "name": str(call.name), "arguments": call.arguments}


def _unpack(stored: dict[str, Any]) -> Generation:
    """Return the generation that `_pack` made plain."""
    from llmtune.data.example import ToolCall

    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in stored.get("tool_calls", ()))
    return Generation(**{**stored, "tool_calls": calls})
