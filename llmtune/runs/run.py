"""`Run`, which `start` and `attach` return: a handle on a run's record in the store."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llmtune.errors import InvalidJob, LlmtuneError, RunFailed, StoreUnavailable
from llmtune.metrics.points import MetricPoint
from llmtune.provider.abilities import WeightImport
from llmtune.provider.protocol import Provider
from llmtune.provider.types import Event, JobRef, ModelRef, RunState
from llmtune.redaction.rendering import Rendered
from llmtune.runs import poller, submission, tracking, weight_export
from llmtune.runs.backend import provider_of
from llmtune.runs.figures import short_line
from llmtune.runs.poller import PollInterval, Update
from llmtune.runs.store.database import STORE_PAUSE, STORE_TIMEOUT, keep_trying
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, Transition, open_store
from llmtune.runs.timeouts import Timeouts
from llmtune.runs.tracking import TrackerFeeds
from llmtune.runs.weight_export import CHECK_ROWS

if TYPE_CHECKING:
    from llmtune.provider.abilities import ExportFormat, Precision
    from llmtune.report.schema import Report
    from llmtune.runs.tuned_model import TunedModel

log = logging.getLogger("llmtune")

_ENDINGS = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled", RunState.LOST: "is lost"}


class Run(Rendered):
    """One run: started by this process or another, followed from anywhere. Holds no state but its id."""

    _renderers: ClassVar[Mapping[str, str]] = {"notebook": "llmtune.runs.notebook:show_run"}

    def __init__(self, run_id: str, *, store: Store | None = None, provider: Provider | None = None) -> None:
        self.id = run_id
        self._store = store or open_store()
        self._provider = provider

    def __repr__(self) -> str:
        try:
            record = self.record
        except LlmtuneError:  # a repr never fails, also where the store is away or the run is not in it
            return f"Run({self.id!r})"
        return f"Run({self.id!r}, {short_line(record.name, 60)!r} at {record.provider}: {record.state.value})"

    # --- what is known ---------------------------------------------------------------------------------------------
    @property
    def record(self) -> RunRecord:
        """The record of the run as the store has it now."""
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
        """Yield the events so far, oldest first, each with its running number; only those above `after`."""
        yield from self._store.events(self.id, after=after)

    def metrics(self) -> list[MetricPoint]:
        """Return every metric point so far, each with its source."""
        return self._store.points(self.id)

    def transitions(self) -> Sequence[Transition]:
        """Return every change of state, with its time and reason."""
        return self._store.transitions(self.id)

    def report(self) -> Report:
        """Return the report of a finished run. Raises `StillRunning` when there is none yet."""
        from llmtune.runs import evaluation, finalize, settling

        record = self.record
        if settling.lacks_model(self._store, record):
            with suppress(LlmtuneError):  # a backend that cannot be set up here: the report is there all the same
                record = finalize.refresh_missing_model(self._store, record, self.provider)
        return evaluation.read_report(self._store, record, lambda: self.provider)

    # --- waiting ---------------------------------------------------------------------------------------------------
    def wait(
        self,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        queue_timeout: float | None = None,
        on_update: Callable[[Update], None] | None = None,
        pace: PollInterval | None = None,
    ) -> Report:
        """Follow the run to its end and return its report.

        Transient errors of the vendor, unknown states, a lost network and an unavailable store are waited out; the
        first is reported through `on_update`, which is called in this thread. Giving up waiting never stops the run.

        Args:
            timeout: seconds after which waiting (not the run) ends.
            stall_timeout: seconds without a new step or state after which a stall is reported, once per stall; the
                wait goes on.
            queue_timeout: seconds in the vendor's queue after which waiting (not the run) ends.
            on_update: called with each `Update`.
            pace: how often to ask; None is every 1 to 30 s at a vendor, every 0.2 to 1 s on this machine.

        Raises:
            RunFailed: it ended without a model (failed, cancelled, lost); carries the report.
            StillRunning: `timeout` passed first. It is a TimeoutError too.
            StillQueued: `queue_timeout` passed, and the run is still in the queue.
            VendorError: the vendor refuses to answer about it, in the vendor's own words; the run is as it was.
            StoreUnavailable: the store was deleted, or was unavailable from the start, for ten minutes or `timeout`;
                the job goes on.
        """
        watch = Timeouts(self.id, timeout, stall_timeout, queue_timeout)
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        feeds, leave = keep_trying(
            lambda: self._follow(updates.put, pace),
            doing=f"waiting for run {self.id}",
            seconds=_first_read_seconds(timeout),
            even_deleted=False,
        )
        try:
            while True:
                try:
                    update: Update | None = watch.on_update(updates.get(timeout=watch.remaining()))
                except queue.Empty:
                    update = watch.on_timeout(self._store)
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
        queue_timeout: float | None = None,
        on_update: Callable[[Update], Any] | None = None,
        pace: PollInterval | None = None,
    ) -> Report:
        """Wait as `wait` does, on asyncio: all waits share the poller's few threads. `on_update` runs in the loop.

        `timeout`, `stall_timeout` and `queue_timeout` are in seconds, and raise, as in `wait`.
        """
        async for update in self.updates(
            timeout=timeout, stall_timeout=stall_timeout, queue_timeout=queue_timeout, pace=pace
        ):
            if on_update is not None:
                on_update(update)
            if update.last:
                return self._ended(update)
        raise AssertionError  # the last update returns or raises

    async def updates(
        self,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        queue_timeout: float | None = None,
        pace: PollInterval | None = None,
    ) -> AsyncIterator[Update]:
        """Yield each update as it comes, up to the last.

        `timeout`, `stall_timeout` and `queue_timeout` are in seconds, as in `wait`.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        updates: asyncio.Queue[Update] = asyncio.Queue()

        def put(update: Update) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        watch = Timeouts(self.id, timeout, stall_timeout, queue_timeout)
        pause, waited = 0.25, 0.0
        while True:
            try:
                feeds, leave = self._follow(put, pace)
                break
            except StoreUnavailable as error:
                if error.deleted or waited >= _first_read_seconds(timeout):
                    raise
                if not waited:
                    log.warning("waiting for run %s: %s; trying again", self.id, error.message)
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, STORE_PAUSE)
        try:
            while True:
                try:
                    update: Update | None = watch.on_update(await asyncio.wait_for(updates.get(), watch.remaining()))
                except TimeoutError:
                    update = watch.on_timeout(self._store)
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

    def _follow(
        self, listener: Callable[[Update], None], pace: PollInterval | None
    ) -> tuple[TrackerFeeds, Callable[[], None]]:
        """Have the poller follow the run; return its trackers, and the function that ends it."""
        feeds = TrackerFeeds(self._store, self.id)
        return feeds, poller.poller().follow(self._store, self.id, self.provider, listener, pace=pace)

    def _feed(self, feeds: TrackerFeeds, update: Update) -> None:
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
        except LlmtuneError:  # the failure itself matters more
            return None

    # --- evaluating ---------------------------------------------------------------------------------------------------
    def evaluate(
        self,
        dataset: str | os.PathLike[str] | None = None,
        *,
        max_rows: int | None = None,
        panel: bool | str | None = None,
        deploy: bool | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Report:
        """Evaluate a finished run, for the first time or again, and return its report with the result.

        Stored answers are not asked for again. The previous evaluation is kept in the report as an earlier one, with
        the answers and tokens that it took.

        Args:
            dataset: a file whose rows are all used as test rows; None takes the job's own test rows.
            max_rows: rows asked at most; None asks the job (`evaluation.max_rows`).
            panel: the panel that base and tuned model are asked: True for the one that llmtune ships, a name or a file;
                None asks the job (`evaluation.panel`).
            deploy: allow a deployment that costs money while it stands; None asks the job (`evaluation.deploy`).
            on_progress: receives progress messages.

        Raises:
            StillRunning: the run has not ended.
            InvalidData: there are no rows to ask, or they or the panel cannot be read.
            UnknownName: there is no panel of that name.
            LlmtuneError: there is no model, or it could not be asked; the report stays as it was.
        """
        from llmtune.runs.evaluate_run import evaluate_run

        return evaluate_run(
            self._store,
            self.id,
            self.provider,
            dataset=None if dataset is None else Path(dataset),
            max_rows=max_rows,
            panel=panel,
            deploy=deploy,
            say=on_progress or (lambda _: None),
        )

    async def evaluate_async(
        self,
        dataset: str | os.PathLike[str] | None = None,
        *,
        max_rows: int | None = None,
        panel: bool | str | None = None,
        deploy: bool | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Report:
        """Evaluate in a thread, with `dataset`, `max_rows`, `panel`, `deploy` and `on_progress` as in `evaluate`."""
        import asyncio

        return await asyncio.to_thread(
            lambda: self.evaluate(dataset, max_rows=max_rows, panel=panel, deploy=deploy, on_progress=on_progress)
        )

    # --- acting ----------------------------------------------------------------------------------------------------
    def export(
        self,
        format: ExportFormat,
        into: str | os.PathLike[str],
        *,
        precision: Precision | None = None,
        check_rows: int = CHECK_ROWS,
        on_progress: Callable[[str], None] | None = None,
    ) -> tuple[str, ...]:
        """Write the tuned model to a folder, as it is trained or as an inference server loads it.

        Args:
            format: `adapter` (the adapter alone) or `merged` (one model with it merged in), with the tokenizer;
                `gguf` (one file for llama.cpp), `gguf-adapter` (the base and the adapter as two files), `ollama` (a
                GGUF file with its Modelfile) or `vllm` (a folder with its command).
            into: the folder; it must not exist, or be empty.
            precision: of the matrices in GGUF files, f16 by default.
            check_rows: held-out rows on which the exported model is verified against the tuned one, where what serves
                it can be run here; 0 for no verification. The result is in the run's report, as that of `verify` is; an
                older one of the same format and precision goes.
            on_progress: receives progress messages.

        Returns sentences on how to load and serve it, on what differs there, and on the verification.

        Raises:
            LlmtuneError: the run has no model (yet), or its backend does not hand out weights.
            InvalidJob: the model cannot be written in this form, or the folder is not empty.
            MissingExtra: the package that writes the form is not installed.
        """
        from llmtune.runs import finalize
        from llmtune.runs.tuned_model import no_model_error

        record = finalize.refresh_missing_model(self._store, self.record, self.provider)
        ref = self.model_ref
        if ref is None:
            raise no_model_error(record)
        if check_rows < 0:
            raise InvalidJob(f"check_rows is 0 or more, not {check_rows}", where="check_rows")
        folder = Path(into)
        say = on_progress or (lambda _: None)
        notes = weight_export.export(self.provider, ref, format, folder, precision=precision)
        say(f"wrote {folder}")
        result = weight_export.describe_verification(
            self._store, record, self.provider, folder, format, precision=precision, rows=check_rows, say=say
        )
        return (*notes, *result)

    def find_import(self, provider: Provider) -> WeightImport | None:
        """Return the import of this run's weights into another provider's account, as that reports it; None for none.

        Raises:
            LlmtuneError: the provider takes no weights in.
        """
        from llmtune.runs import weight_import

        return weight_import.find(self.record, provider)

    def import_into(self, provider: Provider, folder: str | os.PathLike[str]) -> WeightImport:
        """Import the run's merged weights into another provider's account; costs money there while the model stands.

        `folder` holds the merged weights; they are exported to it where it is not there yet. What has been uploaded or
        started already is found again by the run's key, so that the same call goes on after a break. What the model
        costs there is written to the run's warnings before anything is started.

        Raises:
            LlmtuneError: the provider takes no weights in, or the run has none.
        """
        from llmtune.runs import weight_import

        return weight_import.start(
            self._store, self.record, provider, Path(folder), lambda into: self.export("merged", into, check_rows=0)
        )

    def cancel(self) -> RunState:
        """Ask for the run to be cancelled; `wait` returns when it has ended. Nothing happens to a finished run."""
        from llmtune.runs import actions

        return actions.cancel(self._store, self.id, self.provider)

    def adopt(self, job_id: str) -> None:
        """Assign the vendor's job `job_id` to this lost run, and follow it from now on."""
        from llmtune.runs import actions

        actions.adopt(self._store, self.id, job_id)

    def resubmit(self) -> RunState:
        """Submit a lost run again, after you have checked that there is no job at the vendor."""
        from llmtune.runs import actions

        return actions.resubmit(self._store, self.id, self.provider)

    def resume(self) -> str:
        """Resume a failed or cancelled run from its last checkpoint, if its backend can. Returns that point in words.

        Raises:
            LlmtuneError: the run is neither failed nor cancelled, or its backend cannot resume it.
        """
        from llmtune.runs import actions

        return actions.resume(self._store, self.id, self.provider)

    def feed(self, sinks: Collection[str]) -> None:
        """Send the run's curves to these trackers too, from their beginning, while it is waited for from now on."""
        tracking.attach(self._store, self.id, tracking.normalize_specs(sinks))

    @contextmanager
    def model(self, *, checkpoint: str | None = None, deploy: bool | None = None) -> Iterator[TunedModel]:
        """Open the tuned model to ask it: `with run.model() as model: model.generate("...")`.

        Args:
            checkpoint: id of a checkpoint instead of the final model.
            deploy: allow a deployment that costs money while the `with` lasts; None asks the job.
        """
        from llmtune.runs.tuned_model import open_model

        with open_model(self._store, self.record, self.provider, checkpoint=checkpoint, deploy=deploy) as opened:
            yield opened


def _first_read_seconds(timeout: float | None) -> float:
    """Return for how long a store that is unavailable before the first update is asked again."""
    return STORE_TIMEOUT if timeout is None else min(timeout, STORE_TIMEOUT)
