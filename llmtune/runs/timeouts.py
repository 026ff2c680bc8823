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
    """The clocks of one wait: the whole of it, and the time since anything was new."""

    def __init__(
        self, run_id: str, timeout: float | None, stall_timeout: float | None, queue_timeout: float | None = None
    ) -> None:
        self._run_id = run_id
        self._timeout, self._stall, self._queue = timeout, stall_timeout, queue_timeout
        self._began = self._new = time.monotonic()
        self._told = False
        self._step: int | None = None
        self._record: RunRecord | None = None

    def patience(self) -> float | None:
        """Seconds until one of the clocks runs out; None when neither is set."""
        now = time.monotonic()
        ends = []
        if self._timeout is not None:
            ends.append(self._began + self._timeout - now)
        if self._stall is not None and not self._told:
            ends.append(self._new + self._stall - now)
        if self._queue is not None:
            ends.append(self._began + self._queue - now)
        return max(0.0, min(ends)) if ends else None

    def saw(self, update: Update) -> Update:
        """Something came; a new step or state starts the stall clock again."""
        self._record = update.record
        if update.record.state in _PAST_THE_QUEUE:
            self._queue = None
        step = update.record.progress.step
        if update.points or update.moved or step != self._step:
            self._new, self._told, self._step = time.monotonic(), False, step
        return update

    def idle(self, store: Store) -> Update | None:
        """A clock has run out: report the stall, or end the wait."""
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
        if self._stall is not None and not self._told and now >= self._new + self._stall:
            self._told = True
            message = f"no new step or state for {self._stall:g} s"
            with suppress(StoreUnavailable):
                store.note(self._run_id, message, "warning")
            log.warning("run %s: %s", self._run_id, message, extra={"run": self._run_id})
            record = self._read(store)
            return None if record is None else Update(record, message=message, stalled=True)
        return None

    def _read(self, store: Store) -> RunRecord | None:
        """Return the run as it stands; as it was last heard of while the store is away, or None."""
        try:
            return store.get(self._run_id)
        except StoreUnavailable:
            return self._record
