"""Where questions to one model wait: a bounded line, asked together where the model answers many at once."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmtune.generation import Generation, GenerationRequest, Generator, Streaming
from llmtune.serving.wire import Refused

log = logging.getLogger("llmtune")

#: Questions that may wait for one model; more are told to come back.
WAITING = 256
#: Questions asked in one call of a model that takes one call at a time, and seconds that the first waits for others.
TOGETHER, WINDOW = 32, 0.005


@dataclass
class Question:
    """One question in the line. The two callbacks are called from the model's thread."""

    request: GenerationRequest
    piece: Callable[[str], None]
    """Told each piece of the answer as it comes, where the model tells it."""

    done: Callable[[Generation | Exception], None]
    streamed: bool = False
    """Whether anything was told to `piece`."""

    _gone: threading.Event = field(default_factory=threading.Event)

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self._gone.set()

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self._gone.is_set()


class Line:
    """The line before one model, and the threads that ask it."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._waiting: queue.Queue[Question | None] = queue.Queue(WAITING)
        count = max(1, min(generator.max_concurrency, 64))
        self._batched = count == 1
        self._threads = [threading.Thread(target=self._work, name="llmtune-serve", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def ask(self, question: Question) -> None:
        """Put a question into the line. Raises `Refused` (429) when it is full."""
        try:
            self._waiting.put_nowait(question)
        except queue.Full:
            raise Refused(
                429, f"{WAITING} questions are waiting for this model already: try again", code="overloaded", wait=1
            ) from None

    def close(self) -> None:
        """Answer what was asked, and end the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(60)

    def _work(self) -> None:
        while True:
            batch, ended = self._next()
            wanted = [each for each in batch if each.wanted]
            if wanted:
                self._answer(wanted)
            if ended:
                return

    def _next(self) -> tuple[list[Question], bool]:
        first = self._waiting.get()
        if first is None:
            return [], True
        batch = [first]
        deadline = time.monotonic() + WINDOW
        while self._batched and len(batch) < TOGETHER:
            try:
                more = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                return batch, True
            batch.append(more)
        return batch, False

    def _answer(self, batch: Sequence[Question]) -> None:
        def tell(index: int, text: str) -> bool:
            if text and batch[index].wanted:
                batch[index].streamed = True
                batch[index].piece(text)
            return batch[index].wanted

        requests = [each.request for each in batch]
        try:
            if isinstance(self.generator, Streaming):
                answers = self.generator.stream(requests, tell)
            else:
                answers = self.generator.generate(requests)
        except Exception as error:  # noqa: BLE001 - one bad question must not end the line
            if len(batch) > 1:  # whose fault it was shows one by one
                for each in batch:
                    if each.wanted and not each.streamed:
                        self._answer([each])
                    else:
                        each.done(error)
                return
            log.warning("a question failed: %s", error)
            batch[0].done(error)
            return
        for question, answer in zip(batch, answers, strict=True):
            question.done(answer)
