"""The life of a job after its request was answered: it is planned, becomes a run, and is followed to its end.

Every step can be repeated: the run's id is in the job's record before the run exists, so a server that starts after a
kill finds the run, or finds that there is none yet. From there on it is a run like any other for `llmtune.runs`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from llmtune._safety.private_files import open_private
from llmtune.errors import InvalidSettings, LlmtuneError, RunNotFound, StoreError, TransientError
from llmtune.provider.types import RunState
from llmtune.redaction.secrets import scrub, scrub_error
from llmtune.runs.failpoints import failpoint
from llmtune.runs.finalize import remove_leftover
from llmtune.runs.planned import StartOptions, prepare_run
from llmtune.runs.poller import Update, poller
from llmtune.runs.run import Run
from llmtune.runs.store.store import Store
from llmtune.server.tuning.events import result_csv
from llmtune.server.tuning.keys import Keys
from llmtune.server.tuning.models import Target
from llmtune.server.tuning.quotas import Budgets
from llmtune.server.tuning.state import FileRecord, JobRecord, TuningState, derive_id
from llmtune.server.tuning.translate import build_job, to_request_error

log = logging.getLogger("llmtune")

#: Seconds until a job is tried again after an error.
PAUSE = 30.0


class Follower:
    """Brings every unfinished job to its end, in its own threads."""

    def __init__(self, state: TuningState, store: Store, options: StartOptions, keys: Keys, budgets: Budgets) -> None:
        self._state, self._store, self._options = state, store, options
        self._keys, self._budgets = keys, budgets
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="llmtune-tuning")
        self._closed = threading.Event()
        self._unfollow: dict[str, Callable[[], None]] = {}

    def resume(self, served: Collection[str] = ()) -> None:
        """Continue every job that an earlier server left unfinished, and remove the deployments that it left behind.

        `served` are runs whose models are served besides those of the jobs.
        """
        for job in reversed(self._state.every_job()):
            if not job.settled:
                self.follow(job.id)
            elif job.error is None and not job.model_deleted:
                self._submit(lambda run_id=job.run_id: self._remove_deployment(run_id), job.id)  # type: ignore[misc]
        for run_id in served:
            self._submit(lambda run_id=run_id: self._remove_deployment(run_id), run_id)  # type: ignore[misc]

    def follow(self, job_id: str) -> None:
        """Bring this job to its end, from whatever state it is in."""
        self._submit(lambda: self._advance(job_id), job_id)

    def cancel(self, job_id: str) -> None:
        """Cancel a job. Raises `LlmtuneError` when its backend refuses that."""
        job = self._state.change_job(job_id, cancelled=True)
        try:
            run = Run(self._store.get(job.run_id).id, store=self._store)
        except RunNotFound:  # it is being planned: `_advance` checks again before anything is sent
            return
        run.cancel()

    def close(self) -> None:
        """Stop following; the runs continue, and the next server finds them."""
        self._closed.set()
        for unfollow in list(self._unfollow.values()):
            unfollow()
        self._workers.shutdown(wait=False, cancel_futures=True)

    # --- one job -------------------------------------------------------------------------------------------------
    def _submit(self, action: Callable[[], None], job_id: str) -> None:
        def guarded() -> None:
            try:
                action()
            except LlmtuneError as error:
                scrub_error(error)
                log.warning("%s: %s; trying again in %.0f s", job_id, error.message, PAUSE)
                self._retry_later(action, job_id)
            except Exception:
                log.exception("%s failed; trying again in %.0f s", job_id, PAUSE)
                self._retry_later(action, job_id)

        if not self._closed.is_set():
            self._workers.submit(guarded)

    def _retry_later(self, action: Callable[[], None], job_id: str) -> None:
        timer = threading.Timer(PAUSE, lambda: self._submit(action, job_id))
        timer.daemon = True
        timer.start()

    def _advance(self, job_id: str) -> None:
        job = self._state.job(job_id)
        if job is None or job.settled:
            return
        try:
            record = self._store.get(job.run_id)
        except RunNotFound:
            if not self._plan(job):
                return
            record = self._store.get(job.run_id)
        run = Run(record.id, store=self._store)
        if record.state.final:
            self._finish(job_id)
            return
        latest = self._state.job(job_id)
        if latest is not None and latest.cancelled and not record.cancel_requested:
            run.cancel()
        self._unfollow[job_id] = poller().follow(
            self._store, run.id, run.provider, lambda update: self._on_update(job_id, update)
        )

    def _plan(self, job: JobRecord) -> bool:
        """Plan the job and record its run; return whether there is a run now."""
        if job.cancelled:
            self._state.change_job(job.id, settled=True, ended=time.time())
            return False
        target = Target.parse(job.target, job.id)
        try:
            backend = target.backend()
            with self._admit(job) as options:
                prepare_run(self._store, build_job(job, target, backend.name, self._state), backend, options)
        except (TransientError, StoreError):  # not a refusal: `_submit` tries again
            raise
        except LlmtuneError as error:
            scrub_error(error)
            body = to_request_error(error).body["error"]
            job_error = {name: body[name] for name in ("code", "message", "param")}
            job_error["code"] = job_error["code"] or "invalid_request"
            self._state.change_job(job.id, error=job_error, settled=True, ended=time.time())
            return False
        failpoint("planned")
        return True

    @contextlib.contextmanager
    def _admit(self, job: JobRecord) -> Iterator[StartOptions]:
        """Yield the options of a job, with what its owner may still spend. Raises `InvalidSettings`."""
        options = replace(self._options, new=True, run_id=job.run_id)
        key = self._keys.get_owner(job.owner)
        if key is None:
            name = f"'{job.owner}'" if job.owner else "from the environment"
            raise InvalidSettings(f"the key {name} with which this job was created is not accepted any more")
        if key.budget is None:
            yield options
            return
        # One job of an owner at a time: each is admitted to what those before it have left of the budget.
        with self._budgets.lock(job.owner):
            remaining = max(0.0, key.budget - self._budgets.spent(job.owner))
            budget = remaining if options.budget is None else min(options.budget, remaining)
            yield replace(options, budget=budget, yes=True)

    def _on_update(self, job_id: str, update: Update) -> None:
        """React to the last update of a run. Runs in the poller's threads, which must not wait for the disk."""
        if not update.last:
            return
        self._unfollow.pop(job_id, None)
        if update.record.state.final:
            self._submit(lambda: self._finish(job_id), job_id)
        else:
            error = update.error
            log.warning("%s: %s; trying again in %.0f s", job_id, scrub(str(error)), PAUSE)
            self._retry_later(lambda: self._advance(job_id), job_id)

    def _remove_deployment(self, run_id: str) -> None:
        """Remove the deployment of a model that was in use when its server was killed."""
        with contextlib.suppress(RunNotFound):
            run = Run(self._store.get(run_id).id, store=self._store)
            remove_leftover(self._store, run.id, run.provider)

    def _finish(self, job_id: str) -> None:
        """Write the result file of a run that has ended, and mark the job as settled, which frees its files."""
        job = self._state.job(job_id)
        if job is None or job.settled:
            return
        run = Run(job.run_id, store=self._store)
        if run.state is RunState.LOST:  # until the user resolves it with `llmtune runs adopt` or `resubmit`
            self._retry_later(lambda: self._advance(job_id), job_id)
            return
        result = None
        failpoint("settling")
        if run.state is RunState.SUCCEEDED:
            result = self._write_results(job, run)
            failpoint("results-written")
        self._state.change_job(job_id, result_file=result, settled=True, ended=run.record.updated)

    def _write_results(self, job: JobRecord, run: Run) -> str:
        content = result_csv(run.metrics())
        # Named by the run, so that writing it again after a kill makes no second file.
        file_id = derive_id("file-", f"results {job.run_id}")
        temporary: Path = self._state.content / f".{file_id}.tmp"
        with open_private(temporary, "wb") as file:
            file.write(content)
        record = FileRecord(
            id=file_id,
            created=run.record.updated,
            owner=job.owner,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            filename="step_metrics.csv",
            purpose="fine-tune-results",
        )
        return self._state.add_file(temporary, record).id
