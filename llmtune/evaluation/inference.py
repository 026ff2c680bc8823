"""Asking a model many questions: bounded in parallel, patient with rate limits, and never twice for one answer."""

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

#: Questions in one call to a generator that takes one call at a time: large enough to batch, small enough to lose.
TOGETHER = 32

#: What the log calls a question.
ASKING = "asking the model"

#: More threads than this are of no use to one evaluation.
MOST_THREADS = 16

#: Rows that the backend may refuse (a content filter) before the evaluation gives up: the share, and at least so many.
REFUSED_SHARE = 0.1
REFUSED_LEAST = 5

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

#: Called with (answers there are, answers wanted).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """One answer, and whether it came from the cache. `refused` holds the backend's words when it gave none."""

    generation: Generation | None
    cached: bool = False
    refused: str | None = None


def ask(
    generator: Generator,
    requests: Sequence[GenerationRequest],
    *,
    model: str | None,
    cache: AnswerCache | None,
    patience: RetryPolicy,
    progress: Progress,
) -> list[Answer]:
    """One answer a request, in order. Equal requests are asked once; what the cache holds is not asked at all.

    Raises:
        TransientError: the backend stayed unwell; every answer so far is in the cache.
        VendorError: it refused more rows than can be put down to the rows.
    """
    keys = [answer_key(model or "", "text", request) for request in requests]
    answers: dict[str, Answer] = {}
    if cache is not None and model is not None:
        for key in keys:
            kept = cache.get(key)
            if kept is not None:
                answers[key] = Answer(_revived(kept), cached=True)
    wanted = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
    total = len(set(keys))
    progress(len(answers), total)
    refusals = _Refusals(total)

    def keep(key: str, answer: Answer) -> None:
        answers[key] = answer
        if answer.generation is not None and cache is not None and model is not None:
            cache.put(key, _packed(answer.generation))
        progress(len(answers), total)

    stream = _answers(generator, wanted, patience, refusals)
    try:
        for key, answer in stream:
            keep(key, answer)
    except BaseException as error:  # noqa: BLE001 - it is raised again, by the generator
        # Also when interrupted between two answers: the calls under way were paid for and are still taken in. The
        # generator ends by raising the error again.
        entry = stream.throw(error)
        while True:
            keep(*entry)
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
    """Log-likelihoods of `labels[i]` after `requests[i]`, and how many rows came from the cache.

    Requests that share one label set go out together.
    """
    keys = [
        answer_key(model or "", "labels", request, labels=list(each))
        for request, each in zip(requests, labels, strict=True)
    ]
    scores: dict[str, list[float]] = {}
    if cache is not None and model is not None:
        scores = {key: kept["scores"] for key in keys if (kept := cache.get(key)) is not None}
    cached = sum(key in scores for key in keys)
    total = len(set(keys))
    progress(len(scores), total)
    missing: dict[tuple[str, ...], dict[str, GenerationRequest]] = {}
    for key, request, each in zip(keys, requests, labels, strict=True):
        if key not in scores:
            missing.setdefault(tuple(each), {})[key] = request
    for label_set, wanted in missing.items():
        for group in _groups(list(wanted.items()), TOGETHER):
            batch = [request for _, request in group]
            rows = with_retries(partial(generator.score_labels, batch, label_set), patience, doing=ASKING)
            for (key, _), row in zip(group, rows, strict=True):
                scores[key] = [float(value) for value in row]
                if cache is not None and model is not None:
                    cache.put(key, {"scores": scores[key]})
            progress(len(scores), total)
    return [scores[key] for key in keys], cached


def _answers(
    generator: Generator, wanted: dict[str, GenerationRequest], patience: RetryPolicy, refusals: _Refusals
) -> GeneratorOf[tuple[str, Answer], None, None]:
    if not wanted:
        return
    if generator.max_concurrency > 1:
        yield from _in_parallel(generator, wanted, patience, refusals)
        return
    gate = Gate()
    for group in _groups(list(wanted.items()), TOGETHER):
        try:
            found = generate(generator, [request for _, request in group])
        except VendorError as error:
            # Down, limited, or refusing one row of the group: go on row by row, so that no answer is asked for twice.
            if isinstance(error, TransientError):
                gate.hold(patience.pause(0, error))
            for key, request in group:
                yield key, _one(generator, request, patience, refusals, gate)
            continue
        gate.count()
        yield from ((key, Answer(each)) for (key, _), each in zip(group, found, strict=True))


def _one(
    generator: Generator, request: GenerationRequest, patience: RetryPolicy, refusals: _Refusals, gate: Gate
) -> Answer:
    try:
        return Answer(with_retries(lambda: generate(generator, [request])[0], patience, doing=ASKING, gate=gate))
    except TransientError as error:
        if error.sent and gate.answered:  # others get through: it is this row that the backend breaks on
            return refusals.take(error)
        raise
    except VendorError as error:
        return refusals.take(error)


def _in_parallel(
    generator: Generator, wanted: dict[str, GenerationRequest], patience: RetryPolicy, refusals: _Refusals
) -> Iterator[tuple[str, Answer]]:
    gate = Gate()
    threads = min(generator.max_concurrency, MOST_THREADS, len(wanted))
    left = iter(wanted.items())
    running: dict[Future[Answer], str] = {}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="llmtune-evaluate")
    try:
        while True:
            while len(running) < threads and (entry := next(left, None)) is not None:
                running[pool.submit(_one, generator, entry[1], patience, refusals, gate)] = entry[0]
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
        # Also when interrupted: what is under way was paid for, and is still taken in.
        gate.stop()
        for future, key in running.items():
            if not future.cancel() and future.exception() is None:
                yield key, future.result()
        raise
    finally:
        gate.stop()
        pool.shutdown(wait=True, cancel_futures=True)


class _Refusals:
    """Counts rows that were refused for good, and says when it cannot be the rows any more."""

    def __init__(self, rows: int) -> None:
        self._allowed = max(REFUSED_LEAST, int(rows * REFUSED_SHARE))
        self._rows = rows
        self._count = 0
        self._lock = threading.Lock()

    def take(self, error: VendorError) -> Answer:
        """The row without an answer; raises the error when it is about the account or the model, or once too often."""
        if error.status in (401, 403, 404):
            raise error
        with self._lock:
            self._count += 1
            if self._count > self._allowed or self._count == self._rows:
                raise error
        from llmtune.redaction.secrets import scrub

        return Answer(None, refused=scrub(error.message))


def _groups(items: list[tuple[K, T]], size: int) -> Iterator[list[tuple[K, T]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _packed(generation: Generation) -> dict[str, Any]:
    return {
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "tool_calls": [_call(call) for call in generation.tool_calls],
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "seconds": generation.seconds,
    }


def _call(call: Any) -> dict[str, str]:
    if isinstance(call, dict):
        return {
            "id": str(call.get("id", "")),
            "name": str(call.get("name", "")),
            "arguments": call.get("arguments", ""),
        }
    return {"id": str(call.id), "name": str(call.name), "arguments": call.arguments}


def _revived(kept: dict[str, Any]) -> Generation:
    from llmtune.data.example import ToolCall

    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in kept.get("tool_calls", ()))
    return Generation(**{**kept, "tool_calls": calls})
