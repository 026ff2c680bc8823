"""Models in hand for chat: opened when they are first asked, put away when nobody has asked them for a while."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass

from llmtune.errors import InvalidData, LlmtuneError
from llmtune.job.spec import TuningJob
from llmtune.provider.generation import Generator, Unavailable
from llmtune.runs.api import attach
from llmtune.runs.plans import plan
from llmtune.server.protocol import Refused
from llmtune.server.queue import Line
from llmtune.server.tuning.models import Target

log = logging.getLogger("llmtune")

#: Models in hand at once. A local one takes memory, a deployed one money, for as long as it is in hand.
OPEN = 4
#: Seconds without a question after which a model is put away.
IDLE_SECONDS = 300.0
#: Seconds for which a model that was just fetched is not put away, however many others are wanted.
FRESH_SECONDS = 10.0


@dataclass
class _Open:
    line: Line
    stack: contextlib.ExitStack
    used: float


class ModelPool:
    """The lines before the models, by what they stand for."""

    def __init__(self, *, deploy: bool | None) -> None:
        self._deploy = deploy
        self._lock = threading.Lock()
        self._models: dict[Target, _Open] = {}
        self._opening: dict[Target, threading.Lock] = {}
        self._ended = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="llmtune-models", daemon=True)
        self._sweeper.start()

    def line(self, target: Target) -> Line:
        """The line before a model, opening it where that is needed.

        Raises:
            Refused: too many models are in hand, or this one cannot be asked.
        """
        with self._lock:
            opening = self._opening.setdefault(target, threading.Lock())
        with opening:  # opening may take minutes, and holds up nobody who asks another model
            with self._lock:
                model = self._models.get(target)
                if model is not None:
                    model.used = time.monotonic()
                    return model.line
                evicted = self._make_room()
            if evicted is not None:
                _put_away(*evicted)
            model = self._open(target)
            with self._lock:
                self._models[target] = model
            return model.line

    def forget(self, target: Target) -> None:
        """Put a model away, and its checkpoints, because it is about to be deleted."""
        with self._lock:
            related = [model for model in self._models if model.run_id is not None and model.run_id == target.run_id]
            models = [(model, self._models.pop(model)) for model in related]
        for pair in models:
            _put_away(*pair)

    def close(self) -> None:
        """Put every model away."""
        self._ended.set()
        with self._lock:
            models, self._models = list(self._models.items()), {}
        for pair in models:
            _put_away(*pair)

    def _open(self, target: Target) -> _Open:
        stack = contextlib.ExitStack()
        try:
            line = Line(self._generator(target, stack))
        except BaseException as error:
            stack.close()
            if isinstance(error, Refused):
                raise
            if isinstance(error, LlmtuneError):
                raise Refused(503, error.message, code="model_unavailable", wait=5) from error
            raise
        stack.callback(line.close)
        return _Open(line, stack, time.monotonic())

    def _generator(self, target: Target, stack: contextlib.ExitStack) -> Generator:
        if target.run_id is not None:
            run = attach(target.run_id)
            return stack.enter_context(run.model(checkpoint=target.checkpoint, deploy=self._deploy)).generator
        backend = target.backend()
        # A base model is reached as a run's evaluation reaches it: from the plan of a job on it. No row is read.
        job = TuningJob(name="chat", dataset="no-rows.jsonl", model={backend.name: target.model})
        base = backend.base_model(plan(job, backend, dataset=InvalidData("no rows are needed")))
        generator = base if isinstance(base, Unavailable) else backend.generator(base)
        if isinstance(generator, Unavailable):
            raise Refused(400, f"this base model cannot be asked: {generator.reason}", param="model")
        return stack.enter_context(generator)

    def _make_room(self) -> tuple[Target, _Open] | None:
        """Take a model out that nobody has asked for longest. The lock is held."""
        if len(self._models) < OPEN:
            return None
        now = time.monotonic()
        idle = [(model.used, target) for target, model in self._models.items() if model.line.idle]
        used, oldest = min(idle, key=lambda pair: pair[0], default=(now, None))
        if oldest is None or now - used < FRESH_SECONDS:
            raise Refused(
                503, f"{OPEN} models are being asked already: try again", code="overloaded", wait=FRESH_SECONDS
            )
        return oldest, self._models.pop(oldest)

    def _sweep(self) -> None:
        while not self._ended.wait(min(30.0, IDLE_SECONDS / 4)):
            limit = time.monotonic() - IDLE_SECONDS
            with self._lock:
                unused = [target for target, model in self._models.items() if model.line.idle and model.used < limit]
                models = [(target, self._models.pop(target)) for target in unused]
            for pair in models:
                _put_away(*pair)


def _put_away(target: Target, model: _Open) -> None:
    try:
        model.stack.close()
    except LlmtuneError as error:
        log.warning("putting %s away: %s", target, error.message)
