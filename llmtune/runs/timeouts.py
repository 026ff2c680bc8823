"""How long a caller waits for a run: in all, in the queue, and without news."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from llmtune.errors import StillQueued, StillRunning, StoreUnavailable
from llmtune.provider.types import RunState
from llmtune.runs.poller import Update
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

_PAST_THE_QUEUE = (RunState.RUNNING, RunState.PAUSED, RunState.FINALIZING, *(s for s in RunState if s.final))


class Timeouts:
    """The time-outs of one wait: in total, in the queue, and without news."""

    def __init__(
        self, run_id: str, timeout: float | None, stall_timeout: float | None, queue_timeout: float | None = None
    ) -> None:
        self._run_id = run_id
        self._timeout, self._stall, self._queue = timeout, stall_timeout, queue_timeout
        self._began = self._last_news = time.monotonic()
        self._stall_reported = False
        self._step: int | None = None
        self._record: RunRecord | None = None

    def remaining(self) -> float | None:
        """Return the seconds until the first time-out; None when none is set."""
        now = time.monotonic()
        ends = []
        if self._timeout is not None:
            ends.append(self._began + self._timeout - now)
        if self._stall is not None and not self._stall_reported:
            ends.append(self._last_news + self._stall - now)
        if self._queue is not None:
            ends.append(self._began + self._queue - now)
        return max(0.0, min(ends)) if ends else None

    def on_update(self, update: Update) -> Update:
        """Note an update, and return it; a new step or state restarts the stall clock."""
        self._record = update.record
        if update.record.state in _PAST_THE_QUEUE:
            self._queue = None
        step = update.record.progress.step
        if update.points or update.moved or step != self._step:
            self._last_news, self._stall_reported, self._step = time.monotonic(), False, step
        return update

    def on_timeout(self, store: Store) -> Update | None:
        """Report a stall, or end the wait by raising, once a time-out has passed."""
        now = time.monotonic()
        if self._timeout is not None and now >= self._began + self._timeout:
            raise StillRunning(
                f"run {self._run_id} did not end within {self._timeout:g} s; it goes on",
                hint=f"come back with: llmtune runs attach {self._run_id}",
            )
        if self._queue is not None and now >= self._began + self._queue:
            waited, self._queue = self._queue, None
            record = self._read(store)
            if record is not None and record.state is RunState.QUEUED:
                raise StillQueued(
                    f"run {self._run_id} has stood in the queue for {waited:g} s",
                    hint=f"come back with: llmtune runs attach {self._run_id}",
                )
        if self._stall is not None and not self._stall_reported and now >= self._last_news + self._stall:
            self._stall_reported = True
            message = f"no new step or state for {self._stall:g} s"
            with suppress(StoreUnavailable):
                store.note(self._run_id, message, "warning")
            log.warning("run %s: %s", self._run_id, message, extra={"run": self._run_id})
            record = self._read(store)
            return None if record is None else Update(record, message=message, stalled=True)
        return None

    def _read(self, store: Store) -> RunRecord | None:
        """Return the run's record; while the store is unavailable, that of the last update, or None."""
        try:
            return store.get(self._run_id)
        except StoreUnavailable:
            return self._record
