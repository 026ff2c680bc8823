"""From a written intent to a job at the vendor, once, whatever dies on the way. This is the only place that submits.

    planned -> uploading -> (each file: meant, uploaded, kept) -> submitting -> submit -> job kept -> queued

`drive` goes on from wherever the record says the run stands, so that a killed process is continued by any other. What
it does after an unclear submit depends on what the vendor offers (`Provider.submit_safety`):

* token: submit again with the same key; the vendor answers with the first job.
* searchable: look for our key, with growing pauses, for as long as the vendor's lists may lag; then submit again.
* none: nobody can tell, so nothing is sent a second time; the run ends `lost`, for a person to decide.
"""

from __future__ import annotations

import logging
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
from llmtune.runs.failpoints import checkpoint
from llmtune.runs.row_names import name_rows_in
from llmtune.runs.store.database import keep_trying
from llmtune.runs.store.leases import Lease
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

#: States in which there is no job at the vendor yet, as far as we know.
BEFORE_JOB = (RunState.PLANNED, RunState.UPLOADING, RunState.SUBMITTING)

#: How something that may safely be repeated is tried again, before the run is left for later.
RETRIES = RetryPolicy(tries=6, first=0.25, most=30.0, jitter=(0.5, 1.0), never_sooner=True)


def drive_lease(store: Store, run_id: str) -> Lease:
    """The right to bring a run to its job."""
    return Lease(store, f"drive:{run_id}")


def drive(store: Store, run_id: str, provider: Provider, *, lease: Lease) -> RunRecord:
    """Bring a run that has no job yet to its job, from wherever it stands. The caller holds `lease`.

    Raises:
        SubmitUnknown: nobody can tell whether the vendor took the job (the run is `lost`).
        TransientError: the vendor is unwell; nothing was lost, and starting the same job again goes on from here.
        VendorError: the vendor refused; the run has failed, with the vendor's own words.
    """

    def tell(seconds: float) -> None:
        record = store.get(run_id)
        message = f"run {run_id} has been {record.state} at {provider.name} for {seconds:.0f} s; it is waited for"
        store.note(run_id, message, "warning")
        warnings.warn(message, LlmtuneWarning, stacklevel=2)

    try:
        with report_silence(tell):
            return _drive(store, run_id, provider, lease)
    except Exception as error:
        scrub_error(error)
        raise


def _drive(store: Store, run_id: str, provider: Provider, lease: Lease) -> RunRecord:
    record = store.get(run_id)
    if record.state is RunState.SUBMITTING and store.ref(run_id, "job", JobRef) is None:
        # Whoever wrote this state may have submitted, and did not live to tell.
        return _after_unclear_submit(store, record, provider, lease, "the process ended while it was submitting")
    if record.cancel_requested and record.state in BEFORE_JOB:
        return store.move(run_id, RunState.CANCELLED, "cancelled before anything was submitted")
    if record.state in (RunState.PLANNED, RunState.UPLOADING):
        try:
            record = _upload_all(store, record, provider, lease)
        except (TransientError, StoreError):
            raise
        except LlmtuneError as error:
            _failed(store, run_id, error)
            raise
        return _submit(store, record, provider, lease)
    return record


# --- uploads ---------------------------------------------------------------------------------------------------------
def _upload_all(store: Store, record: RunRecord, provider: Provider, lease: Lease) -> RunRecord:
    record = store.move(record.id, RunState.UPLOADING, f"{len(record.files)} file(s)")
    checkpoint("uploading")
    record = _files_on_disk(store, record, provider)
    refs = {str(file.role): _upload_one(store, record, file, provider, lease) for file in record.files}
    return _build(store, record, provider, refs)


def _build(store: Store, record: RunRecord, provider: Provider, refs: Mapping[str, UploadRef]) -> RunRecord:
    request = provider.build(record.plan, refs)
    return store.change(record.id, request=request)


def _upload_one(store: Store, record: RunRecord, file: EncodedFile, provider: Provider, lease: Lease) -> UploadRef:
    name = f"upload:{file.role}"
    kept = store.ref(record.id, name, UploadRef)
    if kept is not None and kept.digest == file.sha256:
        return kept
    if store.find_upload(provider.name, file.sha256) is not None:
        # We know of it; the vendor is asked all the same, because somebody may have removed it there.
        there = with_retries(lambda: _find_upload(provider, file), RETRIES, doing=f"look for the {file.role} file")
        if there is not None:
            ref = _as(there, file)
            store.keep_upload(record, name, ref, ours=False)  # whoever made it has it on its own list
            return ref

    def upload() -> tuple[UploadRef, bool]:
        meant_before = store.intend_upload(provider.name, file.sha256)
        found = _find_upload(provider, file)
        if found is not None:
            return found, meant_before
        lease.check()
        checkpoint("before-upload")
        return _send(provider, file), True

    found, ours = with_retries(upload, RETRIES, doing=f"upload of the {file.role} file to {provider.name}")
    checkpoint("after-upload")
    ref = _as(found, file)
    store.keep_upload(record, name, ref, ours=ours)
    checkpoint("upload-kept")
    log.info("uploaded the %s file", file.role, extra={"run": record.id})
    return ref


def _send(provider: Provider, file: EncodedFile) -> UploadRef:
    """Upload one file. An answer that the provider stumbles over is one that did not come: nothing is paid yet."""
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


def _upload_anew(store: Store, record: RunRecord, provider: Provider, lease: Lease, stale: list[str]) -> RunRecord:
    """Upload the files of these roles again, without looking whether they are there: they are, and no good any more."""
    refs: dict[str, UploadRef] = {}
    for file in record.files:
        name = f"upload:{file.role}"
        kept = store.ref(record.id, name, UploadRef)
        if kept is not None and file.role not in stale:
            refs[file.role] = kept
            continue
        lease.check()
        what = f"upload of the {file.role} file to {provider.name}"
        refs[file.role] = _as(with_retries(partial(_send, provider, file), RETRIES, doing=what), file)
        store.keep_upload(record, name, refs[file.role], ours=True)
    return _build(store, record, provider, refs)


def _stale_uploads(store: Store, record: RunRecord, error: LlmtuneError) -> list[str]:
    """The roles of the files that were there before this run, if a refusal names one: it expired, or was removed."""
    if not isinstance(error, VendorError) or error.status not in (400, 404, 422):
        return []
    ours = {each.ref.id for each in store.resources(record.id) if each.type == "upload"}
    words = f"{error.message} {error.raw or ''}"
    refs = {str(file.role): store.ref(record.id, f"upload:{file.role}", UploadRef) for file in record.files}
    reused = {role: ref.id for role, ref in refs.items() if ref is not None and ref.id not in ours}
    return list(reused) if any(id in words for id in reused.values()) else []


def _find_upload(provider: Provider, file: EncodedFile) -> UploadRef | None:
    return read_ref(provider, f"{file.role} file", lambda: provider.find_upload(file.sha256))


def _as(ref: UploadRef, file: EncodedFile) -> UploadRef:
    return ref.model_copy(update={"digest": file.sha256, "role": file.role})


def _files_on_disk(store: Store, record: RunRecord, provider: Provider) -> RunRecord:
    """The encoded files, written again from the dataset when they are not on this machine."""
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
    """Submit once. Only a refusal that surely reached nobody is tried again here."""
    request = record.request
    assert request is not None
    unsent, renewed = 0, False
    while True:
        if store.get(record.id).cancel_requested:
            return store.move(record.id, RunState.CANCELLED, "cancelled before anything was submitted")
        lease.check()
        checkpoint("before-submitting")
        record = store.move(
            record.id, RunState.SUBMITTING, f"with key {record.key}", back=True, submits=record.submits + 1
        )
        checkpoint("submitting")
        try:
            return _submit_once(store, record, provider, request)
        except TransientError as error:
            if error.sent:
                return _after_unclear_submit(store, record, provider, lease, _words(error))
            unsent += 1
            # It surely did not arrive: the run stands where it stood before.
            record = store.move(record.id, RunState.UPLOADING, f"not accepted: {_words(error)}", back=True)
            if unsent >= RETRIES.tries:
                raise
            time.sleep(RETRIES.pause(unsent, error))
        except StoreError:  # our own, and no word about the job
            raise
        except LlmtuneError as error:  # a refusal in the vendor's own words: there is no job
            stale = [] if renewed else _stale_uploads(store, record, error)
            if not stale:
                _failed(store, record.id, error)
                raise
            renewed = True
            reason = (
                f"the {' and '.join(stale)} file that was there is refused, so it is uploaded again: {_words(error)}"
            )
            record = store.move(record.id, RunState.UPLOADING, reason, back=True)
            try:
                record = _upload_anew(store, record, provider, lease, stale)
            except (TransientError, StoreError):
                raise
            except LlmtuneError as second:
                _failed(store, record.id, second)
                raise
            request = record.request
            assert request is not None
        except Exception as error:
            log.exception("submit of run %s broke", record.id)
            words = f"{type(error).__name__} in the {provider.kind} adapter"
            return _after_unclear_submit(store, record, provider, lease, words)


def _submit_once(store: Store, record: RunRecord, provider: Provider, request: Request) -> RunRecord:
    job = submit_job(provider, request, record.key)
    checkpoint("after-submit")
    return keep_job(store, record, job, "accepted by the vendor")


def keep_job(store: Store, record: RunRecord, job: JobRef, reason: str) -> RunRecord:
    """Write the job down; from here on the run is followed, never submitted again.

    What is paid for is written for as long as the store is away: only this process knows the job's id.
    """
    doing = f"job {job.id} of run {record.id}"
    keep_trying(lambda: store.keep_ref(record, "job", "job", job), doing=doing)
    back = record.state is RunState.LOST
    moved = keep_trying(lambda: store.move(record.id, RunState.QUEUED, f"{reason}: {job.id}", back=back), doing=doing)
    checkpoint("job-kept")
    return moved


def _after_unclear_submit(store: Store, record: RunRecord, provider: Provider, lease: Lease, why: str) -> RunRecord:
    """We may have a job and not know it. Never guess: look, ask with the same token, or stop."""
    safety = provider.submit_safety
    log.warning("run %s: unclear submit (%s); %s", record.id, why, safety.kind, extra={"run": record.id})
    store.note(record.id, f"unclear whether the vendor took the job: {why}", "warning")
    if safety.kind == "none":
        sentence = (
            f"it is not known whether {provider.name} took the job of run {record.id} ({why}), and this service"
            " offers no way to ask; nothing was sent a second time"
        )
        store.move(record.id, RunState.LOST, why, error=sentence)
        raise SubmitUnknown(sentence, run_id=record.id, hint=lost_hint(record.id))
    request = record.request
    assert request is not None
    for attempt in range(1, RETRIES.tries + 1):
        if safety.kind == "searchable":
            job = look_for(provider, record, safety.window)
            if job is not None:
                return keep_job(store, record, job, "found at the vendor by its key")
            if store.get(record.id).cancel_requested:
                return store.move(record.id, RunState.CANCELLED, "cancelled; the vendor has no job of this key")
        lease.check()
        record = store.change(record.id, submits=record.submits + 1)
        checkpoint("submitting")
        try:
            return _submit_once(store, record, provider, request)
        except TransientError as error:
            store.note(record.id, f"submitting again failed too: {_words(error)}", "warning")
            time.sleep(RETRIES.pause(attempt, error))
        except StoreError:
            raise
        except LlmtuneError as error:
            job = look_for(
                provider, record, safety.window
            )  # this call was refused; an earlier one may have got through
            if job is not None:
                return keep_job(store, record, job, "found at the vendor by its key")
            _failed(store, record.id, error)
            raise
    raise SubmitUnknown(
        f"{provider.name}{_address(provider)} cannot be reached, so it is not known whether it took the job of run"
        f" {record.id}",
        run_id=record.id,
        hint=f"later: llmtune runs attach {record.id} finds out, without starting a second job",
    )


def _address(provider: Provider) -> str:
    """Where a provider is asked, as far as its settings say: " at https://..."."""
    url = getattr(getattr(provider, "settings", None), "base_url", None)
    return f" at {redact_url(url)}" if isinstance(url, str) and url else ""


def look_for(provider: Provider, record: RunRecord, window: float) -> JobRef | None:
    """Look for the job of our key until the vendor's lists must show it. None: there surely is none.

    The whole `window` is waited for on our own steady clock, from now: only that is sure in face of clocks that jump.
    """
    deadline = time.monotonic() + window
    pause = min(1.0, max(0.05, window / 20))
    answered_after_deadline = False
    while True:
        late = time.monotonic() >= deadline
        try:
            job = read_ref(provider, "job", lambda: provider.find(record.key))
            answered_after_deadline = late
        except TransientError as error:
            job = None
            pause = max(pause, min(error.retry_after or 0.0, RETRIES.most))
            if time.monotonic() > deadline + 20 * RETRIES.most:
                raise
        if job is not None:
            return job
        if answered_after_deadline:
            return None
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())) if not late else pause)
        pause = min(pause * 1.6, RETRIES.most, max(0.05, window / 4))


def lost_hint(run_id: str) -> str:
    """What to do about a lost run."""
    return (
        f"look at the vendor's console, then: llmtune runs adopt {run_id} JOB_ID (it is there) or"
        f" llmtune runs resubmit {run_id} (it is not)"
    )


def resume_hint(record: RunRecord, provider: Provider, job: JobRef) -> str:
    """Return what to do about a job that its vendor has paused."""
    hint = str(getattr(provider, "paused_hint", "")).format(job=job.id) or "resume it in the vendor's own console"
    where = f" ({job.url})" if job.url else ""
    return (
        f"{provider.name} has paused the job {job.id}: it does not go on by itself; {hint}{where}."
        f" llmtune runs cancel {record.id} ends it"
    )


# --- helpers ---------------------------------------------------------------------------------------------------------
def _failed(store: Store, run_id: str, error: LlmtuneError) -> None:
    name_rows_in(store.get(run_id), error)
    store.move(run_id, RunState.FAILED, _words(error), error=_words(error), outcome=RunState.FAILED)


def _words(error: LlmtuneError) -> str:
    """The vendor's own words where there are any, else ours."""
    if isinstance(error, VendorError) and error.raw and error.raw not in error.message:
        return f"{error.message} ({error.raw})"
    return error.message
