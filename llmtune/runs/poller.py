"""One poller for many runs: few threads, a bounded rate of requests, and retries while a vendor is unavailable.

Every run that is waited for is followed once in this process, however many callers wait. Each poll is due at its own
time, with jitter; the pauses grow while nothing is new, and are short again after anything new.

No error ends a thread here: it is passed to the callers that wait.
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
from llmtune.provider.types import Event, JobRef, RunState, Snapshot
from llmtune.redaction.secrets import scrub, scrub_error
from llmtune.runs import finalize, settling, submission
from llmtune.runs.failpoints import failpoint
from llmtune.runs.figures import Figures, short_line
from llmtune.runs.row_names import name_rows
from llmtune.runs.spending import guard_budget
from llmtune.runs.store.leases import Lease, describe_owner
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.runs.worker_threads import Workers

log = logging.getLogger("llmtune")
T = TypeVar("T")

#: The most threads of one process that poll, and that finish runs (evaluate, report). An evaluation asks a vendor from
#: up to eight threads of its own: all together stay under 32. The third bound includes threads whose poll is slow.
POLL_THREADS = 8
FINISH_THREADS = 2
MAX_POLL_THREADS = 64

#: Seconds that one poll may take in total, even while bytes still arrive; it is tried again later.
POLL_SECONDS = 300.0

#: Seconds after which a poll that has not answered is reported.
SILENCE_SECONDS = 60.0

#: Seconds after which a run whose store was deleted is not followed any more.
DELETED_SECONDS = 60.0

#: Polls per second of one provider, over all runs of this process. Vendors limit such requests; a hundred runs are
#: still polled every ten seconds.
POLLS_PER_SECOND = 10.0

#: Attempts at finishing a run while its vendor is unavailable, before it ends without its evaluation.
FINISH_ATTEMPTS = 5

#: So many answers in a row that the provider cannot read end the wait with an error.
UNREADABLE_LIMIT = 5

#: HTTP statuses by which a vendor says that it has no such job.
NOT_FOUND_STATUSES = frozenset({404, 410})


@dataclass(frozen=True)
class PollInterval:
    """Seconds between two polls: from `first`, growing by `growth` while nothing is new, up to `most`."""

    first: float = 1.0
    most: float = 30.0
    growth: float = 1.4

    def after(self, pause: float) -> float:
        """Return the next pause when nothing was new."""
        return min(self.most, pause * self.growth)

    @property
    def retry_policy(self) -> RetryPolicy:
        """The pauses while the vendor is unavailable. The jitter of every poll comes on top."""
        return RetryPolicy(first=self.first, most=self.most, longest=3600.0, jitter=(1.0, 1.0), never_sooner=True)


#: Pauses for vendors; a folder on this machine can be read more often.
HOSTED = PollInterval()
LOCAL = PollInterval(first=0.2, most=1.0, growth=1.2)

#: Seconds without news after which a run's `updated` is set, so that pages show that it is still followed.
TOUCH_INTERVAL = 20.0


@dataclass(frozen=True)
class Update:
    """The news of one check of a run. `print(update)` shows it on one line.

    `record` is the run as it is now; `points` and `events` are new ones. `moved` says that the run has another
    state, `stalled` that there has been no new step or state for `stall_timeout`. `message` is for people: a stall, a
    vendor that is down, a next step.
    """

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

    def __str__(self) -> str:
        figures = Figures()
        figures.apply(self.record, self.points)
        texts = [self.message] if self.message else [event.message for event in self.events[-1:]]
        return short_line("  ".join([f"{self.record.name}: {figures.state}", *figures.texts()[1:], *texts]))


Listener = Callable[[Update], None]

#: What a step returns: an update for the listeners, if any, and the seconds until the next check (None: another thread
#: schedules it).
StepResult = tuple[Update | None, float | None]


@dataclass
class _FollowedRun:
    """One run being followed."""

    store: Store
    run_id: str
    provider: Provider
    pace: PollInterval
    record: RunRecord
    """The run as it was last read, for what is reported while the store is away."""

    reported: RunRecord
    """The run as the listeners have it."""

    name: str = ""
    hosted: bool = True
    listeners: list[Listener] = field(default_factory=list)
    job: JobRef | None = None
    next_record: RunRecord | None = None
    """The record that the last poll wrote, so that the next one need not read it."""

    pause: float = 0.0
    """Seconds between the last two polls."""

    # Failures in a row, and when each kind began (`time.monotonic()`; `not_found_since`: `settling.now()`).
    vendor_errors: int = 0
    vendor_down_since: float | None = None
    unreadable_answers: int = 0
    not_found_since: float | None = None
    store_errors: int = 0
    store_down_since: float | None = None

    call_since: float | None = None
    """When the call to the vendor began that has no answer yet."""

    # Which messages the listeners have had, so that each is sent once.
    silence_reported: bool = False
    not_found_reported: bool = False
    pending_reported: bool = False
    finisher_reported: bool = False

    busy: bool = False
    """Whether a thread checks the run now."""

    finishing: bool = False
    """Whether a thread finishes the run now."""

    ended: bool = False
    """Whether it is followed no more; entries in the queue may be left."""

    leases: dict[str, Lease] = field(default_factory=dict)

    def lease(self, name: str) -> Lease:
        """Return a lease of this run: the same object each time, so that it notices a holder without a heartbeat."""
        if name not in self.leases:
            self.leases[name] = Lease(self.store, f"{name}:{self.run_id}")
        return self.leases[name]


class Poller:
    """The threads that follow runs until each has ended. `poller()` is the one of this process."""

    def __init__(self, *, polls_per_second: float = POLLS_PER_SECOND) -> None:
        self._slot_seconds = 1.0 / polls_per_second
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, _FollowedRun]] = []
        """A heap of checks: when each is due (`time.monotonic()`), a number that breaks ties, and the run."""

        self._followed: dict[tuple[str, str], _FollowedRun] = {}
        self._next_slot: dict[str, float] = {}
        """By provider, when the next poll is within its rate."""

        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._polls = Workers("llmtune-poll", POLL_THREADS, with_slow=MAX_POLL_THREADS)
        self._finishes = Workers("llmtune-finish", FINISH_THREADS)
        self._finishes_here = Workers("llmtune-finish-local", 1)  # one model in this machine's memory at a time

    def follow(
        self, store: Store, run_id: str, provider: Provider, listener: Listener, *, pace: PollInterval | None = None
    ) -> Callable[[], None]:
        """Call `listener` with every update, in a thread of the poller. Returns the function that ends it.

        Raises `RunNotFound`, or `StoreError` when the store cannot be read to begin with.
        """
        key = (store.shown, run_id)
        record = store.get(run_id)
        with self._condition:
            run = self._followed.get(key)
            if run is None:
                pace = pace or (HOSTED if provider.hosted else LOCAL)
                run = _FollowedRun(store, run_id, provider, pace, record, record, provider.name, provider.hosted)
                self._followed[key] = run
                self._schedule(run, 0.0)
            elif pace is not None:
                run.pace = pace
            run.listeners.append(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._dispatch, name="llmtune-poller", daemon=True)
                self._thread.start()

        def leave() -> None:
            with self._condition:
                if listener in run.listeners:
                    run.listeners.remove(listener)
                if not run.listeners and not run.busy and not run.finishing:
                    self._stop_following(run)

        return leave

    # --- scheduling ------------------------------------------------------------------------------------------------
    def _schedule(self, run: _FollowedRun, seconds: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), run))
        self._condition.notify()

    def _stop_following(self, run: _FollowedRun) -> None:
        run.ended = True
        key = (run.store.shown, run.run_id)
        if self._followed.get(key) is run:  # and not what follows the same run anew
            del self._followed[key]

    def _dispatch(self) -> None:
        """Hand each run to a thread when its check is due. Runs in a thread of its own while runs are followed."""
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
                due, order, run = self._due[0]
                now = time.monotonic()
                if due > now:
                    self._condition.wait(timeout=min(due - now, 1.0))
                    continue
                heapq.heappop(self._due)
                if run.ended:
                    continue
                slot = self._next_slot.get(run.name, 0.0)
                if run.hosted and slot > now:  # over the rate: its turn comes with the provider's next slot
                    heapq.heappush(self._due, (slot, order, run))
                    self._condition.wait(timeout=min(slot - now, self._slot_seconds))
                    continue
                self._next_slot[run.name] = now + self._slot_seconds
                run.busy = True
            try:
                self._polls.submit(lambda run=run: self._process(run))  # type: ignore[misc]
            except RuntimeError as error:  # the machine has no thread to give for now
                log.warning("following run %s: %s; trying again", run.run_id, error)
                with self._condition:
                    run.busy = False
                    self._schedule(run, 1.0)

    def _report_silence(self) -> None:
        """Report each poll that has been going on for more than a minute, once."""
        horizon = time.monotonic() - SILENCE_SECONDS
        with self._condition:
            followed = list(self._followed.values())
        for run in followed:
            since = run.call_since
            if since is None or since > horizon or run.silence_reported:
                continue
            run.silence_reported = True
            limits = f"{SILENCE_SECONDS:g} s; it is waited for, up to {POLL_SECONDS / 60:g} min, and asked again"
            self._notify(run, Update(run.record, message=f"{run.name} has not answered for {limits}"))

    def _process(self, run: _FollowedRun) -> None:
        """Check one run, in a worker's thread, and schedule its next check."""
        update: Update | None = None
        seconds: float | None = None
        try:
            update, seconds = self._advance(run)
        except BaseException as error:  # noqa: BLE001 - the callers that wait must get every error
            update, seconds = self._after_error(run, error)
        if update is not None:
            self._notify(run, update)
        with self._condition:
            run.busy = False
            if run.finishing or run.ended:
                return
            if not run.listeners:
                self._stop_following(run)
            elif seconds is not None:
                self._schedule(run, seconds * random.uniform(0.8, 1.2))

    def _after_error(self, run: _FollowedRun, error: BaseException) -> StepResult:
        """Wait while the store is unavailable; end following after any other error. Reads nothing: it cannot fail."""
        if isinstance(error, StoreUnavailable):
            now = time.monotonic()
            run.store_errors += 1
            down_since = run.store_down_since
            run.next_record = None
            if down_since is None or not error.deleted or now - down_since < DELETED_SECONDS:
                seconds = run.pace.retry_policy.pause(run.store_errors, TransientError(error.message))
                if down_since is not None:
                    return None, seconds
                run.store_down_since = now
                log.warning("run %s: %s; trying again", run.run_id, error.message)
                return Update(run.record, message=f"{error.message}; trying again"), seconds
            command = f"llmtune runs attach {run.run_id}"
            error.hint = (
                f"the job at {run.name} goes on, and is not followed any more; once the store is back: {command}"
            )
        elif not isinstance(error, LlmtuneError):
            with suppress(Exception):
                log.error("following run %s broke", run.run_id, exc_info=error)
        with suppress(Exception):
            scrub_error(error)
        return Update(run.record, error=error), None

    def _note_store_answers(self, run: _FollowedRun) -> str | None:
        """Note that the store answers; return the message for the listeners if it had been unavailable."""
        down_since, run.store_down_since, run.store_errors = run.store_down_since, None, 0
        return (
            None if down_since is None else f"the run store answers again after {time.monotonic() - down_since:.0f} s"
        )

    def _notify(self, run: _FollowedRun, update: Update) -> None:
        run.record = run.reported = update.record
        with self._condition:
            listeners = list(run.listeners)
            if update.last:  # whoever comes from now on, such as a listener that waits again, would hear nothing more
                self._stop_following(run)
        for listener in listeners:
            try:
                listener(update)
            except Exception:
                log.exception("a listener to run %s broke", run.run_id)

    # --- one check of a run -----------------------------------------------------------------------------------------
    def _advance(self, run: _FollowedRun) -> StepResult:
        """Read the run, and take the step that its state calls for: submit, poll, or finish."""
        store = run.store
        record = run.next_record or store.get(run.run_id)
        run.next_record, run.record = None, record
        if record.state.final:
            if settling.lacks_model(store, record):  # the vendor may have named it since
                return self._start_finishing(run, record)
            return Update(record, moved=True), None
        if record.outcome is not None:
            return self._start_finishing(run, record)
        if run.job is None:
            run.job = store.ref(run.run_id, "job", JobRef)
        if run.job is None:
            return self._submit(run)
        return self._poll(run, record, run.job)

    def _submit(self, run: _FollowedRun) -> StepResult:
        """Submit a run without a job, from where an earlier process stopped; not while another process does."""
        lease = run.lease("drive")
        if not lease.acquire(wait=0):
            return None, min(1.0, run.pace.most)
        try:
            with lease:
                record = submission.submit_run(run.store, run.run_id, run.provider, lease=lease)
        except TransientError as error:
            return self._after_transient_error(run, run.store.get(run.run_id), error)
        return Update(record, moved=True), run.pace.first

    def _poll(self, run: _FollowedRun, record: RunRecord, job: JobRef) -> StepResult:
        """Ask the vendor for a snapshot of the job, after a cancellation that is still to be sent; and store it."""
        try:
            if record.cancel_requested and record.state is not RunState.CANCELLING:
                self._call_vendor(run, lambda: run.provider.cancel(job))
                record = run.store.transition(record.id, RunState.CANCELLING, "cancellation asked for")
            snapshot = self._call_vendor(run, lambda: poll_job(run.provider, job, record.cursor))
        except TransientError as error:
            return self._after_transient_error(run, record, error)
        except LlmtuneError as error:
            if isinstance(error, VendorError) and error.code == UNREADABLE:
                return self._after_unreadable_answer(run, record, error)
            if not (isinstance(error, VendorError) and error.status in NOT_FOUND_STATUSES):
                raise
            return self._after_job_not_found(run, record, job, error)
        except Exception as error:  # noqa: BLE001 - it is raised when it goes on
            return self._after_unreadable_answer(run, record, error)
        failpoint("polled")
        return self._store_snapshot(run, record, job, snapshot)

    def _store_snapshot(self, run: _FollowedRun, record: RunRecord, job: JobRef, snapshot: Snapshot) -> StepResult:
        run.not_found_since = None
        result = run.store.record(record.id, name_rows(record, snapshot), previous=record)
        # A record that was written was read in the same transaction; another process may have changed any other.
        run.next_record = result.record if result.record is not record else None
        failpoint("snapshot-kept")
        message = self._note_store_answers(run)
        if run.vendor_down_since is not None:
            message = f"{run.name} answers again after {time.monotonic() - run.vendor_down_since:.0f} s"
        if result.moved and result.record.state is RunState.PAUSED:
            message = submission.resume_hint(result.record, run.provider, job)
        if over_budget := guard_budget(run.store, run.provider, result.record):
            message, run.next_record = over_budget, None  # it has a warning now, and may be cancelling
        run.vendor_errors, run.unreadable_answers, run.vendor_down_since = 0, 0, None
        progressed = result.record.progress != record.progress
        has_news = bool(result.points or result.events or result.moved or progressed)
        run.pause = run.pace.first if has_news else run.pace.after(run.pause)
        if not has_news and time.time() - result.record.updated > TOUCH_INTERVAL:
            run.next_record = run.store.change(record.id, durable=False)  # pages show that it is followed
        update = Update(result.record, result.points, result.events, result.moved, message)
        if result.record.outcome is not None:
            self._notify(run, update)
            return self._start_finishing(run, result.record)
        return (update if has_news or message or result.record != record else None), run.pause

    def _call_vendor(self, run: _FollowedRun, call: Callable[[], T]) -> T:
        """Return the vendor's answer to a call. Raises `TransientError` when it is not complete in `POLL_SECONDS`."""
        run.call_since, run.silence_reported = time.monotonic(), False
        try:
            if not run.hosted:
                return call()
            with limit_waiting(POLL_SECONDS):
                return call()
        except TimeLimit:
            raise TransientError(f"no complete answer came within {POLL_SECONDS:g} s") from None
        finally:
            run.call_since = None

    def _after_unreadable_answer(self, run: _FollowedRun, record: RunRecord, error: Exception) -> StepResult:
        """Poll again after an answer that cannot be read, or a provider's bug; raise `error` when it is repeated."""
        run.unreadable_answers += 1
        if run.unreadable_answers >= UNREADABLE_LIMIT:
            raise error
        log.warning("poll of run %s broke: %s", record.id, scrub(repr(error)), extra={"run": record.id})
        return None, run.pace.after(max(run.pause, run.pace.first))

    def _after_transient_error(self, run: _FollowedRun, record: RunRecord, error: TransientError) -> StepResult:
        """Wait while the vendor is unavailable: longer each time, and at least as long as it asks for."""
        run.vendor_errors += 1
        seconds = run.pace.retry_policy.pause(run.vendor_errors, error)
        message = None
        if run.vendor_down_since is None:
            run.vendor_down_since = time.monotonic()
            message = f"{run.name} does not answer ({scrub(error.message)}); trying again"
            log.info("run %s: %s", record.id, message, extra={"run": record.id})
        if seconds > SILENCE_SECONDS and error.retry_after:
            message = f"{run.name} asks for a pause ({scrub(error.message)}); trying again in {seconds:.0f} s"
        return (Update(record, message=message) if message else None), seconds

    def _after_job_not_found(self, run: _FollowedRun, record: RunRecord, job: JobRef, error: VendorError) -> StepResult:
        """Poll again while the vendor does not find the job. After `gone_seconds` the run is lost.

        A list that lags, or a key of another project, looks the same: `runs adopt` follows the job again.
        """
        if run.not_found_since is None:
            run.not_found_since = settling.now()
        remaining = run.not_found_since + settling.get_settling(run.provider).gone_seconds - settling.now()
        if remaining > 0:
            message = f"{run.name} does not find the job {job.id} ({scrub(error.message)}); looking again"
            is_first, run.not_found_reported = not run.not_found_reported, True
            return (Update(record, message=message) if is_first else None), min(run.pace.most, remaining)
        sentence = (
            f"{run.name} has no job {job.id} any more ({scrub(error.message)}): it was deleted there, or this key"
            " belongs to another account or project"
        )
        end = RunState.CANCELLED if record.cancel_requested else RunState.LOST
        record = run.store.transition(record.id, end, sentence, error=sentence, outcome=end)
        return Update(record, moved=True), None

    # --- finishing: collect, evaluate, report -----------------------------------------------------------------------
    def _start_finishing(self, run: _FollowedRun, record: RunRecord) -> StepResult:
        """Finish a run whose job has ended in a thread for that, under a lease; not while another process does."""
        lease = run.lease("finalize")
        if not lease.acquire(wait=0):
            is_first, run.finisher_reported = not run.finisher_reported, True
            message = f"{describe_owner(lease.holder)} is finishing this run" if is_first else None
            has_news = is_first or record.progress != run.reported.progress
            return (Update(record, message=message) if has_news else None), min(1.0, run.pace.most)
        with self._condition:
            run.finishing = True
        workers = self._finishes if run.hosted else self._finishes_here
        try:
            workers.submit(lambda: self._finish(run, lease))
        except RuntimeError as error:  # the machine has no thread to give for now
            log.warning("finishing run %s: %s; trying again", run.run_id, error)
            with self._condition:
                run.finishing = False
            lease.release()
            return None, run.pace.most
        return None, None

    def _finish(self, run: _FollowedRun, lease: Lease) -> None:
        """Finish a run, in a thread for that, and schedule the next try when the vendor is not ready."""
        update: Update | None = None
        seconds: float | None = None
        try:
            update = self._finalize(run, lease)
        except settling.NotSettled as error:
            seconds = min(error.retry_after or 0.0, run.pace.most)
            if not run.pending_reported:
                run.pending_reported = True
                update = Update(run.record, message=error.message)
        except TransientError as error:
            run.vendor_errors += 1
            seconds = max(run.pace.after(run.pace.first * run.vendor_errors), error.retry_after or 0.0)
        except BaseException as error:  # noqa: BLE001 - the callers that wait must get every error
            update, seconds = self._after_error(run, error)
        else:
            self._note_store_answers(run)
        if update is not None:
            self._notify(run, update)
        with self._condition:
            run.finishing = False
            if run.ended:
                return
            if not run.listeners:
                self._stop_following(run)
            else:
                self._schedule(run, run.pace.first if seconds is None else seconds)

    def _finalize(self, run: _FollowedRun, lease: Lease) -> Update:
        """Finalize a run, passing its progress to the listeners and reporting long silences."""

        def say(message: str) -> None:
            with suppress(StoreUnavailable):  # the message is for listeners; the store only notes that the run is alive
                run.record = run.store.get(run.run_id)
                if time.time() - run.record.updated > TOUCH_INTERVAL:
                    run.record = run.store.change(run.run_id, durable=False)
            self._notify(run, Update(run.record, message=message or None))  # without a message the record has news
            end_silence()

        def report(silent: float) -> None:
            message = f"nothing new from {run.name} for {silent:.0f} s while run {run.run_id} is finished"
            self._notify(run, Update(run.record, message=f"{message}; it is waited for"))

        with lease, report_silence(report) as end_silence:
            record = finalize.finalize(
                run.store,
                run.run_id,
                run.provider,
                lease=lease,
                say=say,
                last_try=run.vendor_errors >= FINISH_ATTEMPTS - 1,
            )
        return Update(record, moved=True)


_poller: Poller | None = None
_creation_lock = threading.Lock()


def poller() -> Poller:
    """Return the poller of this process."""
    global _poller
    with _creation_lock:
        if _poller is None:
            _poller = Poller()
        return _poller
