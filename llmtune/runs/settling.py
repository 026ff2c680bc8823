"""Waiting after a job has ended: a vendor may name the model later, and the model may answer later still.

How long each is waited for is declared by the provider (`Settling`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from llmtune.errors import TransientError, VendorError
from llmtune.provider.generation import Generation, GenerationRequest, Generator, LabelScorer, TokenScorer, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import DeploymentRef, ModelRef, RunState, Settling
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")
T = TypeVar("T")

#: The clock and the pause of this module, for tests that let no time pass.
now: Callable[[], float] = time.time
sleep: Callable[[float], None] = time.sleep

#: Seconds between two questions to a model that does not answer yet: the first, doubling up to the longest.
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 30.0

#: Seconds between two looks at a job that has not named its model yet.
LOOK_EVERY = 15.0


class NotSettled(TransientError):
    """The job has ended, and the vendor has not reported everything yet: ask again later."""


def get_settling(provider: Provider) -> Settling:
    """Return what the provider declares, or the defaults."""
    declared = getattr(provider, "settling", None)
    return declared if isinstance(declared, Settling) else Settling()


def get_job_end(store: Store, run_id: str) -> float:
    """Return when the job was seen to have ended, in Unix seconds; now where it was not."""
    times = [transition.time for transition in store.transitions(run_id) if transition.state is RunState.FINALIZING]
    return times[-1] if times else now()


def lacks_model(store: Store, record: RunRecord) -> bool:
    """Return whether a run has succeeded and its vendor has not named the model."""
    return record.state is RunState.SUCCEEDED and store.ref(record.id, "model", ModelRef) is None


def open_generator(
    store: Store, record: RunRecord, provider: Provider, target: ModelRef | DeploymentRef, say: Callable[[str], None]
) -> Generator | Unavailable:
    """Return a generator that waits some minutes for a model that is so new that it does not answer yet."""
    generator = provider.generator(target)
    if isinstance(generator, Unavailable) or not provider.hosted:
        return generator
    settling = get_settling(provider)
    began = now() if isinstance(target, DeploymentRef) else get_job_end(store, record.id)
    return PatientGenerator(generator, settling, began + settling.answer_seconds, say)


class PatientGenerator:
    """A generator that waits until a new model answers for the first time, and passes everything on from then.

    Args:
        inner: the generator.
        settling: which refusals mean that the model is only too new.
        until: when such a refusal is final, in Unix seconds.
        say: is called once, with a sentence, when the model is waited for.
    """

    def __init__(self, inner: Generator, settling: Settling, until: float, say: Callable[[str], None]) -> None:
        self._inner, self._settling, self._until, self._say = inner, settling, until, say
        self._lock = threading.Lock()
        self._answered = False
        self.max_concurrency = inner.max_concurrency
        # What the inner one cannot do must not seem possible here: protocols are recognised by their methods.
        if isinstance(inner, LabelScorer):
            self.score_labels = lambda requests, labels: self._ask_first(lambda: inner.score_labels(requests, labels))
        if isinstance(inner, TokenScorer):
            self.token_stats = lambda examples: self._ask_first(lambda: inner.token_stats(examples))

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Return one answer per request, in order."""
        return self._ask_first(lambda: self._inner.generate(requests))

    def __enter__(self) -> PatientGenerator:
        self._inner = self._inner.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._inner.__exit__(*details)

    def _ask_first(self, ask: Callable[[], T]) -> T:
        """Ask; until there is a first answer, one thread alone asks, repeatedly."""
        if self._answered:
            return ask()
        with self._lock:
            if not self._answered:
                answer = self._retry_until_answered(ask)
                self._answered = True
                return answer
        return ask()

    def _retry_until_answered(self, ask: Callable[[], T]) -> T:
        pause = FIRST_PAUSE
        while True:
            try:
                return ask()
            except TransientError:
                raise
            except VendorError as error:
                remaining = self._until - now()
                if remaining <= 0 or not self._settling.means_not_ready(error):
                    raise
                if pause == FIRST_PAUSE:
                    self._say(
                        f"the new model does not answer yet ({error.message});"
                        f" it is asked again for up to {max(1, round(remaining / 60))} min"
                    )
                log.info("the new model does not answer yet: %s", error.message)
            sleep(min(pause, max(0.0, remaining)))
            pause = min(pause * 2, LONGEST_PAUSE)
