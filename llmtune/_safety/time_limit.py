"""Time limits for a piece of code, in any thread.

For programs that come with data (a chat template), and for services whose answer never ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Seconds between two checks of the limited threads, and of idleness after which the watchdog's own thread ends.
_CHECK_INTERVAL, _MAX_IDLE = 0.05, 5.0
#: Seconds after which an exception that was swallowed is raised again.
_RAISE_AGAIN_AFTER = 0.5
#: Turns of a loop in which an exception that was raised arrives; one is enough.
_CHECKS = 100


class TimeLimit(Exception):
    """The code under `limit_time` or `limit_waiting` has used up its time."""


@dataclass(eq=False)
class _LimitedThread:
    thread: int
    clock: Callable[[], float]
    deadline: float
    raised_at: float = 0.0
    """When the exception was last raised, by the monotonic clock; 0 before the first time."""


class _Watchdog:
    """One thread that raises `TimeLimit` in threads which have used up their time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[_LimitedThread] = []
        self._thread: threading.Thread | None = None

    def add(self, limited: _LimitedThread) -> None:
        with self._lock:
            self._running.append(limited)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="llmtune-time-limit", daemon=True)
                self._thread.start()

    def remove(self, limited: _LimitedThread) -> None:
        """End the limit of the calling thread. Raises `TimeLimit` where one was raised and had not arrived yet.

        It arrives here and not in later code, because a loop's end is where CPython looks for it. It is not taken back
        by `PyThreadState_SetAsyncExc`: that leaves a flag of the interpreter set, with which code that a debugger or a
        coverage tool traces never gets past the first instruction of a function (CPython 3.11.7, ceval.c, DO_TRACING).
        """
        with self._lock:
            if limited in self._running:
                self._running.remove(limited)
        if limited.raised_at:
            for _ in range(_CHECKS):
                pass

    def _watch(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(_CHECK_INTERVAL)
            with self._lock:
                for limited in self._running:
                    now = time.monotonic()
                    if limited.clock() > limited.deadline and now - limited.raised_at > _RAISE_AGAIN_AFTER:
                        limited.raised_at = now
                        _raise_in_thread(limited.thread, TimeLimit)
                if self._running:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _MAX_IDLE:
                    self._thread = None
                    return


def _raise_in_thread(thread: int, error: type[Exception]) -> None:
    """Raise an exception in another thread where it next looks for one: at the end of a loop or at a call."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


_watchdog = _Watchdog()


def _reset_after_fork() -> None:
    """Start without the parent's watchdog after a fork: its thread does not exist here, and its lock may be held."""
    global _watchdog
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


@contextlib.contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Let the code inside compute for so many seconds. Raises `TimeLimit` inside it after that.

    Only the thread's own computing counts where the system says how much that is (not on macOS and Windows), so that a
    busy machine refuses nothing. A single long call into C is not interrupted. Not to be nested.
    """
    thread = threading.get_ident()
    clock: Callable[[], float] = time.monotonic
    if hasattr(time, "pthread_getcpuclockid"):
        clock_id = time.pthread_getcpuclockid(thread)
        clock = lambda: time.clock_gettime(clock_id)  # noqa: E731
    with _watch_deadline(_LimitedThread(thread, clock, clock() + seconds)):
        yield


@contextlib.contextmanager
def limit_waiting(seconds: float) -> Iterator[None]:
    """Let the code inside take so many seconds by the clock. Raises `TimeLimit` inside it after that.

    For calls that wait for others. One that waits in a single call into C (a socket without any byte) ends by that
    call's own time-out; one to which a byte comes now and then ends here. Not to be nested.
    """
    with _watch_deadline(_LimitedThread(threading.get_ident(), time.monotonic, time.monotonic() + seconds)):
        yield


@contextlib.contextmanager
def _watch_deadline(limited: _LimitedThread) -> Iterator[None]:
    watchdog = _watchdog
    watchdog.add(limited)
    try:
        yield
    finally:
        while True:
            try:
                watchdog.remove(limited)
                break
            except TimeLimit:  # raised just as the code inside ended
                continue
