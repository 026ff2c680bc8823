"""`start`, `attach`, `tune`, and the `Run` they give: a handle on a record in the store."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmtune.config import note_secrets
from llmtune.errors import LlmtuneError, RunFailed, StoreUnavailable
from llmtune.metrics.points import MetricPoint
from llmtune.provider.abilities import Exporting
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, provider_class
from llmtune.provider.types import Event, JobRef, ModelRef, RunState
from llmtune.runs import poller, submission, tracking
from llmtune.runs.poller import Pace, Update
from llmtune.runs.store.database import keep_trying
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, Transition, open_store
from llmtune.runs.timeouts import Timeouts
from llmtune.runs.tracking import Feeds

if TYPE_CHECKING:
    from llmtune.report.schema import Report
    from llmtune.runs.tuned_model import TunedModel

log = logging.getLogger("llmtune")

_ENDINGS = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled", RunState.LOST: "is lost"}


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
        from llmtune.runs import evaluation, finalize, settling

        record = self.record
        if settling.lacks_model(self._store, record):
            with suppress(LlmtuneError):  # a backend that cannot be set up here: the report is there all the same
                record = finalize.ask_again(self._store, record, self.provider)
        return evaluation.read_report(self._store, record, lambda: self.provider)

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

        Transient errors of the vendor, unknown states, a lost network and a store that is away are waited out; the
        first is reported through `on_update`, which is called in this thread. Giving up waiting never stops the run.

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
            StoreUnavailable: the store is away before anything of the run was read, or was deleted; the job goes on.
        """
        feeds = Feeds(self._store, self.id)
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        leave = poller.poller().follow(self._store, self.id, self.provider, updates.put, pace=pace)
        watch = Timeouts(self.id, timeout, stall_timeout, queue_timeout)
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
        import asyncio

        loop = asyncio.get_running_loop()
        feeds = Feeds(self._store, self.id)
        updates: asyncio.Queue[Update] = asyncio.Queue()

        def heard(update: Update) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        leave = poller.poller().follow(self._store, self.id, self.provider, heard, pace=pace)
        watch = Timeouts(self.id, timeout, stall_timeout)
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
            keep_trying(lambda: feeds.finish(self.report()), doing=f"results of run {self.id}")
            return
        with suppress(StoreUnavailable):  # what is new is still new at the next update
            feeds.update()

    def _ended(self, update: Update) -> Report:
        if update.error is not None:
            raise update.error
        record = update.record
        report = keep_trying(self.report, doing=f"report of run {self.id}")
        if record.state is not RunState.SUCCEEDED:
            why = f": {record.error}" if record.error else ""
            raise RunFailed(
                f"run {self.id} at {record.provider} {_ENDINGS[record.state]}{why}",
                report=report,
                hint=self._hint(record),
            )
        return report

    def _hint(self, record: RunRecord) -> str | None:
        from llmtune.runs import actions

        if record.state is RunState.LOST:
            return submission.lost_hint(self.id)
        try:
            return actions.resume_hint(self._store, record, self.provider)
        except LlmtuneError:  # the failure itself is what is to be read
            return None

    # --- evaluating ---------------------------------------------------------------------------------------------------
    def evaluate(
        self,
        dataset: str | os.PathLike[str] | None = None,
        *,
        max_rows: int | None = None,
        deploy: bool | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Report:
        """Evaluate a finished run, for the first time or again, and return its report with the result.

        What was asked before is not asked again. The evaluation that stood in the report is kept there as an earlier
        one, with the answers and tokens that it took.

        Args:
            dataset: a file whose rows are asked, all of them held out; None takes the job's own test rows.
            max_rows: rows asked at most; None asks the job (`evaluation.max_rows`).
            deploy: allow a deployment that costs money while it stands; None asks the job (`evaluation.deploy`).
            on_progress: receives how far it is, in words.

        Raises:
            StillRunning: the run has not ended.
            InvalidData: there are no rows to ask, or they cannot be read.
            LlmtuneError: there is no model, or it could not be asked; the report stays as it was.
        """
        from llmtune.runs.evaluate_run import evaluate_run

        return evaluate_run(
            self._store,
            self.id,
            self.provider,
            dataset=None if dataset is None else Path(dataset),
            max_rows=max_rows,
            deploy=deploy,
            say=on_progress or (lambda _: None),
        )

    async def evaluate_async(
        self,
        dataset: str | os.PathLike[str] | None = None,
        *,
        max_rows: int | None = None,
        deploy: bool | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Report:
        """`evaluate` for asyncio: `dataset`, `max_rows`, `deploy` as there; `on_progress` runs in a thread."""
        import asyncio

        return await asyncio.to_thread(
            lambda: self.evaluate(dataset, max_rows=max_rows, deploy=deploy, on_progress=on_progress)
        )

    # --- acting ----------------------------------------------------------------------------------------------------
    def export(self, format: Literal["adapter", "merged"], into: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the tuned model to a folder, with its tokenizer: the adapter alone, or one model with it merged in.

        Returns how it is loaded and served, in sentences.

        Raises:
            LlmtuneError: the run has no model (yet), or its backend keeps the weights.
            InvalidJob: there is no adapter, or the folder is there and holds something.
        """
        from llmtune.runs import finalize
        from llmtune.runs.tuned_model import no_model

        record = finalize.ask_again(self._store, self.record, self.provider)
        ref = self.model_ref
        if ref is None:
            raise no_model(record)
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

    def resume(self) -> str:
        """Let a failed or cancelled run go on from its last checkpoint, where its backend can; from where, in words.

        Raises:
            LlmtuneError: the run has not ended so, or its backend cannot go on with it.
        """
        from llmtune.runs import actions

        return actions.resume(self._store, self.id, self.provider)

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
