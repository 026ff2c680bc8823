"""Room for jobs at vendors that take only so many at once: a job that is refused for that waits until one has ended."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from llmtune.errors import QuotaExceeded

T = TypeVar("T")

#: Where a vendor accepts no further job and none of ours is running there: seconds until the next try, and the number
#: of tries before the refusal is raised.
FULL_SECONDS = 60.0
FULL_TRIES = 20


class JobRoom:
    """Counts our own jobs at each backend, and starts another one there as soon as the backend has room for it.

    Safe for several threads: each starts its jobs by `start` and waits for them inside `count`.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._under_way_at: Counter[str] = Counter()
        self._ended_at: Counter[str] = Counter()
        self._full: dict[str, threading.Lock] = {}
        """Backends that have refused a job because too many were running; jobs are started there one at a time."""

    def start(self, name: str, begin: Callable[[], T], *, proceed: Callable[[], None] = lambda: None) -> T:
        """Return the result of `begin`; where the backend is full, of its call once one of our jobs has ended there.

        Args:
            name: the backend.
            begin: starts a job. It is called again after `QuotaExceeded` for jobs under way, and for no other limit.
            proceed: called before each call of `begin`; raises where the job is not to be started any more.

        Raises:
            QuotaExceeded: another limit is reached; or `FULL_TRIES` in a row were refused without a job of ours there.
        """
        idle = 0
        while True:
            ended = self._ended_at[name]
            with self._full.get(name, contextlib.nullcontext()):
                proceed()
                try:
                    return begin()
                except QuotaExceeded as error:
                    if error.limit != "active_jobs" or idle >= FULL_TRIES:
                        raise
                    self._full.setdefault(name, threading.Lock())
                    idle = 0 if self._wait_for_end(name, ended) else idle + 1

    def _wait_for_end(self, name: str, ended: int) -> bool:
        """Wait until one of our jobs at a backend has ended, or `FULL_SECONDS` where none is running there.

        Returns whether one has ended. `ended` is the count of ended jobs before the job was refused.
        """
        with self._change:
            while self._ended_at[name] == ended and self._under_way_at[name]:
                self._change.wait(FULL_SECONDS)
            return self._ended_at[name] != ended or self._change.wait(FULL_SECONDS)

    @contextlib.contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Count one job at a backend as under way until the `with` ends."""
        with self._change:
            self._under_way_at[name] += 1
            self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                self._under_way_at[name] -= 1
                self._ended_at[name] += 1
                self._change.notify_all()
