"""One poller for many runs: few threads, a bounded rate of requests, and patience with vendors that are unwell.

Every run that somebody waits for is followed once in this process, however many wait. Each poll is due at its own
time, with jitter; nothing new makes the pauses grow, anything new makes them short again.

Nothing that goes wrong ends a thread here: what breaks is reported to whoever waits.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from llmtune._retry import RetryPolicy, report_silence
from llmtune._safety.time_limit import TimeLimit, limit_waiting
from llmtune.errors import LlmtuneError, StoreUnavailable, TransientError, VendorError
from llmtune.metrics.points import MetricPoint
from llmtune.provider.intake import UNREADABLE, poll_job
from llmtune.provider.protocol import Provider
from llmtune.provider.types import Event, JobRef, RunState
from llmtune.redaction.secrets import scrub, scrub_error
from llmtune.runs import finalize, settling, submission
from llmtune.runs.failpoints import checkpoint
from llmtune.runs.row_names import name_rows
from llmtune.runs.store.leases import Lease, who
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.runs.worker_threads import Workers

log = logging.getLogger("llmtune")
T = TypeVar("T")

#: Threads that poll, and threads that finish runs (evaluate, report), at most, in one process. An evaluation asks a
#: vendor from up to eight threads of its own: all together stay under 32. And threads that poll with the slow ones.
POLL_THREADS = 8
FINISH_THREADS = 2
MOST_THREADS = 64

#: Seconds that one poll may take in all, however its bytes trickle in; it is tried again later.
POLL_SECONDS = 300.0

#: Seconds after which a poll that has not answered is reported.
SILENCE_SECONDS = 60.0

#: Seconds after which a run whose store was deleted is not followed any more.
DELETED_SECONDS = 60.0

#: Polls per second of one provider, over all runs of this process. Vendors bound their control planes; a hundred runs
#: are still looked at every ten seconds.
POLLS_PER_SECOND = 10.0

#: Attempts at finishing a run at a vendor that is unwell, before it ends without its evaluation.
FINISH_ATTEMPTS = 5

#: An adapter that breaks (not: a vendor that is down) so often in a row stops the wait.
BROKEN_LIMIT = 5

#: HTTP statuses by which a vendor says that it has no such job.
GONE = frozenset({404, 410})


@dataclass(frozen=True)
class Pace:
    """Seconds between two polls: from `first`, growing by `growth` while nothing is new, up to `most`."""

    first: float = 1.0
    most: float = 30.0
    growth: float = 1.4

    def after(self, pause: float) -> float:
        """The next pause when nothing was new."""
        return min(self.most, pause * self.growth)

    @property
    def when_unwell(self) -> RetryPolicy:
        """The pauses while the vendor is down. The jitter of every poll comes on top."""
        return RetryPolicy(first=self.first, most=self.most, longest=3600.0, jitter=(1.0, 1.0), never_sooner=True)


#: Vendors are asked now and then; a folder on this machine can be looked at more often.
HOSTED = Pace()
LOCAL = Pace(first=0.2, most=1.0, growth=1.2)

#: Seconds without news after which a run that is followed is marked as such, so that the pages do not say otherwise.
HEARD_EVERY = 20.0


@dataclass(frozen=True)
class Update:
    """What one look at a run brought. `message` is said to people: a stall, a vendor that is down, a next step."""

    record: RunRecord
    points: tuple[MetricPoint, ...] = ()
    events: tuple[Event, ...] = ()
    moved: bool = False
    message: str | None = None
    stalled: bool = False
    error: BaseException | None = None
    """Why following ended early: a permanent refusal in the vendor's own words. The run itself is as it was."""

    @property
    def last(self) -> bool:
        """Whether no further update will come."""
        return self.record.state.final or self.error is not None


Listener = Callable[[Update], None]


@dataclass
class _Following:
    """One run being followed."""

    store: Store
    run_id: str
    provider: Provider
    pace: Pace
    record: RunRecord
    """The run as it was last read, for what is reported while the store is away."""

    name: str = ""
    hosted: bool = True
    listeners: list[Listener] = field(default_factory=list)
    job: JobRef | None = None
    known: RunRecord | None = None
    pause: float = 0.0
    errors: int = 0
    broken: int = 0
    down_since: float | None = None
    store_errors: int = 0
    store_down_since: float | None = None
    polling_since: float | None = None
    silence_told: bool = False
    gone_since: float | None = None
    gone_told: bool = False
    unsettled: bool = False
    busy: bool = False
    finishing: bool = False
    ended: bool = False
    leases: dict[str, Lease] = field(default_factory=dict)

    def lease(self, name: str) -> Lease:
        """The same lease object for every look, so that it notices a holder whose heart has stopped."""
        if name not in self.leases:
            self.leases[name] = Lease(self.store, f"{name}:{self.run_id}")
        return self.leases[name]


class Poller:
    """Follows runs until each has ended. `poller()` is the one of this process."""

    def __init__(self, *, polls_per_second: float = POLLS_PER_SECOND) -> None:
        self._gap = 1.0 / polls_per_second
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, _Following]] = []
        self._followed: dict[tuple[str, str], _Following] = {}
        self._free: dict[str, float] = {}
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._polls = Workers("llmtune-poll", POLL_THREADS, with_slow=MOST_THREADS)
        self._finishes = Workers("llmtune-finish", FINISH_THREADS)
        self._finishes_here = Workers("llmtune-finish-local", 1)  # one model in this machine's memory at a time

    def follow(
        self, store: Store, run_id: str, provider: Provider, listener: Listener, *, pace: Pace | None = None
    ) -> Callable[[], None]:
        """Tell `listener` of every update, from a thread of the poller's. Returns the call that ends it.

        Raises `RunNotFound`, or `StoreError` when the store cannot be read to begin with.
        """
        key = (store.shown, run_id)
        record = store.get(run_id)
        with self._condition:
            following = self._followed.get(key)
            if following is None:
                pace = pace or (HOSTED if provider.hosted else LOCAL)
                following = _Following(store, run_id, provider, pace, record, provider.name, provider.hosted)
                self._followed[key] = following
                self._schedule(following, 0.0)
            elif pace is not None:
                following.pace = pace
            following.listeners.append(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._dispatch, name="llmtune-poller", daemon=True)
                self._thread.start()

        def leave() -> None:
            with self._condition:
                if listener in following.listeners:
                    following.listeners.remove(listener)
                if not following.listeners and not following.busy and not following.finishing:
                    self._end(following)

        return leave

    # --- scheduling ------------------------------------------------------------------------------------------------
    def _schedule(self, following: _Following, seconds: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), following))
        self._condition.notify()

    def _end(self, following: _Following) -> None:
        following.ended = True
        self._followed.pop((following.store.shown, following.run_id), None)

    def _dispatch(self) -> None:
        while True:
            crowded = self._polls.grow()
            self._report_silence()
            with self._condition:
                if not self._due:
                    if self._followed or crowded:
                        self._condition.wait(timeout=1.0)
                    elif not self._condition.wait(timeout=30) and not self._due and not self._followed:
                        self._thread = None
                        return
                    continue
                due, order, following = self._due[0]
                now = time.monotonic()
                if due > now:
                    self._condition.wait(timeout=min(due - now, 1.0))
                    continue
                heapq.heappop(self._due)
                if following.ended:
                    continue
                free = self._free.get(following.name, 0.0)
                if following.hosted and free > now:  # over the rate: its turn comes when a slot is free
                    heapq.heappush(self._due, (free, order, following))
                    self._condition.wait(timeout=min(free - now, self._gap))
                    continue
                self._free[following.name] = now + self._gap
                following.busy = True
            try:
                self._polls.submit(lambda following=following: self._visit(following))  # type: ignore[misc]
            except RuntimeError as error:  # the machine has no thread to give for now
                log.warning("following run %s: %s; trying again", following.run_id, error)
                with self._condition:
                    following.busy = False
                    self._schedule(following, 1.0)

    def _report_silence(self) -> None:
        """Report each poll that has been going on for more than a minute, once."""
        horizon = time.monotonic() - SILENCE_SECONDS
        with self._condition:
            followed = list(self._followed.values())
        for following in followed:
            since = following.polling_since
            if since is None or since > horizon or following.silence_told:
                continue
            following.silence_told = True
            limits = f"{SILENCE_SECONDS:g} s; it is waited for, up to {POLL_SECONDS / 60:g} min, and asked again"
            self._tell(following, Update(following.record, message=f"{following.name} has not answered for {limits}"))

    def _visit(self, following: _Following) -> None:
        """One look at one run, in a worker's thread."""
        update: Update | None = None
        seconds: float | None = None
        try:
            update, seconds = self._look(following)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of anything that breaks
            update, seconds = self._after_error(following, error)
        if update is not None:
            self._tell(following, update)
        with self._condition:
            following.busy = False
            if following.finishing:
                return
            if (update is not None and update.last) or not following.listeners:
                self._end(following)
            elif seconds is not None:
                self._schedule(following, seconds * random.uniform(0.8, 1.2))

    def _after_error(self, following: _Following, error: BaseException) -> tuple[Update | None, float | None]:
        """Wait for a store that is away; give up on anything else. It reads nothing, and so cannot fail."""
        if isinstance(error, StoreUnavailable):
            now = time.monotonic()
            following.store_errors += 1
            began = following.store_down_since
            following.known = None
            if began is None or not error.deleted or now - began < DELETED_SECONDS:
                seconds = following.pace.when_unwell.pause(following.store_errors, TransientError(error.message))
                if began is not None:
                    return None, seconds
                following.store_down_since = now
                log.warning("run %s: %s; trying again", following.run_id, error.message)
                return Update(following.record, message=f"{error.message}; trying again"), seconds
            back = f"once the store is back: llmtune runs attach {following.run_id}"
            error.hint = f"the job at {following.name} goes on, and is not followed any more; {back}"
        elif not isinstance(error, LlmtuneError):
            with suppress(Exception):
                log.error("following run %s broke", following.run_id, exc_info=error)
        with suppress(Exception):
            scrub_error(error)
        return Update(following.record, error=error), None

    def _store_is_back(self, following: _Following) -> str | None:
        """Note that the store was read; return what is said of it where it was away."""
        began, following.store_down_since, following.store_errors = following.store_down_since, None, 0
        return None if began is None else f"the run store answers again after {time.monotonic() - began:.0f} s"

    def _tell(self, following: _Following, update: Update) -> None:
        following.record = update.record
        with self._condition:
            listeners = list(following.listeners)
        for listener in listeners:
            try:
                listener(update)
            except Exception:
                log.exception("a listener to run %s broke", following.run_id)

    # --- one look --------------------------------------------------------------------------------------------------
    def _look(self, following: _Following) -> tuple[Update | None, float | None]:
        """What is new, and the seconds until the next look (None: somebody else schedules it)."""
        store = following.store
        record = following.known or store.get(following.run_id)
        following.known, following.record = None, record
        if record.state.final:
            if settling.lacks_model(store, record):  # the vendor may have named it since
                return self._finish(following, record)
            return Update(record, moved=True), None
        if record.outcome is not None:
            return self._finish(following, record)
        if following.job is None:
            following.job = store.ref(record.id, "job", JobRef)
        if following.job is None:
            return self._drive(following)
        return self._poll(following, record, following.job)

    def _drive(self, following: _Following) -> tuple[Update | None, float | None]:
        """A run without a job: go on where whoever drove it stopped, unless they still do."""
        lease = following.lease("drive")
        if not lease.acquire(wait=0):
            return None, min(1.0, following.pace.most)
        try:
            with lease:
                record = submission.drive(following.store, following.run_id, following.provider, lease=lease)
        except TransientError as error:
            return self._unwell(following, following.store.get(following.run_id), error)
        return Update(record, moved=True), following.pace.first

    def _poll(self, following: _Following, record: RunRecord, job: JobRef) -> tuple[Update | None, float | None]:
        store, provider = following.store, following.provider
        try:
            if record.cancel_requested and record.state is not RunState.CANCELLING:
                self._ask(following, lambda: provider.cancel(job))
                record = store.move(record.id, RunState.CANCELLING, "cancellation asked for")
            snapshot = self._ask(following, lambda: poll_job(provider, job, record.cursor))
        except TransientError as error:
            return self._unwell(following, record, error)
        except LlmtuneError as error:
            if isinstance(error, VendorError) and error.code == UNREADABLE:
                return self._broke(following, record, error)
            if not (isinstance(error, VendorError) and error.status in GONE):
                raise
            return self._gone(following, record, job, error)
        except Exception as error:  # noqa: BLE001 - it is raised when it goes on
            return self._broke(following, record, error)
        checkpoint("polled")
        following.gone_since = None
        seen = store.record(record.id, name_rows(record, snapshot), known=record)
        # What was just written was read in the same transaction; what was not may have changed in another process.
        following.known = seen.record if seen.record is not record else None
        checkpoint("snapshot-kept")
        message = self._store_is_back(following)
        if following.down_since is not None:
            message = f"{provider.name} answers again after {time.monotonic() - following.down_since:.0f} s"
        if seen.moved and seen.record.state is RunState.PAUSED:
            message = submission.resume_hint(seen.record, provider, job)
        following.errors, following.broken, following.down_since = 0, 0, None
        new = bool(seen.points or seen.events or seen.moved or seen.record.progress != record.progress)
        following.pause = following.pace.first if new else following.pace.after(following.pause)
        if not new and time.time() - seen.record.updated > HEARD_EVERY:
            following.known = store.change(record.id, durable=False)  # it is followed, though nothing is new
        update = Update(seen.record, seen.points, seen.events, seen.moved, message)
        if seen.record.outcome is not None:
            self._tell(following, update)
            return self._finish(following, seen.record)
        return (update if new or message or seen.record != record else None), following.pause

    def _ask(self, following: _Following, call: Callable[[], T]) -> T:
        """Return what the vendor answers, within a total deadline however slowly it comes."""
        following.polling_since, following.silence_told = time.monotonic(), False
        try:
            if not following.hosted:
                return call()
            with limit_waiting(POLL_SECONDS):
                return call()
        except TimeLimit:
            raise TransientError(f"no whole answer came within {POLL_SECONDS:g} s") from None
        finally:
            following.polling_since = None

    def _broke(self, following: _Following, record: RunRecord, error: Exception) -> tuple[None, float]:
        """An answer that cannot be read, or a provider that breaks: look again, and give up when it goes on so."""
        following.broken += 1
        if following.broken >= BROKEN_LIMIT:
            raise error
        log.warning("poll of run %s broke: %s", record.id, scrub(repr(error)), extra={"run": record.id})
        return None, following.pace.after(max(following.pause, following.pace.first))

    def _unwell(
        self, following: _Following, record: RunRecord, error: TransientError
    ) -> tuple[Update | None, float | None]:
        """The vendor is down for now: wait longer each time, at least as long as it asks for."""
        following.errors += 1
        seconds = following.pace.when_unwell.pause(following.errors, error)
        message = None
        if following.down_since is None:
            following.down_since = time.monotonic()
            message = f"{following.name} does not answer ({scrub(error.message)}); trying again"
            log.info("run %s: %s", record.id, message, extra={"run": record.id})
        if seconds > SILENCE_SECONDS and error.retry_after:
            message = f"{following.name} asks for a pause ({scrub(error.message)}); trying again in {seconds:.0f} s"
        return (Update(record, message=message) if message else None), seconds

    def _gone(
        self, following: _Following, record: RunRecord, job: JobRef, error: VendorError
    ) -> tuple[Update | None, float | None]:
        """The vendor knows no such job. After a while that is believed, and the run is lost: nothing is paid again.

        A list that lags, or a key of another project, looks the same: `runs adopt` follows the job again.
        """
        provider = following.provider
        if following.gone_since is None:
            following.gone_since = settling.now()
        remaining = following.gone_since + settling.settling_of(provider).gone_seconds - settling.now()
        if remaining > 0:
            message = f"{provider.name} does not find the job {job.id} ({scrub(error.message)}); looking again"
            first, following.gone_told = not following.gone_told, True
            return (Update(record, message=message) if first else None), min(following.pace.most, remaining)
        sentence = (
            f"{provider.name} has no job {job.id} any more ({scrub(error.message)}): it was deleted there, or this key"
            " belongs to another account or project"
        )
        end = RunState.CANCELLED if record.cancel_requested else RunState.LOST
        record = following.store.move(record.id, end, sentence, error=sentence, outcome=end)
        return Update(record, moved=True), None

    # --- the end ---------------------------------------------------------------------------------------------------
    def _finish(self, following: _Following, record: RunRecord) -> tuple[Update | None, float | None]:
        """The job has ended: collect, evaluate and report in a thread for that, under a lease."""
        lease = following.lease("finalize")
        if not lease.acquire(wait=0):
            first, following.pause = following.pause != -1.0, -1.0
            update = Update(record, message=f"{who(lease.holder)} is finishing this run") if first else None
            return update, min(1.0, following.pace.most)
        with self._condition:
            following.finishing = True
        workers = self._finishes if following.hosted else self._finishes_here
        try:
            workers.submit(lambda: self._finish_in_thread(following, lease))
        except RuntimeError as error:  # the machine has no thread to give for now
            log.warning("finishing run %s: %s; trying again", following.run_id, error)
            with self._condition:
                following.finishing = False
            lease.release()
            return None, following.pace.most
        return None, None

    def _finish_in_thread(self, following: _Following, lease: Lease) -> None:
        def say(message: str) -> None:
            with suppress(StoreUnavailable):  # the words are for whoever waits; the store only notes that it is alive
                following.record = following.store.get(following.run_id)
                if time.time() - following.record.updated > HEARD_EVERY:
                    following.record = following.store.change(following.run_id, durable=False)
            self._tell(following, Update(following.record, message=message))
            end_silence()

        def tell(silent: float) -> None:
            message = f"nothing new from {following.name} for {silent:.0f} s while run {following.run_id} is finished"
            self._tell(following, Update(following.record, message=f"{message}; it is waited for"))

        end_silence: Callable[[], None] = lambda: None  # noqa: E731
        seconds: float | None = None
        update: Update | None = None
        try:
            with lease, report_silence(tell) as end_silence:
                record = finalize.finalize(
                    following.store,
                    following.run_id,
                    following.provider,
                    lease=lease,
                    say=say,
                    last_try=following.errors >= FINISH_ATTEMPTS - 1,
                )
            update = Update(record, moved=True)
        except settling.NotSettled as error:
            seconds = min(error.retry_after or 0.0, following.pace.most)
            if not following.unsettled:
                following.unsettled = True
                update = Update(following.record, message=error.message)
        except TransientError as error:
            following.errors += 1
            seconds = max(following.pace.after(following.pace.first * following.errors), error.retry_after or 0.0)
        except BaseException as error:  # noqa: BLE001 - a listener waits: it must hear of anything that breaks
            update, seconds = self._after_error(following, error)
        else:
            self._store_is_back(following)
        if update is not None:
            self._tell(following, update)
        with self._condition:
            following.finishing = False
            if (update is not None and update.last) or not following.listeners:
                self._end(following)
            else:
                self._schedule(following, following.pace.first if seconds is None else seconds)


_poller: Poller | None = None
_making = threading.Lock()


def poller() -> Poller:
    """The poller of this process."""
    global _poller
    with _making:
        if _poller is None:
            _poller = Poller()
        return _poller
