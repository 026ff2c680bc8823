"""A bounded queue of requests to one model; a model that takes one call at a time gets them in batches.

Requests for texts and for the likelihoods of answers wait in one line; a batch is divided by what it asks for.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmtune.errors import InvalidData, LlmtuneError, VendorError
from llmtune.provider.generation import Generation, GenerationRequest, Generator, LabelScorer, Streaming
from llmtune.provider.intake import generate
from llmtune.server.protocol import RequestError

log = logging.getLogger("llmtune")

#: Requests that may wait for one model; any more are refused with 429.
MAX_QUEUED = 256
#: Most requests per batch. Only a model that takes one call at a time gets batches: of what arrived while it was busy.
BATCH_SIZE = 32


@dataclass
class QueuedRequest:
    """A request in the queue. The two callbacks are called from the model's thread."""

    request: GenerationRequest
    on_piece: Callable[[str], None]
    """Called with each piece of the answer, if the model streams."""

    on_done: Callable[[Generation | list[float] | Exception], None]
    """Called once, with the answer (the log-likelihood of each of `labels`, where there are any) or with the error."""

    labels: tuple[str, ...] | None = None
    """Answers whose likelihoods are asked for, instead of a text."""

    streamed: bool = False
    """Whether `on_piece` was called."""

    _abandoned: threading.Event = field(default_factory=threading.Event)

    def abandon(self) -> None:
        """Give up on the answer: a request that still waits is skipped, and one being answered may stop."""
        self._abandoned.set()

    @property
    def abandoned(self) -> bool:
        """Whether the client no longer waits for the answer."""
        return self._abandoned.is_set()


class BatchQueue:
    """The requests that wait for one model, and the worker threads that send them to it."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._queue: queue.Queue[QueuedRequest | None] = queue.Queue(MAX_QUEUED)
        count = max(1, min(generator.max_concurrency, 64))
        self._batched = count == 1
        self._lock = threading.Lock()
        self._open, self._pending = True, 0
        self._threads = [threading.Thread(target=self._run, name="llmtune-serve", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, request: QueuedRequest) -> None:
        """Put a request into the queue. Raises `RequestError`: 429 when it is full, 503 after `close`."""
        with self._lock:
            if not self._open:
                raise RequestError(503, "this model is being closed: try again", code="unavailable", wait=1)
            try:
                self._queue.put_nowait(request)
            except queue.Full:
                raise RequestError(
                    429,
                    f"{MAX_QUEUED} requests are waiting for this model already: try again",
                    code="overloaded",
                    wait=1,
                ) from None
            self._pending += 1

    @property
    def idle(self) -> bool:
        """Whether every submitted request has been answered."""
        return self._pending == 0

    def close(self) -> None:
        """Refuse new requests, answer those in the queue, and end the threads."""
        with self._lock:
            self._open = False
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        while True:
            batch, closed = self._next_batch()
            waiting = [request for request in batch if not request.abandoned]
            by_labels: dict[tuple[str, ...] | None, list[QueuedRequest]] = {}
            for request in waiting:
                by_labels.setdefault(request.labels, []).append(request)
            with self._lock:
                self._pending -= len(batch) - len(waiting)
            for alike in by_labels.values():
                self._answer(alike)
            if closed:
                return

    def _next_batch(self) -> tuple[list[QueuedRequest], bool]:
        """Wait for the next requests; also return whether the queue was closed behind them."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while self._batched and len(batch) < BATCH_SIZE:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is None:
                return batch, True
            batch.append(request)
        return batch, False

    def _answer(self, batch: Sequence[QueuedRequest]) -> None:
        def on_piece(index: int, text: str) -> bool:
            request = batch[index]
            if text and not request.abandoned:
                request.streamed = True
                request.on_piece(text)
            return not request.abandoned

        try:
            answers = self._ask_model(batch, on_piece)
            pairs: list[tuple[QueuedRequest, Generation | list[float]]] = list(zip(batch, answers, strict=True))
        except InvalidData as error:
            if len(batch) == 1:
                self._finish(batch[0], error)
                return
            for queued in batch:  # one by one, to find the invalid request: a local model has answered none of them
                if queued.streamed or queued.abandoned:
                    self._finish(queued, error)
                else:
                    self._answer([queued])
        except Exception as error:
            # Not retried: a hosted model may have billed some of the requests, and a busy one needs no more load.
            expected = isinstance(error, LlmtuneError)
            log.warning("%d requests failed: %s", len(batch), error, exc_info=None if expected else error)
            for queued in batch:
                self._finish(queued, error)
        else:
            for queued, answer in pairs:
                self._finish(queued, answer)

    def _finish(self, queued: QueuedRequest, outcome: Generation | list[float] | Exception) -> None:
        """Hand out what came of a request: whoever has its answer may count on the model being idle."""
        with self._lock:
            self._pending -= 1
        queued.on_done(outcome)

    def _ask_model(
        self, batch: Sequence[QueuedRequest], on_piece: Callable[[int, str], bool]
    ) -> Sequence[Generation] | Sequence[list[float]]:
        """Ask the model for the texts of a batch, or for the likelihoods of the labels that all of it names."""
        requests = [queued.request for queued in batch]
        if (labels := batch[0].labels) is not None:
            return self._score_labels(requests, labels)
        if isinstance(self.generator, Streaming):
            return self.generator.stream(requests, on_piece)
        return generate(self.generator, requests)

    def _score_labels(self, requests: Sequence[GenerationRequest], labels: tuple[str, ...]) -> list[list[float]]:
        if not isinstance(self.generator, LabelScorer):
            raise VendorError("the backend of this model reports no likelihoods of answers, so it decides nothing")
        return self.generator.score_labels(requests, labels)
