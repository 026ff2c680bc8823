"""Retries of a call while the other side is unavailable: how often, with which pauses, and across threads."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from llmtune.errors import TransientError

log = logging.getLogger("llmtune")

T = TypeVar("T")

#: Pauses double so often at most: a float overflows after a thousand, which a vendor that is down for a day reaches.
MAX_DOUBLINGS = 10


#: Seconds of silence after which a long operation is reported, and the factor to the next report.
SILENCE_SECONDS, SILENCE_GROWTH = 60.0, 5.0


@contextmanager
def report_silence(tell: Callable[[float], None], *, seconds: float | None = None) -> Iterator[Callable[[], None]]:
    """Call `tell` from a thread when what runs inside has been silent for a minute, and again after longer pauses.

    Args:
        tell: is given the seconds of silence so far; what it raises is dropped.
        seconds: of silence before the first call; None is `SILENCE_SECONDS`.

    Yields the call that ends a silence: something was said.
    """
    first = SILENCE_SECONDS if seconds is None else seconds
    done = threading.Event()
    since, limit = time.monotonic(), first

    def heard() -> None:
        nonlocal since, limit
        since, limit = time.monotonic(), first

    def watch() -> None:
        nonlocal limit
        while not done.wait(max(0.01, since + limit - time.monotonic())):
            silent = time.monotonic() - since
            if silent >= limit:
                limit *= SILENCE_GROWTH
                with suppress(Exception):
                    tell(silent)

    threading.Thread(target=watch, name="llmtune-silence", daemon=True).start()
    try:
        yield heard
    finally:
        done.set()


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is retried: up to `tries` times, after pauses from `first` seconds, doubling, up to `most`.

    A pause that the backend itself asks for is kept, up to `longest` seconds.
    """

    tries: int = 7
    first: float = 1.0
    most: float = 60.0
    longest: float = 600.0
    jitter: tuple[float, float] = (1.0, 1.5)
    """Our own pause is multiplied by a random number of this range, so that many callers do not come back together."""

    never_sooner: bool = False
    """Whether our own pause is waited even where the backend asks for less."""

    def pause(self, attempt: int, error: TransientError) -> float:
        """Return the seconds until the next try, after `attempt` failures in a row."""
        doublings = min(attempt, MAX_DOUBLINGS)
        own_pause = min(self.most, self.first * 2.0**doublings) * random.uniform(*self.jitter)
        if error.retry_after is None:
            return own_pause
        return max(own_pause if self.never_sooner else 0.0, min(error.retry_after, self.longest))


class Stopped(Exception):
    """Raised when the gate was stopped: a call that has not begun does not begin."""


class Gate:
    """A gate that holds back all calls to one model when one must wait: the limit is the whole account's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._stopped = threading.Event()
        self.answered = 0
        """Calls that succeeded, so that a waiting one sees whether the backend answers at all."""

    def hold(self, seconds: float) -> None:
        """Let no call through for so many seconds."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def stop(self) -> None:
        """Let no call through any more, and wake those that wait."""
        self._stopped.set()

    def pass_through(self) -> None:
        """Wait until calls may go out. Raises `Stopped` once they never will."""
        while (remaining := self._until - time.monotonic()) > 0 and not self._stopped.is_set():
            self._stopped.wait(remaining)
        if self._stopped.is_set():
            raise Stopped

    def count(self) -> None:
        """Note a call that succeeded."""
        with self._lock:
            self.answered += 1


def with_retries(call: Callable[[], T], policy: RetryPolicy, *, doing: str, gate: Gate | None = None) -> T:
    """Return the result of a call, tried again as long as `policy` allows. Only `TransientError` is tried again.

    Args:
        call: what may safely be repeated.
        policy: how often, and with which pauses.
        doing: what the call does, for the log.
        gate: shared by calls to one model. A request that did not reach it (a rate limit) does not use up a try while
            other calls get through.

    Raises:
        TransientError: the last one, when no try is left.
        Stopped: the gate was stopped meanwhile.
    """
    gate = gate or Gate()
    attempt, answered = 0, gate.answered
    while True:
        gate.pass_through()
        try:
            result = call()
        except TransientError as error:
            queued = not error.sent and gate.answered > answered
            attempt, answered = 0 if queued else attempt + 1, gate.answered
            if attempt >= policy.tries:
                raise
            pause = policy.pause(attempt, error)
            log.info("%s: %s; trying again in %.1f s", doing, error.message, pause)
            gate.hold(pause)
        else:
            gate.count()
            return result
