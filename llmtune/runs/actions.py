"""Actions on a run: cancel it, adopt or resubmit a lost one, resume it, and remove what it left at vendors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from llmtune._retry import with_retries
from llmtune.errors import LlmtuneError, StoreError
from llmtune.provider.abilities import Pausable, Resumable
from llmtune.provider.limits import NotOffered
from llmtune.provider.protocol import Provider
from llmtune.provider.types import JobRef, RunState, UploadRef
from llmtune.redaction.secrets import scrub
from llmtune.runs import submission
from llmtune.runs.store.ledger import Resource
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import UNFINISHED, Store

log = logging.getLogger("llmtune")


def cancel(store: Store, run_id: str, provider: Provider) -> RunState:
    """Ask for the run to be stopped. A run that was never submitted is cancelled at once."""
    record = store.get(run_id)
    if record.state.final or record.outcome is not None:
        return record.state
    record = store.change(run_id, cancel_requested=True)
    job = store.ref(run_id, "job", JobRef)
    if job is None:
        lease = submission.submission_lease(store, run_id)
        if not lease.acquire(wait=0):
            return record.state  # the process that submits it sees the request before, or right after, the paid call
        with lease:
            job = store.ref(run_id, "job", JobRef)
            if job is None and record.state is not RunState.SUBMITTING:
                return store.transition(run_id, RunState.CANCELLED, "cancelled before anything was submitted").state
            if job is None:
                # Perhaps there is a job: find out first, without making one.
                existing_job = submission.find_job(provider, record, provider.submit_safety.window)
                if existing_job is None:
                    return _end_unsubmitted_run(store, record, provider)
                submission.record_job(store, record, existing_job, "found at the vendor by its key")
                job = existing_job
    with_retries(lambda: provider.cancel(job), submission.RETRIES, doing=f"cancellation of run {run_id}")
    return store.transition(run_id, RunState.CANCELLING, "cancellation asked for").state


def pause_job(store: Store, run_id: str, provider: Provider) -> None:
    """Ask the vendor to pause the job of a running run. The run's state changes when a poll sees it paused."""
    job = _pausable_job(store, run_id, provider, RunState.RUNNING)
    if isinstance(provider, Pausable):
        with_retries(lambda: provider.pause(job), submission.RETRIES, doing=f"pause of run {run_id}")


def resume_job(store: Store, run_id: str, provider: Provider) -> None:
    """Ask the vendor to go on with the job of a paused run. The run's state changes when a poll sees it running."""
    job = _pausable_job(store, run_id, provider, RunState.PAUSED)
    if isinstance(provider, Pausable):
        with_retries(lambda: provider.resume(job), submission.RETRIES, doing=f"resumption of run {run_id}")


def pause_refusal(record: RunRecord, provider: Provider) -> str | None:
    """Return why the jobs of this provider cannot be paused; None where they can."""
    ability = provider.capabilities(record.plan.target).abilities.pause
    if isinstance(ability, NotOffered):
        return ability.reason
    return None if isinstance(provider, Pausable) else "llmtune cannot pause its jobs"


def _pausable_job(store: Store, run_id: str, provider: Provider, state: RunState) -> JobRef:
    """Return the job of a run that is in that state. Raises `LlmtuneError` otherwise."""
    record, job = store.get(run_id), store.ref(run_id, "job", JobRef)
    refusal = pause_refusal(record, provider)
    if refusal is not None:
        raise LlmtuneError(f"jobs of {record.provider} are not paused: {refusal}")
    if job is None or record.state is not state:
        raise LlmtuneError(f"run {run_id} is not {state.value} but {record.state.value}")
    return job


def _end_unsubmitted_run(store: Store, record: RunRecord, provider: Provider) -> RunState:
    if provider.submit_safety.kind == "searchable":
        return store.transition(record.id, RunState.CANCELLED, "cancelled; the vendor has no job of this key").state
    sentence = f"cancelled while it was submitting: look at {provider.name}'s console whether there is a job"
    return store.transition(record.id, RunState.LOST, sentence, error=sentence).state


def adopt(store: Store, run_id: str, job_id: str) -> None:
    """Follow the vendor's job of that id as this lost run's."""
    record = store.get(run_id)
    if record.state is not RunState.LOST:
        raise LlmtuneError(f"run {run_id} is not lost but {record.state}; only a lost run adopts a job")
    for resource in store.resources():
        same = resource.type == "job" and resource.provider == record.provider and resource.ref.id == job_id
        if same and resource.run_id != run_id:  # its own job may have been out of sight
            raise LlmtuneError(f"the job {job_id} belongs to run {resource.run_id} already")
    store.change(run_id, error=None, outcome=None)
    submission.record_job(store, store.get(run_id), JobRef(id=job_id), "adopted")


def resubmit(store: Store, run_id: str, provider: Provider) -> RunState:
    """Submit a lost run once more, because a person has looked and there is no job."""
    lease = submission.submission_lease(store, run_id)
    if not lease.acquire(wait=5):
        raise LlmtuneError(f"run {run_id} is being submitted by another process right now")
    with lease:
        record = store.get(run_id)
        if record.state is not RunState.LOST:
            raise LlmtuneError(f"run {run_id} is not lost but {record.state}; only a lost run is submitted again")
        store.transition(
            run_id, RunState.UPLOADING, "to be submitted again", back=True, error=None, cancel_requested=False
        )
        return submission.submit_run(store, run_id, provider, lease=lease).state


def resume(store: Store, run_id: str, provider: Provider) -> str:
    """Resume a failed or cancelled run from its last checkpoint. Returns that point in words."""
    lease = submission.submission_lease(store, run_id)
    if not lease.acquire(wait=5):
        raise LlmtuneError(f"run {run_id} is being submitted by another process right now")
    with lease:
        record, job = store.get(run_id), store.ref(run_id, "job", JobRef)
        if record.state not in (RunState.FAILED, RunState.CANCELLED):
            raise LlmtuneError(
                f"run {run_id} is not failed or cancelled but {record.state}; only such a run is resumed",
                hint=f"llmtune runs attach {run_id}",
            )
        if not isinstance(provider, Resumable):
            raise LlmtuneError(
                f"{record.provider} cannot go on with a job that has ended",
                hint="llmtune tune JOB --new starts the job again",
            )
        if job is None or record.request is None:
            raise LlmtuneError(
                f"run {run_id} ended before it had a job, so there is nothing to resume",
                hint="llmtune tune JOB starts the job again",
            )
        request = record.request
        where = with_retries(
            lambda: provider.restart(job, request), submission.RETRIES, doing=f"resumption of run {run_id}"
        )
        store.transition(
            run_id,
            RunState.QUEUED,
            f"resumed from {where}",
            back=True,
            error=None,
            outcome=None,
            cancel_requested=False,
        )
    return where


def resume_hint(store: Store, record: RunRecord, provider: Provider) -> str | None:
    """Return the hint for resuming a run that ended without a model; None where it cannot, or would only fail again."""
    job = store.ref(record.id, "job", JobRef)
    if job is None or not isinstance(provider, Resumable):
        return None
    where = provider.resume_point(job)
    return None if where is None else f"to go on from {where}: llmtune runs resume {record.id}"


# --- cleaning up -----------------------------------------------------------------------------------------------------
@dataclass
class Cleanup:
    """What a cleanup removed, kept (with the reason), and could not remove (with the vendor's words)."""

    removed: list[Resource] = field(default_factory=list)
    kept: list[tuple[Resource, str]] = field(default_factory=list)
    failed: list[tuple[Resource, str]] = field(default_factory=list)


def cleanup(
    store: Store,
    provider_for: Callable[[RunRecord], Provider],
    *,
    run_ids: Iterable[str] | None = None,
    models: bool = False,
    dry_run: bool = False,
) -> Cleanup:
    """Remove what llmtune made at vendors: deployments, uploads, jobs' leftovers; tuned models only when asked for.

    Nothing that an unfinished run uses is removed, and nothing that the store does not list as made by llmtune.

    Args:
        store: the store.
        provider_for: gives the backend of a run.
        run_ids: only what these runs made; None is everything.
        models: remove tuned models too.
        dry_run: say what would be removed, and remove nothing.
    """
    only_runs = None if run_ids is None else set(run_ids)
    done = Cleanup()
    in_use = _list_uploads_in_use(store)
    order = {"deployment": 0, "upload": 1, "job": 2, "model": 3}
    resources = sorted(store.resources(), key=lambda resource: order[resource.type])
    for resource in resources:
        if only_runs is not None and resource.run_id not in only_runs:
            continue
        reason = _reason_to_keep(store, resource, in_use, models=models)
        if reason is not None:
            done.kept.append((resource, reason))
            continue
        if dry_run:
            done.removed.append(resource)
            continue
        try:
            provider = provider_for(store.get(resource.run_id))
            with_retries(
                lambda provider=provider, ref=resource.ref: provider.delete(ref),  # type: ignore[misc]
                submission.RETRIES,
                doing=f"removal of {resource.type} {resource.ref.id}",
            )
        except LlmtuneError as error:
            done.failed.append((resource, scrub(error.message)))
            continue
        store.mark_removed(resource)
        done.removed.append(resource)
    return done


def _list_uploads_in_use(store: Store) -> dict[str, str]:
    """Return digests and ids of uploads that unfinished runs use, with the reason to keep them; `*` is every upload."""
    used = {}
    for record in store.runs(states=UNFINISHED):
        reason = f"run {record.id} is unfinished and uses it"
        for file in record.files:
            used[f"{record.provider}/{file.sha256}"] = reason
        for name, ref in store.refs(record.id).items():
            if name.startswith("upload:"):
                used[f"{record.provider}/{ref['id']}"] = reason
    # A run that was never submitted and cannot be read will not be continued; the job of any other may need its files.
    submitted = set(UNFINISHED) - {RunState.PLANNED, RunState.UPLOADING}
    for run_id, provider in store.damaged(submitted):
        used[f"{provider}/*"] = f"run {run_id} is unfinished and cannot be read, so it may use it"
    return used


def _reason_to_keep(store: Store, resource: Resource, in_use: dict[str, str], *, models: bool) -> str | None:
    """Return why a resource must stay; None when it may be removed."""
    try:
        owner = store.get(resource.run_id)
    except StoreError as error:
        return error.message
    if isinstance(resource.ref, UploadRef):
        for name in (resource.ref.digest, resource.ref.id, "*"):
            if reason := in_use.get(f"{resource.provider}/{name}"):
                return reason
    if not owner.state.final:
        return f"run {owner.id} is unfinished"
    if resource.type == "model" and not models:
        return "it is the result (--models removes it too)"
    if resource.type == "job":
        return "a finished job costs nothing, and its record is the vendor's"
    return None
