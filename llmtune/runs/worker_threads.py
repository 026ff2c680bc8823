"""A pool of few daemon threads for many runs, started when needed; neither errors nor slow actions use it up."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger("llmtune")

#: Seconds of work on one action after which a thread counts as slow.
SLOW_SECONDS = 3.0


class Workers:
    """Daemon threads, made when needed: a wait that is given up must not hold the exit.

    Args:
        name: of the threads.
        most: how many there are at most.
        with_slow: how many there are at most with the slow ones. A thread that has worked on the same action for
            `SLOW_SECONDS` does not count among the `most`, so that a vendor that trickles keeps no other one waiting.
    """

    def __init__(self, name: str, max_threads: int, *, with_slow: int = 0) -> None:
        self._name, self._most, self._with_slow = name, max_threads, max(max_threads, with_slow)
        self._ready: deque[Callable[[], None]] = deque()
        self._condition = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._began: dict[int, float] = {}
        """When each working thread began what it does."""

    def submit(self, action: Callable[[], None]) -> None:
        """Run an action in a thread. Raises `RuntimeError` when there is no thread and none can be started."""
        with self._condition:
            self._ready.append(action)
            try:
                self._start_thread()
            except RuntimeError:
                if not self._threads:
                    self._ready.remove(action)
                    raise
                log.warning("%s: no further thread can be started", self._name)
            self._condition.notify()

    def grow(self) -> bool:
        """Start a thread in place of those that have become slow; return whether anything is waiting for one."""
        with self._condition:
            with suppress(RuntimeError):
                self._start_thread()
            return bool(self._ready)

    def _start_thread(self) -> None:
        horizon = time.monotonic() - SLOW_SECONDS
        slow = sum(began <= horizon for began in self._began.values())
        if self._idle >= len(self._ready) or self._threads >= min(self._most + slow, self._with_slow):
            return
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
        self._threads += 1
        try:
            thread.start()
        except RuntimeError:
            self._threads -= 1
            raise

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            with self._condition:
                self._idle += 1
                while not self._ready:
                    if not self._condition.wait(timeout=10) and not self._ready:
                        self._idle -= 1
                        self._threads -= 1
                        return
                self._idle -= 1
                action = self._ready.popleft()
                self._began[me] = time.monotonic()
            try:
                action()
            except BaseException:
                with suppress(Exception):
                    log.exception("%s: an action broke", self._name)
            with self._condition:
                self._began.pop(me, None)
