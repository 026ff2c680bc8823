"""A pool of open models for chat: opened on the first request, closed after a while without requests."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmtune.errors import InvalidData, LlmtuneError
from llmtune.job.spec import TuningJob
from llmtune.provider.generation import Generator, Unavailable
from llmtune.runs.api import attach
from llmtune.runs.plans import plan
from llmtune.server.protocol import RequestError
from llmtune.server.queue import BatchQueue
from llmtune.server.tuning.models import Target

log = logging.getLogger("llmtune")

#: Models open at the same time. An open local model takes memory, a deployed one costs money.
MAX_OPEN = 4
#: Seconds without a request after which a model is closed.
IDLE_SECONDS = 300.0
#: Seconds for which a model that was just used is not closed to make room for another.
MIN_OPEN_SECONDS = 10.0


@dataclass
class _OpenModel:
    queue: BatchQueue
    stack: contextlib.ExitStack
    last_used: float


class ModelPool:
    """The open models and their queues, by target."""

    def __init__(self, *, deploy: bool | None) -> None:
        self._deploy = deploy
        self._lock = threading.Lock()
        self._models: dict[Target, _OpenModel] = {}
        self._opening: dict[Target, threading.Lock] = {}
        self._ended = threading.Event()
        self._sweeper = threading.Thread(target=self._close_idle_models, name="llmtune-models", daemon=True)
        self._sweeper.start()

    def get_queue(self, target: Target, on_open: Callable[[], None]) -> BatchQueue:
        """Return the queue of a model, and open the model first if it is not open; `on_open` is called before that.

        Raises:
            RequestError: too many models are in use, or this one cannot be opened.
        """
        with self._lock:
            opening = self._opening.setdefault(target, threading.Lock())
        with opening:  # opening may take minutes, and must not block requests to other models
            with self._lock:
                model = self._models.get(target)
                if model is not None:
                    model.last_used = time.monotonic()
                    return model.queue
                evicted = self._evict()
            if evicted is not None:
                _close(*evicted)
            on_open()
            model = self._open(target)
            with self._lock:
                self._models[target] = model
            return model.queue

    def close_run(self, target: Target) -> None:
        """Close the model of a run and its checkpoints, before the model is deleted."""
        with self._lock:
            related = [model for model in self._models if model.run_id is not None and model.run_id == target.run_id]
            models = [(model, self._models.pop(model)) for model in related]
        for pair in models:
            _close(*pair)

    def close(self) -> None:
        """Close every model."""
        self._ended.set()
        with self._lock:
            models, self._models = list(self._models.items()), {}
        for pair in models:
            _close(*pair)

    def _open(self, target: Target) -> _OpenModel:
        stack = contextlib.ExitStack()
        try:
            queue = BatchQueue(self._open_generator(target, stack))
        except BaseException as error:
            stack.close()
            if isinstance(error, RequestError):
                raise
            if isinstance(error, LlmtuneError):
                raise RequestError(503, error.message, code="model_unavailable", wait=5) from error
            raise
        stack.callback(queue.close)
        return _OpenModel(queue, stack, time.monotonic())

    def _open_generator(self, target: Target, stack: contextlib.ExitStack) -> Generator:
        if target.run_id is not None:
            run = attach(target.run_id)
            return stack.enter_context(run.model(checkpoint=target.checkpoint, deploy=self._deploy)).generator
        backend = target.backend()
        # A base model is opened as a run's evaluation opens it: from the plan of a job on it. No row is read.
        job = TuningJob(name="chat", dataset="no-rows.jsonl", model={backend.name: target.model})
        base = backend.base_model(plan(job, backend, dataset=InvalidData("no rows are needed")))
        generator = base if isinstance(base, Unavailable) else backend.generator(base)
        if isinstance(generator, Unavailable):
            raise RequestError(400, f"this base model cannot answer: {generator.reason}", param="model")
        return stack.enter_context(generator)

    def _evict(self) -> tuple[Target, _OpenModel] | None:
        """Remove the least recently used idle model when the pool is full. The caller holds the lock and closes it."""
        if len(self._models) < MAX_OPEN:
            return None
        now = time.monotonic()
        idle = [(model.last_used, target) for target, model in self._models.items() if model.queue.idle]
        last_used, oldest = min(idle, key=lambda pair: pair[0], default=(now, None))
        if oldest is None or now - last_used < MIN_OPEN_SECONDS:
            raise RequestError(
                503, f"{MAX_OPEN} models are in use already: try again", code="overloaded", wait=MIN_OPEN_SECONDS
            )
        return oldest, self._models.pop(oldest)

    def _close_idle_models(self) -> None:
        while not self._ended.wait(min(30.0, IDLE_SECONDS / 4)):
            limit = time.monotonic() - IDLE_SECONDS
            with self._lock:
                unused = [
                    target for target, model in self._models.items() if model.queue.idle and model.last_used < limit
                ]
                models = [(target, self._models.pop(target)) for target in unused]
            for pair in models:
                _close(*pair)


def _close(target: Target, model: _OpenModel) -> None:
    try:
        model.stack.close()
    except LlmtuneError as error:
        log.warning("closing %s: %s", target, error.message)
