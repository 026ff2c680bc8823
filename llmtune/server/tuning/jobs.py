"""/v1/fine_tuning/jobs: create, show, list and cancel jobs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmtune.errors import InvalidData, LlmtuneError, RunNotFound, StoreError, StoreUnavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import DatasetStatus
from llmtune.provider.types import RunState
from llmtune.redaction.secrets import refuse_secrets
from llmtune.runs.actions import pause_job, pause_refusal, resume_job
from llmtune.runs.failpoints import failpoint
from llmtune.runs.ids import new_run_id
from llmtune.runs.planned import StartOptions, check_can_run
from llmtune.runs.plans import plan
from llmtune.runs.run import Run
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.audit import AuditLog
from llmtune.server.tuning.follower import Follower
from llmtune.server.tuning.keys import Key, Keys, refuse_keys
from llmtune.server.tuning.models import Models, Target, tuned_name
from llmtune.server.tuning.query import check_same_request
from llmtune.server.tuning.quotas import Budgets, check_queue
from llmtune.server.tuning.state import JOB_PREFIX, Attempt, FileRecord, JobRecord, TuningState, digest_of
from llmtune.server.tuning.translate import (
    CreateJob,
    build_job,
    parse_create_request,
    reported_hyperparameters,
    to_request_error,
)

#: The API's status for each state of a run. It has none for a cancellation in progress. "paused" is not in the list of
#: the published document, but in its example of a paused job.
_STATUS = {
    RunState.PLANNED: "validating_files",
    RunState.UPLOADING: "validating_files",
    RunState.SUBMITTING: "queued",
    RunState.QUEUED: "queued",
    RunState.RUNNING: "running",
    RunState.PAUSED: "paused",
    RunState.CANCELLING: "running",
    RunState.FINALIZING: "running",
    RunState.SUCCEEDED: "succeeded",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
    RunState.LOST: "failed",
}


_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class JobServices:
    """What the jobs are made of and checked by."""

    state: TuningState
    store: Store
    models: Models
    follower: Follower
    options: StartOptions
    keys: Keys
    budgets: Budgets
    audit: AuditLog


class Jobs:
    """The jobs of the endpoint: each is a run in the store. An owner sees its own only."""

    def __init__(self, services: JobServices) -> None:
        self._state, self._store = services.state, services.store
        self._models, self._follower, self._options = services.models, services.follower, services.options
        self._keys, self._budgets, self._audit = services.keys, services.budgets, services.audit

    def create(self, body: Mapping[str, Any], key: Key, attempt: Attempt) -> dict[str, Any]:
        """Create a job and return its job object. Errors in the rows fail the job later; all others raise now.

        Raises:
            RequestError: a field is invalid, a file or the model does not exist, the backend cannot run the job, or
                the key's owner has too many unfinished jobs or no budget left.
        """
        request = parse_create_request(body)
        refuse_keys(self._keys, json.dumps(body, ensure_ascii=False))  # before anything of it is written down
        digest = digest_of(asdict(request))
        earlier = self._find_earlier(digest, key, attempt)
        if earlier is not None:
            return self.describe(earlier)
        job = self._record(request, digest, key, attempt)
        self._check(job)
        with self._state.creating(key.owner):
            earlier = self._find_earlier(digest, key, attempt)  # it may have been created while this one was checked
            if earlier is not None:
                return self.describe(earlier)
            if key.max_unfinished_jobs is not None:  # to count them takes a look at each
                check_queue(key, self._count_unfinished(key.owner))
            self._budgets.check_not_spent(key)
            failpoint("job-checked")
            self._audit.record(key, "job.create", id=job.id, model=job.model, target=job.target)
            self._state.save_job(job)
        failpoint("job-recorded")
        self._follower.follow(job.id)
        return self.describe(job)

    def _find_earlier(self, digest: str, key: Key, attempt: Attempt) -> JobRecord | None:
        """Return the job that an earlier attempt of the same request created. Raises `RequestError` (409)."""
        earlier = self._state.find_retried(
            self._state.jobs(key.owner), digest=digest, retry=attempt.retry, key=attempt.idempotency_key
        )
        if earlier is None:
            return None
        check_same_request(earlier, digest, "job")
        return self._state.change_job(earlier.id, retries=max(earlier.retries, attempt.retry))

    def _count_unfinished(self, owner: str) -> int:
        """Count the jobs whose clients have not seen them end: one may have ended that is not settled yet."""
        unsettled = [job for job in self._state.jobs(owner) if not job.settled]
        return sum(_status(job, self._record_of(job)) not in _ENDED for job in unsettled)

    def _record_of(self, job: JobRecord) -> RunRecord | None:
        try:
            return self._store.get(job.run_id)
        except RunNotFound:
            return None

    def find(self, job_id: str, key: Key) -> JobRecord:
        """Return the owner's job of that id. Raises `RequestError` (404)."""
        job = self._state.job(job_id)
        if job is None or job.owner != key.owner:
            raise RequestError(
                404, f"Could not find fine tune: {job_id}", param="fine_tuning_job_id", code="fine_tune_not_found"
            )
        return job

    def run(self, job: JobRecord) -> Run | None:
        """Return the run of a job; None before it exists."""
        record = self._record_of(job)
        return None if record is None else Run(record.id, store=self._store)

    def cancel(self, job_id: str, key: Key) -> dict[str, Any]:
        """Cancel a job. Raises `RequestError` when it has ended, or its backend refuses."""
        job = self._find_unfinished(job_id, key)
        self._audit.record(key, "job.cancel", id=job_id)
        try:
            self._follower.cancel(job.id)
        except LlmtuneError as error:
            raise RequestError.of(error) from error
        return self.describe(self.find(job_id, key))

    def pause(self, job_id: str, key: Key) -> dict[str, Any]:
        """Ask the backend to pause a running job. Raises `RequestError` when it cannot, or the job is not running."""
        return self._halt(job_id, key, "pause", pause_job, "running")

    def resume(self, job_id: str, key: Key) -> dict[str, Any]:
        """Ask the backend to resume a paused job. Raises `RequestError` when it cannot, or the job is not paused."""
        return self._halt(job_id, key, "resume", resume_job, "paused")

    def _halt(
        self, job_id: str, key: Key, verb: str, action: Callable[[Store, str, Provider], None], required: str
    ) -> dict[str, Any]:
        job = self.find(job_id, key)
        run = self.run(job)
        if run is not None:
            refusal = pause_refusal(run.record, run.provider)
            if refusal is not None:
                raise RequestError(
                    400,
                    f"{verb}: a job at {run.record.provider} cannot be paused: {refusal}",
                    code="unsupported_endpoint",
                )
        status = self.describe(job)["status"]
        if run is None or status != required:
            raise _wrong_state(verb, required, status)
        self._audit.record(key, f"job.{verb}", id=job_id)
        try:
            action(self._store, run.id, run.provider)
        except LlmtuneError as error:
            status = self.describe(self.find(job_id, key))["status"]
            if status != required:  # it has ended, say, since it was looked at
                raise _wrong_state(verb, required, status) from error
            raise RequestError.of(error) from error
        return self.describe(self.find(job_id, key))

    def _find_unfinished(self, job_id: str, key: Key) -> JobRecord:
        job = self.find(job_id, key)
        status = self.describe(job)["status"]
        if status in _ENDED:
            raise RequestError(
                400, f"Job has already ended: it is {status}", param="fine_tuning_job_id", code="job_ended"
            )
        return job

    def list(self, key: Key, metadata: Mapping[str, str] | None, *, without: bool) -> list[JobRecord]:
        """List the owner's jobs, newest first: those with all of `metadata`, or (`without`) those that have none."""
        jobs = self._state.jobs(key.owner)
        if without:
            return [job for job in jobs if not job.metadata]
        return [job for job in jobs if (metadata or {}).items() <= (job.metadata or {}).items()]

    # --- job objects ---------------------------------------------------------------------------------------------
    def describe(self, job: JobRecord) -> dict[str, Any]:
        """Build the job object of the API. One whose run is damaged in the store is failed, and says so."""
        record, damage = None, None
        try:
            record = self._record_of(job)
        except StoreUnavailable:
            raise
        except StoreError as problem:
            damage = {"code": "record_damaged", "message": f"{problem.message}; restore a backup", "param": None}
        status = _status(job, record) if damage is None else "failed"
        ended = status in _ENDED
        receipt = None if record is None else record.plan
        hyperparameters = reported_hyperparameters(job, receipt, {} if record is None else record.resolved)
        seed = job.seed if job.seed is not None or receipt is None else receipt.effective("seed")
        error = job.error or damage
        if error is None and record is not None and status == "failed":
            code = "outcome_unknown" if record.state is RunState.LOST else "training_failed"
            error = {"code": code, "message": record.error or "the backend gave no reason", "param": None}
        return {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": int(job.created),
            "error": error,
            "estimated_finish": None if record is None or ended else _estimated_finish(record),
            "fine_tuned_model": job.tuned_name if status == "succeeded" else None,
            "finished_at": int(job.ended or record.updated if record is not None else job.ended or job.created)
            if ended
            else None,
            "hyperparameters": {name: value for name, value in hyperparameters.items() if name != "beta"},
            "integrations": [],
            "metadata": job.metadata,
            "method": {"type": job.method, job.method: {"hyperparameters": hyperparameters}},
            "model": job.model,
            "organization_id": f"org-{self._models.organization}",
            "result_files": [job.result_file] if job.result_file is not None else [],
            "seed": seed if isinstance(seed, int) else 0,
            "status": status,
            "trained_tokens": _trained_tokens(record) if ended else None,
            "training_file": job.training_file.id,
            "user_provided_suffix": job.suffix,
            "validation_file": None if job.validation_file is None else job.validation_file.id,
        }

    # --- creation ------------------------------------------------------------------------------------------------
    def _record(self, request: CreateJob, digest: str, key: Key, attempt: Attempt) -> JobRecord:
        training = self._file(request.training_file, "training_file", key)
        validation = None
        if request.validation_file is not None:
            validation = self._file(request.validation_file, "validation_file", key)
        try:
            model = self._models.find(request.model, key.owner)
        except RequestError as error:
            raise RequestError(
                400,
                f"Model {request.model} is not available for fine-tuning or does not exist."
                f" Available here: {', '.join(self._models.map.names) or 'none'}",
                param="model",
                code="model_not_available",
            ) from error
        run_id = new_run_id()
        return JobRecord(
            id=f"{JOB_PREFIX}{run_id}",
            created=time.time(),
            owner=key.owner,
            digest=digest,
            idempotency_key=attempt.idempotency_key,
            model=request.model,
            target=str(model.target),
            tuned_name=tuned_name(request.model, self._models.organization, request.suffix, run_id),
            training_file=training,
            validation_file=validation,
            method=request.method,
            hyperparameters=request.hyperparameters,
            suffix=request.suffix,
            seed=request.seed,
            metadata=request.metadata,
        )

    def _file(self, file_id: str, field: str, key: Key) -> FileRecord:
        record = self._state.file(file_id, key.owner)
        if record is None or record.purpose != "fine-tune":
            raise RequestError(400, f"invalid {field}: {file_id}", param=field, code="invalid_file")
        return record

    def _check(self, job: JobRecord) -> None:
        """Check the job as far as is possible without reading a row. Raises `RequestError`."""
        try:
            target = Target.parse(job.target, job.id)
            backend = target.backend()
            spec = build_job(job, target, backend.name, self._state)
            refuse_secrets(spec.to_dict())  # before anything of it is written down
            receipt = plan(spec, backend, dataset=InvalidData("not read yet"))
            unread = receipt.model_copy(update={"data": DatasetStatus()})
            check_can_run(unread, self._options, listed=backend.name)
        except LlmtuneError as error:
            raise to_request_error(error) from error


def _wrong_state(verb: str, required: str, status: str) -> RequestError:
    return RequestError(
        400,
        f"only a job that is {required} can be {verb}d: this one is {status}",
        param="fine_tuning_job_id",
        code="invalid_job_state",
    )


def _status(job: JobRecord, record: RunRecord | None) -> str:
    if job.error is not None:
        return "failed"
    if record is None:
        return "cancelled" if job.cancelled else "validating_files"
    if job.cancelled and record.state in (RunState.PLANNED, RunState.UPLOADING):
        return "cancelled"  # no job was started, and none will be
    if record.state is RunState.SUCCEEDED and not job.settled:
        return "running"  # while its result file is being written
    return _STATUS[record.state]


def _estimated_finish(record: RunRecord) -> int | None:
    seconds = record.progress.seconds_left
    return None if seconds is None or not math.isfinite(seconds) else int(record.updated + seconds)


def _trained_tokens(record: RunRecord | None) -> int | None:
    return record.billed.tokens if record is not None and record.billed is not None else None
