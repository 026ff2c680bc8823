"""Where questions to one model wait: a bounded line, asked together where the model answers many at once."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmtune.errors import InvalidData, LlmtuneError
from llmtune.provider.generation import Generation, GenerationRequest, Generator, Streaming
from llmtune.provider.intake import generate
from llmtune.server.protocol import Refused

log = logging.getLogger("llmtune")

#: Questions that may wait for one model; more are told to come back.
WAITING = 256
#: Questions asked in one call of a model that takes one call at a time: those that came while it was busy.
TOGETHER = 32


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
        self._state = threading.Lock()
        self._open, self._pending = True, 0
        self._threads = [threading.Thread(target=self._work, name="llmtune-serve", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def ask(self, question: Question) -> None:
        """Put a question into the line. Raises `Refused`: 429 when it is full, 503 when it was closed."""
        with self._state:
            if not self._open:
                raise Refused(503, "this model is being put away: try again", code="unavailable", wait=1)
            try:
                self._waiting.put_nowait(question)
            except queue.Full:
                raise Refused(
                    429, f"{WAITING} questions are waiting for this model already: try again", code="overloaded", wait=1
                ) from None
            self._pending += 1

    @property
    def idle(self) -> bool:
        """Whether nothing that was asked is unanswered."""
        return self._pending == 0

    def close(self) -> None:
        """Answer what was asked, and end the threads."""
        with self._state:
            self._open = False
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
            with self._state:
                self._pending -= len(batch)
            if ended:
                return

    def _next(self) -> tuple[list[Question], bool]:
        first = self._waiting.get()
        if first is None:
            return [], True
        batch = [first]
        while self._batched and len(batch) < TOGETHER:
            try:
                more = self._waiting.get_nowait()
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
                answers = generate(self.generator, requests)
            pairs = list(zip(batch, answers, strict=True))
        except InvalidData as error:
            if len(batch) == 1:
                batch[0].done(error)
                return
            for each in batch:  # whose fault it was shows one by one; a model here answered none of them yet
                if each.wanted and not each.streamed:
                    self._answer([each])
                else:
                    each.done(error)
        except Exception as error:
            # Nobody is asked again: a hosted model may have billed some of them, and a busy one needs no more.
            known = isinstance(error, LlmtuneError)
            log.warning("%d questions failed: %s", len(batch), error, exc_info=None if known else error)
            for each in batch:
                each.done(error)
        else:
            for question, answer in pairs:
                question.done(answer)
