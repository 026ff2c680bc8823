"""Submission: from a planned run to one job at the vendor, whichever process dies on the way. Only this module submits.

    planned -> uploading -> (each file: begun, uploaded, recorded) -> submitting -> submit -> job recorded -> queued

`submit_run` continues from where the record says the run stands, so that another process can finish a killed one. What
it does after an unclear submit depends on what the vendor offers (`Provider.submit_safety`):

* token: submit again with the same key; the vendor answers with the first job.
* searchable: look for our key, with growing pauses, for as long as the vendor's lists may lag; then submit again.
* none: it cannot be found out, so nothing is sent a second time; the run ends `lost`, for a person to decide.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from llmtune._retry import RetryPolicy, report_silence, with_retries
from llmtune.config import redact_url
from llmtune.errors import (
    InvalidData,
    LlmtuneError,
    LlmtuneWarning,
    StoreError,
    SubmitUnknown,
    TransientError,
    VendorError,
)
from llmtune.provider.intake import read_ref, submit_job
from llmtune.provider.protocol import Provider
from llmtune.provider.types import EncodedFile, JobRef, Request, RunState, UploadRef
from llmtune.redaction.secrets import scrub_error
from llmtune.runs import planned
from llmtune.runs.failpoints import failpoint
from llmtune.runs.row_names import name_rows_in
from llmtune.runs.store.database import keep_trying
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

#: States in which there is no job at the vendor yet, as far as we know.
BEFORE_JOB = (RunState.PLANNED, RunState.UPLOADING, RunState.SUBMITTING)

#: Retries of calls that may safely be repeated, before the run is left for later.
RETRIES = RetryPolicy(tries=6, first=0.25, most=30.0, jitter=(0.5, 1.0), never_sooner=True)


def submission_lease(store: Store, run_id: str) -> Lease:
    """Return the lease that the process holds which submits a run."""
    return Lease(store, f"drive:{run_id}")


def submit_run(store: Store, run_id: str, provider: Provider, *, lease: Lease) -> RunRecord:
    """Submit a run that has no job yet, continuing from its recorded state. The caller holds `lease`.

    Raises:
        SubmitUnknown: it cannot be found out whether the vendor took the job (the run is `lost`).
        TransientError: the vendor is unavailable; starting the same job again continues from here.
        VendorError: the vendor refused; the run has failed, with the vendor's own words.
    """

    def tell(seconds: float) -> None:
        record = store.get(run_id)
        message = f"run {run_id} has been {record.state} at {provider.name} for {seconds:.0f} s; it is waited for"
        store.note(run_id, message, "warning")
        warnings.warn(message, LlmtuneWarning, stacklevel=2)

    try:
        with report_silence(tell):
            return _continue_submission(store, run_id, provider, lease)
    except Exception as error:
        scrub_error(error)
        raise


def _continue_submission(store: Store, run_id: str, provider: Provider, lease: Lease) -> RunRecord:
    record = store.get(run_id)
    if record.state is RunState.SUBMITTING and store.ref(run_id, "job", JobRef) is None:
        # The process that wrote this state may have submitted before it died.
        return _resolve_unclear_submit(store, record, provider, lease, "the process ended while it was submitting")
    if record.cancel_requested and record.state in BEFORE_JOB:
        return store.transition(run_id, RunState.CANCELLED, "cancelled before anything was submitted")
    if record.state in (RunState.PLANNED, RunState.UPLOADING):
        try:
            record = _upload_all(store, record, provider, lease)
        except (TransientError, StoreError):
            raise
        except LlmtuneError as error:
            _fail_run(store, run_id, error)
            raise
        return _submit(store, record, provider, lease)
    return record


# --- uploads ---------------------------------------------------------------------------------------------------------
def _upload_all(store: Store, record: RunRecord, provider: Provider, lease: Lease) -> RunRecord:
    record = store.transition(record.id, RunState.UPLOADING, f"{len(record.files)} file(s)")
    failpoint("uploading")
    record = _ensure_files(store, record, provider)
    refs = {str(file.role): _upload_one(store, record, file, provider, lease) for file in record.files}
    return _build_request(store, record, provider, refs)


def _build_request(store: Store, record: RunRecord, provider: Provider, refs: Mapping[str, UploadRef]) -> RunRecord:
    request = provider.build(record.plan, refs)
    return store.change(record.id, request=request)


def _upload_one(store: Store, record: RunRecord, file: EncodedFile, provider: Provider, lease: Lease) -> UploadRef:
    name = f"upload:{file.role}"
    recorded = store.ref(record.id, name, UploadRef)
    if recorded is not None and recorded.digest == file.sha256:
        return recorded
    if store.find_upload(provider.name, file.sha256) is not None:
        # The store has it; the vendor is asked all the same, because it may have been removed there.
        there = with_retries(lambda: _find_upload(provider, file), RETRIES, doing=f"look for the {file.role} file")
        if there is not None:
            ref = _with_file_details(there, file)
            store.keep_upload(record, name, ref, created=False)  # the run that uploaded it lists it
            return ref

    def upload() -> tuple[UploadRef, bool]:
        begun_before = store.begin_upload(provider.name, file.sha256)
        existing = _find_upload(provider, file)
        if existing is not None:
            return existing, begun_before
        lease.check()
        failpoint("before-upload")
        return _send(provider, file), True

    uploaded, created = with_retries(upload, RETRIES, doing=f"upload of the {file.role} file to {provider.name}")
    failpoint("after-upload")
    ref = _with_file_details(uploaded, file)
    store.keep_upload(record, name, ref, created=created)
    failpoint("upload-kept")
    log.info("uploaded the %s file", file.role, extra={"run": record.id})
    return ref


def _send(provider: Provider, file: EncodedFile) -> UploadRef:
    """Upload one file. An answer that cannot be read counts as none (`TransientError`): nothing is paid yet."""
    try:
        uploaded = read_ref(provider, f"{file.role} file", lambda: provider.upload(file))
        assert uploaded is not None
        return uploaded
    except (LlmtuneError, OSError):
        raise
    except Exception as error:
        log.exception("the upload to %s broke", provider.name)
        raise TransientError(
            f"the answer of {provider.name} to the upload of the {file.role} file was not understood"
            f" ({type(error).__name__}: {error})"
        ) from error


def _upload_again(store: Store, record: RunRecord, provider: Provider, lease: Lease, stale: list[str]) -> RunRecord:
    """Upload the files of these roles again, though the vendor has them: it refuses to use them any more."""
    refs: dict[str, UploadRef] = {}
    for file in record.files:
        name = f"upload:{file.role}"
        recorded = store.ref(record.id, name, UploadRef)
        if recorded is not None and file.role not in stale:
            refs[file.role] = recorded
            continue
        lease.check()
        what = f"upload of the {file.role} file to {provider.name}"
        refs[file.role] = _with_file_details(with_retries(partial(_send, provider, file), RETRIES, doing=what), file)
        store.keep_upload(record, name, refs[file.role], created=True)
    return _build_request(store, record, provider, refs)


#: The words of a refusal of which the file itself is the cause: the vendor has it no longer.
_GONE_WORDS = re.compile(r"\b(expired|deleted|removed|gone|no longer|(does|did) not exist|no such|not found)\b", re.I)


def _find_stale_uploads(store: Store, record: RunRecord, provider: Provider, error: LlmtuneError) -> list[str]:
    """Return the roles of the files to upload again, if a refusal is about a file that has expired or was removed.

    Files that earlier runs have uploaded count once the refusal names one of them. This run's own, which may have been
    left and continued weeks later, count where the refusal says that a file is gone, or names one and the vendor lists
    them no longer.
    """
    if not isinstance(error, VendorError) or error.status not in (400, 404, 410, 422):
        return []
    own_ids = {resource.ref.id for resource in store.resources(record.id) if resource.type == "upload"}
    message = f"{error.message} {error.raw or ''}"
    refs = {str(file.role): store.ref(record.id, f"upload:{file.role}", UploadRef) for file in record.files}
    uploads = {role: ref.id for role, ref in refs.items() if ref is not None}
    reused = {role: id for role, id in uploads.items() if id not in own_ids}
    named = [role for role, id in uploads.items() if id in message]
    is_gone = _GONE_WORDS.search(message) is not None and (bool(named) or "file" in message.lower())
    if is_gone or any(role in reused for role in named):
        return list(reused or uploads)
    files = {str(file.role): file for file in record.files}
    return [role for role in uploads if named and not _is_listed(provider, files[role], uploads[role])]


def _is_listed(provider: Provider, file: EncodedFile, id: str) -> bool:
    """Return whether the vendor lists an upload as usable; True where it does not answer."""
    try:
        listed = _find_upload(provider, file)
    except LlmtuneError:
        return True
    return listed is not None and listed.id == id


def _find_upload(provider: Provider, file: EncodedFile) -> UploadRef | None:
    return read_ref(provider, f"{file.role} file", lambda: provider.find_upload(file.sha256))


def _with_file_details(ref: UploadRef, file: EncodedFile) -> UploadRef:
    return ref.model_copy(update={"digest": file.sha256, "role": file.role})


def _ensure_files(store: Store, record: RunRecord, provider: Provider) -> RunRecord:
    """Make sure that the encoded files are on this machine: write them again from the dataset if they are not."""
    if all(Path(file.path).is_file() and Path(file.path).stat().st_size == file.bytes for file in record.files):
        return record
    from llmtune.data.dataset import Dataset

    dataset = Dataset.from_spec(record.tuning_job.dataset)
    again = planned.encode(provider, dataset, record.plan, allow_lossy=bool(record.lossy))
    if [file.sha256 for file in again.files] != [file.sha256 for file in record.files]:
        raise InvalidData(
            f"the dataset of run {record.id} has changed since the run was planned, so it cannot go on",
            hint="start the job again: it becomes a run of its own",
        )
    return store.change(record.id, files=again.files)


# --- the paid call ---------------------------------------------------------------------------------------------------
def _submit(store: Store, record: RunRecord, provider: Provider, lease: Lease) -> RunRecord:
    """Submit once. Only a request that surely did not reach the vendor is sent again."""
    request = record.request
    assert request is not None
    unsent, renewed = 0, False
    while True:
        if store.get(record.id).cancel_requested:
            return store.transition(record.id, RunState.CANCELLED, "cancelled before anything was submitted")
        lease.check()
        failpoint("before-submitting")
        record = store.transition(
            record.id, RunState.SUBMITTING, f"with key {record.key}", back=True, submits=record.submits + 1
        )
        failpoint("submitting")
        try:
            return _submit_once(store, record, provider, request)
        except TransientError as error:
            if error.sent:
                return _resolve_unclear_submit(store, record, provider, lease, _error_text(error))
            unsent += 1
            # It did not arrive: the run is in its earlier state again.
            record = store.transition(record.id, RunState.UPLOADING, f"not accepted: {_error_text(error)}", back=True)
            if unsent >= RETRIES.tries:
                raise
            time.sleep(RETRIES.pause(unsent, error))
        except StoreError:  # our own, and no word about the job
            raise
        except LlmtuneError as error:  # a refusal in the vendor's own words: there is no job
            stale = [] if renewed else _find_stale_uploads(store, record, provider, error)
            if not stale:
                _fail_run(store, record.id, error)
                raise
            renewed = True
            roles = " and ".join(stale)
            reason = f"the {roles} file that was there is refused, so it is uploaded again: {_error_text(error)}"
            record = store.transition(record.id, RunState.UPLOADING, reason, back=True)
            try:
                record = _upload_again(store, record, provider, lease, stale)
            except (TransientError, StoreError):
                raise
            except LlmtuneError as second:
                _fail_run(store, record.id, second)
                raise
            request = record.request
            assert request is not None
        except Exception as error:
            log.exception("submit of run %s broke", record.id)
            cause = f"{type(error).__name__} in the {provider.kind} adapter"
            return _resolve_unclear_submit(store, record, provider, lease, cause)


def _submit_once(store: Store, record: RunRecord, provider: Provider, request: Request) -> RunRecord:
    job = submit_job(provider, request, record.key)
    failpoint("after-submit")
    return record_job(store, record, job, "accepted by the vendor")


def record_job(store: Store, record: RunRecord, job: JobRef, reason: str) -> RunRecord:
    """Record the job of a run, which from here on is followed and never submitted again.

    What is paid for is written for as long as the store is away: only this process knows the job's id.
    """
    doing = f"job {job.id} of run {record.id}"
    keep_trying(lambda: store.keep_ref(record, "job", "job", job), doing=doing)
    back = record.state is RunState.LOST
    moved = keep_trying(
        lambda: store.transition(record.id, RunState.QUEUED, f"{reason}: {job.id}", back=back), doing=doing
    )
    failpoint("job-kept")
    return moved


def _resolve_unclear_submit(store: Store, record: RunRecord, provider: Provider, lease: Lease, why: str) -> RunRecord:
    """Find out whether there is a job after an unclear submit: look for it, submit with the same token, or stop."""
    safety = provider.submit_safety
    log.warning("run %s: unclear submit (%s); %s", record.id, why, safety.kind, extra={"run": record.id})
    store.note(record.id, f"unclear whether the vendor took the job: {why}", "warning")
    if safety.kind == "none":
        sentence = (
            f"it is not known whether {provider.name} took the job of run {record.id} ({why}), and this service"
            " offers no way to ask; nothing was sent a second time"
        )
        store.transition(record.id, RunState.LOST, why, error=sentence)
        raise SubmitUnknown(sentence, run_id=record.id, hint=lost_hint(record.id))
    request = record.request
    assert request is not None
    for attempt in range(1, RETRIES.tries + 1):
        if safety.kind == "searchable":
            job = find_job(provider, record, safety.window)
            if job is not None:
                return record_job(store, record, job, "found at the vendor by its key")
            if store.get(record.id).cancel_requested:
                return store.transition(record.id, RunState.CANCELLED, "cancelled; the vendor has no job of this key")
        lease.check()
        record = store.change(record.id, submits=record.submits + 1)
        failpoint("submitting")
        try:
            return _submit_once(store, record, provider, request)
        except TransientError as error:
            store.note(record.id, f"submitting again failed too: {_error_text(error)}", "warning")
            time.sleep(RETRIES.pause(attempt, error))
        except StoreError:
            raise
        except LlmtuneError as error:
            job = find_job(
                provider, record, safety.window
            )  # this call was refused; an earlier one may have got through
            if job is not None:
                return record_job(store, record, job, "found at the vendor by its key")
            _fail_run(store, record.id, error)
            raise
    raise SubmitUnknown(
        f"{provider.name}{_describe_address(provider)} cannot be reached, so it is not known whether it took the job of"
        f" run {record.id}",
        run_id=record.id,
        hint=f"later: llmtune runs attach {record.id} finds out, without starting a second job",
    )


def _describe_address(provider: Provider) -> str:
    """Return the provider's URL as its settings have it, " at https://...", or ""."""
    url = getattr(getattr(provider, "settings", None), "base_url", None)
    return f" at {redact_url(url)}" if isinstance(url, str) and url else ""


def find_job(provider: Provider, record: RunRecord, window: float) -> JobRef | None:
    """Look for the job with the run's key until the vendor's lists must show it. None: there is no such job.

    The complete `window` is waited for, by the monotonic clock: wall clocks may jump.
    """
    deadline = time.monotonic() + window
    pause = min(1.0, max(0.05, window / 20))
    answered_after_deadline = False
    while True:
        past_deadline = time.monotonic() >= deadline
        try:
            job = read_ref(provider, "job", lambda: provider.find(record.key))
            answered_after_deadline = past_deadline
        except TransientError as error:
            job = None
            pause = max(pause, min(error.retry_after or 0.0, RETRIES.most))
            if time.monotonic() > deadline + 20 * RETRIES.most:
                raise
        if job is not None:
            return job
        if answered_after_deadline:
            return None
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())) if not past_deadline else pause)
        pause = min(pause * 1.6, RETRIES.most, max(0.05, window / 4))


def lost_hint(run_id: str) -> str:
    """Return what to do about a lost run."""
    return (
        f"look at the vendor's console, then: llmtune runs adopt {run_id} JOB_ID (it is there) or"
        f" llmtune runs resubmit {run_id} (it is not)"
    )


def resume_hint(record: RunRecord, provider: Provider, job: JobRef) -> str:
    """Return what to do about a job that its vendor has paused."""
    hint = str(getattr(provider, "paused_hint", "")).format(job=job.id) or "resume it in the vendor's own console"
    where = f" ({job.url})" if job.url else ""
    return (
        f"{provider.name} has paused the job {job.id}: it does not resume by itself; {hint}{where}."
        f" llmtune runs cancel {record.id} ends it"
    )


# --- helpers ---------------------------------------------------------------------------------------------------------
def _fail_run(store: Store, run_id: str, error: LlmtuneError) -> None:
    name_rows_in(store.get(run_id), error)
    store.transition(run_id, RunState.FAILED, _error_text(error), error=_error_text(error), outcome=RunState.FAILED)


def _error_text(error: LlmtuneError) -> str:
    """Return an error's message, with the vendor's own message where it is another."""
    if isinstance(error, VendorError) and error.raw and error.raw not in error.message:
        return f"{error.message} ({error.raw})"
    return error.message
