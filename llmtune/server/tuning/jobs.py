"""/v1/fine_tuning/jobs: create, show, list and cancel jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmtune.errors import InvalidData, LlmtuneError, RunNotFound
from llmtune.provider.receipt import DatasetStatus
from llmtune.provider.types import RunState
from llmtune.redaction.secrets import refuse_secrets
from llmtune.runs.failpoints import failpoint
from llmtune.runs.ids import new_run_id
from llmtune.runs.planned import StartOptions, check_can_run
from llmtune.runs.plans import plan
from llmtune.runs.run import Run
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.follower import Follower
from llmtune.server.tuning.models import Models, tuned_name
from llmtune.server.tuning.state import JOB_PREFIX, FileRecord, JobRecord, TuningState, digest_of
from llmtune.server.tuning.translate import (
    CreateJob,
    build_job,
    parse_create_request,
    reported_hyperparameters,
    to_request_error,
)

#: The API's status for each state of a run. It has none for a paused run, or for a cancellation in progress.
_STATUS = {
    RunState.PLANNED: "validating_files",
    RunState.UPLOADING: "validating_files",
    RunState.SUBMITTING: "queued",
    RunState.QUEUED: "queued",
    RunState.RUNNING: "running",
    RunState.PAUSED: "running",
    RunState.CANCELLING: "running",
    RunState.FINALIZING: "running",
    RunState.SUCCEEDED: "succeeded",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
    RunState.LOST: "failed",
}


class Jobs:
    """The jobs of the endpoint: each is a run in the store."""

    def __init__(
        self, state: TuningState, store: Store, models: Models, follower: Follower, options: StartOptions
    ) -> None:
        self._state, self._store = state, store
        self._models, self._follower, self._options = models, follower, options

    def create(self, body: Mapping[str, Any], *, retry: int = 0, key: str | None = None) -> dict[str, Any]:
        """Create a job and return its job object. Errors in the rows fail the job later; all others raise now.

        Raises:
            RequestError: a field is invalid, a file or the model does not exist, or the backend cannot run the job.
        """
        request = parse_create_request(body)
        digest = digest_of(asdict(request))
        earlier = self._state.find_retried(self._state.jobs(), digest=digest, retry=retry, key=key)
        if earlier is not None:
            if earlier.digest != digest:
                raise RequestError(409, "that Idempotency-Key was used for another job", code="idempotency_error")
            return self.describe(self._state.change_job(earlier.id, retries=max(earlier.retries, retry)))
        job = self._record(request, digest, key)
        self._check(job)
        failpoint("job-checked")
        self._state.save_job(job)
        failpoint("job-recorded")
        self._follower.follow(job.id)
        return self.describe(job)

    def find(self, job_id: str) -> JobRecord:
        """Return the job of that id. Raises `RequestError` (404)."""
        job = self._state.job(job_id)
        if job is None:
            raise RequestError(
                404, f"Could not find fine tune: {job_id}", param="fine_tuning_job_id", code="fine_tune_not_found"
            )
        return job

    def run(self, job: JobRecord) -> Run | None:
        """Return the run of a job; None before it exists."""
        try:
            return Run(self._store.get(job.run_id).id, store=self._store)
        except RunNotFound:
            return None

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job. Raises `RequestError` when it has ended, or its backend refuses."""
        job = self.find(job_id)
        status = self.describe(job)["status"]
        if status in ("succeeded", "failed", "cancelled"):
            raise RequestError(
                400, f"Job has already ended: it is {status}", param="fine_tuning_job_id", code="job_ended"
            )
        try:
            self._follower.cancel(job_id)
        except LlmtuneError as error:
            raise RequestError.of(error) from error
        return self.describe(self.find(job_id))

    def list(self, metadata: Mapping[str, str] | None, *, without: bool) -> list[JobRecord]:
        """List jobs, newest first: those with all of `metadata`, or (`without`) those that have none."""
        jobs = self._state.jobs()
        if without:
            return [job for job in jobs if not job.metadata]
        return [job for job in jobs if (metadata or {}).items() <= (job.metadata or {}).items()]

    # --- job objects ---------------------------------------------------------------------------------------------
    def describe(self, job: JobRecord) -> dict[str, Any]:
        """Build the job object of the API."""
        try:
            record: RunRecord | None = self._store.get(job.run_id)
        except RunNotFound:
            record = None
        status = _status(job, record)
        ended = status in ("succeeded", "failed", "cancelled")
        receipt = None if record is None else record.plan
        hyperparameters = reported_hyperparameters(job, receipt, {} if record is None else record.resolved)
        seed = job.seed if job.seed is not None or receipt is None else receipt.effective("seed")
        error = job.error
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
    def _record(self, request: CreateJob, digest: str, key: str | None) -> JobRecord:
        training = self._file(request.training_file, "training_file")
        validation = None
        if request.validation_file is not None:
            validation = self._file(request.validation_file, "validation_file")
        try:
            model = self._models.find(request.model)
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
            digest=digest,
            idempotency_key=key,
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

    def _file(self, file_id: str, field: str) -> FileRecord:
        record = self._state.file(file_id)
        if record is None or record.purpose != "fine-tune":
            raise RequestError(400, f"invalid {field}: {file_id}", param=field, code="invalid_file")
        return record

    def _check(self, job: JobRecord) -> None:
        """Check the job as far as is possible without reading a row. Raises `RequestError`."""
        try:
            target = self._models.find(job.model).target
            backend = target.backend()
            spec = build_job(job, target, backend.name, self._state)
            refuse_secrets(spec.to_dict())  # before anything of it is written down
            receipt = plan(spec, backend, dataset=InvalidData("not read yet"))
            unread = receipt.model_copy(update={"data": DatasetStatus()})
            check_can_run(unread, self._options, listed=backend.name)
        except LlmtuneError as error:
            raise to_request_error(error) from error


def _status(job: JobRecord, record: RunRecord | None) -> str:
    if job.error is not None:
        return "failed"
    if record is None:
        return "cancelled" if job.cancelled else "validating_files"
    if job.cancelled and record.state is RunState.PLANNED:
        return "cancelled"  # nothing was sent, and nothing will be
    if record.state is RunState.SUCCEEDED and not job.settled:
        return "running"  # while its result file is being written
    return _STATUS[record.state]


def _estimated_finish(record: RunRecord) -> int | None:
    seconds = record.progress.seconds_left
    return None if seconds is None or not math.isfinite(seconds) else int(record.updated + seconds)


def _trained_tokens(record: RunRecord | None) -> int | None:
    return record.billed.tokens if record is not None and record.billed is not None else None
