"""`start`, `attach`, `tune`, and the `Run` they give: a handle on a record in the store."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmtune.config import note_secrets
from llmtune.errors import LlmtuneError, RunFailed, StillQueued, StillRunning
from llmtune.metrics.points import MetricPoint
from llmtune.provider.abilities import Exporting
from llmtune.provider.protocol import Event, JobRef, ModelRef, Provider, RunState
from llmtune.provider.registry import get_provider, provider_class
from llmtune.runs import poller, submission, tracking
from llmtune.runs.failpoints import checkpoint
from llmtune.runs.planned import StartOptions, intend
from llmtune.runs.poller import Pace, Update
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, Transition, open_store
from llmtune.runs.tracking import Feeds

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.report.schema import Report
    from llmtune.runs.tuned_model import TunedModel

log = logging.getLogger("llmtune")


class Run:
    """One run: started by this process or another, followed from anywhere. Holds no state but its id."""

    def __init__(self, run_id: str, *, store: Store | None = None, provider: Provider | None = None) -> None:
        self.id = run_id
        self._store = store or open_store()
        self._provider = provider

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    # --- what is known ---------------------------------------------------------------------------------------------
    @property
    def record(self) -> RunRecord:
        """Everything the store knows of it now."""
        return self._store.get(self.id)

    @property
    def state(self) -> RunState:
        """Its state, as far as this store has heard."""
        return self.record.state

    @property
    def name(self) -> str:
        """The job's name."""
        return self.record.name

    @property
    def provider(self) -> Provider:
        """The backend, reached with the account settings the run was started with."""
        if self._provider is None:
            self._provider = provider_of(self.record)
        return self._provider

    @property
    def job_ref(self) -> JobRef | None:
        """The job at the vendor, once it is known."""
        return self._store.ref(self.id, "job", JobRef)

    @property
    def model_ref(self) -> ModelRef | None:
        """The tuned model, once there is one."""
        return self._store.ref(self.id, "model", ModelRef)

    @property
    def checkpoints(self) -> list[ModelRef]:
        """The checkpoints the vendor has named."""
        refs = self._store.refs(self.id)
        return [ModelRef.model_validate(ref) for name, ref in refs.items() if name.startswith("checkpoint:")]

    def events(self, *, after: int = 0) -> Iterator[tuple[int, Event]]:
        """What was said so far, oldest first, each with its running number; those after a number."""
        yield from self._store.events(self.id, after=after)

    def metrics(self) -> list[MetricPoint]:
        """Every metric point seen so far, each with its source."""
        return self._store.points(self.id)

    def transitions(self) -> Sequence[Transition]:
        """Every change of state, with its time and reason."""
        return self._store.transitions(self.id)

    def report(self) -> Report:
        """The report of a finished run. Raises `StillRunning` when there is none yet."""
        from llmtune.runs import evaluation

        return evaluation.read_report(self._store, self.record, lambda: self.provider)

    # --- waiting ---------------------------------------------------------------------------------------------------
    def wait(
        self,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        queue_timeout: float | None = None,
        on_update: Callable[[Update], None] | None = None,
        pace: Pace | None = None,
    ) -> Report:
        """Follow the run to its end and return its report.

        Transient errors of the vendor, unknown states and a lost network are waited out; the first is told through
        `on_update`, which is called in this thread. Giving up waiting never stops the run.

        Args:
            timeout: seconds after which waiting (not the run) ends.
            stall_timeout: seconds without a new step or state after which a stall is reported, once for each; the
                wait goes on.
            queue_timeout: seconds in the vendor's queue after which waiting (not the run) ends.
            on_update: called with each `Update`.
            pace: how often to ask; None is every 1 to 30 s at a vendor, every 0.2 to 1 s on this machine.

        Raises:
            RunFailed: it ended without a model (failed, cancelled, lost); carries the report.
            StillRunning: `timeout` passed first. It is a TimeoutError too.
            StillQueued: `queue_timeout` passed, and the run is in the queue still.
            VendorError: the vendor refuses to answer about it, in the vendor's own words; the run is as it was.
        """
        feeds = Feeds(self._store, self.id)
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        leave = poller.poller().follow(self._store, self.id, self.provider, updates.put, pace=pace)
        watch = _Watch(self.id, timeout, stall_timeout, queue_timeout)
        try:
            while True:
                try:
                    update: Update | None = watch.saw(updates.get(timeout=watch.patience()))
                except queue.Empty:
                    update = watch.idle(self._store)
                if update is None:
                    continue
                if feeds:
                    self._feed(feeds, update)
                if on_update is not None:
                    on_update(update)
                if update.last:
                    return self._ended(update)
        finally:
            leave()
            feeds.close()

    async def wait_async(
        self,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        on_update: Callable[[Update], Any] | None = None,
        pace: Pace | None = None,
    ) -> Report:
        """`wait` for asyncio: any number of these share the poller's few threads. `on_update` runs in the loop.

        `timeout` and `stall_timeout` are in seconds, and raise, as in `wait`.
        """
        async for update in self.updates(timeout=timeout, stall_timeout=stall_timeout, pace=pace):
            if on_update is not None:
                on_update(update)
            if update.last:
                return self._ended(update)
        raise AssertionError  # the last update returns or raises

    async def updates(
        self, *, timeout: float | None = None, stall_timeout: float | None = None, pace: Pace | None = None
    ) -> AsyncIterator[Update]:
        """Each update as it comes, up to the last one. `timeout` and `stall_timeout` (seconds) are as in `wait`."""
        loop = asyncio.get_running_loop()
        feeds = Feeds(self._store, self.id)
        updates: asyncio.Queue[Update] = asyncio.Queue()

        def heard(update: Update) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        leave = poller.poller().follow(self._store, self.id, self.provider, heard, pace=pace)
        watch = _Watch(self.id, timeout, stall_timeout)
        try:
            while True:
                try:
                    update: Update | None = watch.saw(await asyncio.wait_for(updates.get(), watch.patience()))
                except TimeoutError:
                    update = watch.idle(self._store)
                if update is None:
                    continue
                if feeds:
                    await asyncio.to_thread(self._feed, feeds, update)
                yield update
                if update.last:
                    return
        finally:
            leave()
            feeds.close()

    def _feed(self, feeds: Feeds, update: Update) -> None:
        if update.last and update.error is None:
            feeds.finish(self.report())
        else:
            feeds.update()

    def _ended(self, update: Update) -> Report:
        if update.error is not None:
            raise update.error
        record = update.record
        report = self.report()
        if record.state is not RunState.SUCCEEDED:
            why = f": {record.error}" if record.error else ""
            hint = submission.lost_hint(self.id) if record.state is RunState.LOST else None
            raise RunFailed(
                f"run {self.id} at {record.provider} {_ENDINGS[record.state]}{why}", report=report, hint=hint
            )
        return report

    # --- acting ----------------------------------------------------------------------------------------------------
    def export(self, format: Literal["adapter", "merged"], into: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the tuned model to a folder, with its tokenizer: the adapter alone, or one model with it merged in.

        Returns how it is loaded and served, in sentences.

        Raises:
            LlmtuneError: the run has no model (yet), or its backend keeps the weights.
            InvalidJob: there is no adapter, or the folder is there and holds something.
        """
        record, ref = self.record, self.model_ref
        if ref is None:
            raise LlmtuneError(f"run {record.id} has no tuned model: it is {record.state}")
        if not isinstance(self.provider, Exporting):
            raise LlmtuneError(
                f"{record.provider} does not hand out the weights of its tuned models",
                hint="models that were trained on this machine can be exported",
            )
        return tuple(self.provider.export(ref, format, Path(into)))

    def cancel(self) -> RunState:
        """Ask for the run to be stopped; waiting for it tells when it has. Nothing happens to a finished run."""
        from llmtune.runs import actions

        return actions.cancel(self._store, self.id, self.provider)

    def adopt(self, job_id: str) -> None:
        """Say which job at the vendor is this (lost) run's, by its id there (`job_id`), and go on following it."""
        from llmtune.runs import actions

        actions.adopt(self._store, self.id, job_id)

    def resubmit(self) -> RunState:
        """Submit a lost run once more: you have looked, and there is no job at the vendor."""
        from llmtune.runs import actions

        return actions.resubmit(self._store, self.id, self.provider)

    def feed(self, sinks: Collection[str]) -> None:
        """Send its curves to these sinks too, from their beginning; whoever waits for it from now on does that."""
        tracking.attach(self._store, self.id, tracking.checked(sinks))

    @contextmanager
    def model(self, *, checkpoint: str | None = None, deploy: bool | None = None) -> Iterator[TunedModel]:
        """The tuned model in hand: `with run.model() as m: m.generate("...")`.

        Args:
            checkpoint: id of a checkpoint instead of the final model.
            deploy: allow a deployment that costs money while the `with` lasts; None asks the job.
        """
        from llmtune.runs.tuned_model import open_model

        with open_model(self._store, self.record, self.provider, checkpoint=checkpoint, deploy=deploy) as opened:
            yield opened


_PAST_THE_QUEUE = (RunState.RUNNING, RunState.PAUSED, RunState.FINALIZING, *(s for s in RunState if s.final))
_ENDINGS = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled", RunState.LOST: "is lost"}


class _Watch:
    """The clocks of one wait: the whole of it, and the time since anything was new."""

    def __init__(
        self, run_id: str, timeout: float | None, stall_timeout: float | None, queue_timeout: float | None = None
    ) -> None:
        self._run_id = run_id
        self._timeout, self._stall, self._queue = timeout, stall_timeout, queue_timeout
        self._began = self._new = time.monotonic()
        self._told = False
        self._step: int | None = None

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
            if store.get(self._run_id).state is RunState.QUEUED:
                raise StillQueued(
                    f"run {self._run_id} has stood in the queue for {waited:g} s",
                    hint=f"come back with: llmtune runs attach {self._run_id}",
                )
        if self._stall is not None and not self._told and now >= self._new + self._stall:
            self._told = True
            message = f"no new step or state for {self._stall:g} s"
            store.note(self._run_id, message, "warning")
            log.warning("run %s: %s", self._run_id, message, extra={"run": self._run_id})
            return Update(store.get(self._run_id), message=message, stalled=True)
        return None


# --- the front door --------------------------------------------------------------------------------------------------
def start(
    job: TuningJob,
    provider: str | Provider | Sequence[str | Provider] = "local",
    *,
    budget: float | None = None,
    yes: bool = True,
    allow_unknown_cost: bool = False,
    strict: bool | Collection[str] = False,
    allow_lossy_data: bool = False,
    new: bool = False,
    reuse: bool = False,
    group: str | None = None,
    fallback_on: Sequence[str] = (),
    sinks: Collection[str] = (),
) -> Run:
    """Plan, upload, submit, and return the run. It goes on without this process.

    An unfinished run of the same content is joined instead of paid for twice. If this process dies at any moment,
    starting the same job again (or `attach`) goes on from there.

    Args:
        job: the job.
        provider: a provider's name, a configured instance's name, or a provider; of a list, the first that takes the
            job (see `llmtune.runs.fallback`).
        budget: the most that may be spent, in USD; an unknown cost counts as over it.
        yes: whether spending money is agreed to; calling from Python is, the command line asks first.
        allow_unknown_cost: let an unknown cost pass under a budget.
        strict: refuse when any field that is set (or any of these) would not be used.
        allow_lossy_data: leave out what the vendor's row format cannot carry.
        new: start another run although one of the same content is unfinished.
        reuse: return a finished run of the same content, if there is one.
        group: name of the comparison or sweep it belongs to.
        fallback_on: with a list of providers, what else moves on to the next one: "over_budget" (and, for `tune`,
            "failed" and "queued>2h").
        sinks: where its curves go too, while it is waited for: "tensorboard:runs/", "mlflow:URI#EXPERIMENT",
            "wandb:ENTITY/PROJECT". A run that is joined gets them as well. See docs/page.md.

    Raises:
        LlmtuneError: see `llmtune.errors`; nothing was sent when it is one of InvalidJob, InvalidData, NotTranslatable,
            ProviderClosed, OverBudget, MissingExtra, MissingCredentials.
    """
    sinks = tracking.checked(sinks)
    if isinstance(provider, Sequence) and not isinstance(provider, str):
        from llmtune.runs.fallback import start_first

        return start_first(
            job,
            provider,
            budget=budget,
            yes=yes,
            allow_unknown_cost=allow_unknown_cost,
            strict=strict,
            allow_lossy_data=allow_lossy_data,
            new=new,
            reuse=reuse,
            group=group,
            fallback_on=fallback_on,
            sinks=sinks,
        )
    backend = get_provider(provider)
    store = open_store()
    options = StartOptions(
        budget=budget,
        yes=yes,
        allow_unknown_cost=allow_unknown_cost,
        strict=strict,
        allow_lossy_data=allow_lossy_data,
        new=new,
        reuse=reuse,
        group=group,
    )
    record, how = intend(store, job, backend, options)
    tracking.attach(store, record.id, sinks)
    checkpoint("planned")
    run = Run(record.id, store=store, provider=backend)
    if how != "new":
        log.info("%s run %s of the same content", how, record.id, extra={"run": record.id})
    if record.state in submission.BEFORE_JOB:
        lease = submission.drive_lease(store, record.id)
        if lease.acquire(wait=0):
            with lease:
                submission.drive(store, record.id, backend, lease=lease)
        # else the process that started it is at it right now; waiting for the run waits for that too
    return run


def tune(job: TuningJob, provider: str | Provider | Sequence[str | Provider] = "local", **options: Any) -> Report:
    """`start` and `wait`: blocks until there is a report. Takes the options of both.

    Raises:
        RunFailed: the run ended without a model; carries the report. And whatever `start` and `wait` raise.
    """
    waits = {name: options.pop(name) for name in _WAITS if name in options}
    if options.get("fallback_on") and isinstance(provider, Sequence) and not isinstance(provider, str):
        from llmtune.runs.fallback import tune_first

        def follow(run: Run, queued: float | None) -> Report:
            return run.wait(**(waits if queued is None else waits | {"queue_timeout": queued}))

        return tune_first(job, provider, follow=follow, **options)
    return start(job, provider, **options).wait(**waits)


_WAITS = ("timeout", "stall_timeout", "queue_timeout", "on_update", "pace")


async def start_async(
    job: TuningJob, provider: str | Provider | Sequence[str | Provider] = "local", **options: Any
) -> Run:
    """`start` for asyncio."""
    return await asyncio.to_thread(lambda: start(job, provider, **options))


async def tune_async(
    job: TuningJob, provider: str | Provider | Sequence[str | Provider] = "local", **options: Any
) -> Report:
    """`tune` for asyncio."""
    if options.get("fallback_on"):
        return await asyncio.to_thread(lambda: tune(job, provider, **options))
    waits = {name: options.pop(name) for name in _WAITS if name in options}
    run = await start_async(job, provider, **options)
    return await run.wait_async(**waits)


def attach(run_id: str, *, provider: Provider | None = None) -> Run:
    """A run by `run_id`: its id, the beginning of that, its key, or its name.

    Raises:
        RunNotFound: there is none; the message has the nearest ids.
    """
    store = open_store()
    return Run(store.resolve(run_id), store=store, provider=provider)


def runs(
    *, states: Collection[RunState] | None = None, provider: str | None = None, limit: int | None = None
) -> list[Run]:
    """The runs in the store, newest first."""
    store = open_store()
    return [Run(record.id, store=store) for record in store.runs(states=states, provider=provider, limit=limit)]


def provider_of(record: RunRecord) -> Provider:
    """The backend of a run, with the settings it was started with, so that the same account is reached again."""
    if record.settings is None:
        return get_provider(record.provider)
    from pydantic import ValidationError

    cls = provider_class(record.kind)
    try:
        account = cls.Settings.model_validate(record.settings)
    except (ValidationError, LlmtuneError):  # the adapter's settings have changed since
        return get_provider(record.provider)
    note_secrets(account)
    return cls(record.provider, account)
