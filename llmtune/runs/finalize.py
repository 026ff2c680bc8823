"""Finalize a run whose job has ended: last metrics, a temporary deployment if allowed, evaluation, and the report.

All under a lease, so that two attached processes do not both pay; every step can be repeated after a kill. A failed
evaluation does not fail a run: it has succeeded, with a warning.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from llmtune._retry import with_retries
from llmtune.errors import LlmtuneError, StoreUnavailable, TransientError
from llmtune.provider.intake import poll_job, read_ref
from llmtune.provider.protocol import Provider
from llmtune.provider.types import DeploymentRef, JobRef, ModelRef, Ref, RunState
from llmtune.runs import evaluation, settling, submission
from llmtune.runs.failpoints import failpoint
from llmtune.runs.row_names import name_rows
from llmtune.runs.speeds import remember_speed
from llmtune.runs.store.leases import Lease, LeaseLost
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")
Say = Callable[[str], None]

#: Seconds after which a vendor's list surely shows a new deployment. Only waited for after a process was killed.
DEPLOYMENT_LAG = 30.0

#: The most error events of a failed job that are joined to its reason where the job gives none.
REASONS = 3

#: Name of the reference that is set before a deployment is created: there may be one.
DEPLOY_BEGUN = "deployment-meant"


def finalize(
    store: Store,
    run_id: str,
    provider: Provider,
    *,
    lease: Lease,
    say: Say = lambda _: None,
    last_try: bool = False,
) -> RunRecord:
    """Bring a run whose job has ended to its final state. The caller holds `lease` ("finalize:RUN").

    With `last_try`, a run whose vendor is unavailable ends without its evaluation (with a warning); nothing is raised.

    A run that has succeeded without a model is looked at once more: its vendor may have named the model since.

    Raises:
        NotSettled: the job has ended, and the vendor has not reported everything yet (model, result files); call
            again later.
        TransientError: the vendor is unavailable; calling again later continues from here.
    """
    record = store.get(run_id)
    outcome = record.outcome
    if settling.lacks_model(store, record):
        return refresh_missing_model(store, record, provider, lease=lease)
    if record.state.final or outcome is None:
        return record
    if record.state is not RunState.FINALIZING:
        store.transition(run_id, RunState.FINALIZING, f"the job ended: {outcome}")
    failpoint("finalizing")
    record, pending = _collect_last_metrics(store, record, provider, last_try)
    failpoint("last-metrics")
    if pending and outcome is not RunState.LOST:
        _raise_if_pending(store, record, provider, pending)
    record = _add_failure_reason(store, record)
    if outcome is RunState.SUCCEEDED:
        _evaluate(store, record, provider, lease, say, last_try)
        failpoint("evaluated")
        if not provider.hosted:
            remember_speed(store, run_id)
    evaluation.write_report(store, store.get(run_id), provider)
    failpoint("reported")
    ended = store.get(run_id).progress.model_copy(update={"seconds_left": None})
    record = store.transition(run_id, outcome, record.error or "", progress=ended)
    failpoint("finished")
    log.info("run %s %s", run_id, record.state.value, extra={"run": run_id})
    return record


def _collect_last_metrics(
    store: Store, record: RunRecord, provider: Provider, last_try: bool
) -> tuple[RunRecord, tuple[str, ...]]:
    """Poll once more, for metrics of the job's end. Returns the record, and what the vendor has yet to report."""
    job = store.ref(record.id, "job", JobRef)
    if job is None:
        return record, ()
    try:
        snapshot = with_retries(
            lambda: poll_job(provider, job, record.cursor), submission.RETRIES, doing="last metrics"
        )
        record = store.record(record.id, name_rows(record, snapshot), previous=record).record
    except LlmtuneError as error:
        if isinstance(error, StoreUnavailable) or (isinstance(error, TransientError) and not last_try):
            raise
        store.warn(record.id, f"the last metrics could not be read: {error.message}")
        return store.get(record.id), ()
    if record.outcome is RunState.SUCCEEDED and store.ref(record.id, "model", ModelRef) is None:
        return record, ("the tuned model's id", *snapshot.pending)
    return record, snapshot.pending


def _raise_if_pending(store: Store, record: RunRecord, provider: Provider, pending: tuple[str, ...]) -> None:
    """Raise `NotSettled` while the vendor may still fill in what is `pending`."""
    limit = settling.get_settling(provider).model_seconds
    remaining = settling.get_job_end(store, record.id) + limit - settling.now()
    what = " and ".join(pending)
    verb = "was cancelled" if record.outcome is RunState.CANCELLED else f"has {record.outcome}"
    if remaining > 0:
        raise settling.NotSettled(
            f"{provider.name} says that the job {verb}, and has not reported {what} yet;"
            f" it is asked again for up to {max(1, round(remaining / 60))} min",
            retry_after=min(settling.LOOK_EVERY, remaining),
        )
    unnamed = record.outcome is RunState.SUCCEEDED and store.ref(record.id, "model", ModelRef) is None
    remedy = f"llmtune runs attach {record.id} asks again" if unnamed else "the run ends without it"
    sentence = (
        f"{provider.name} says that the job {verb}, and has not reported {what} within {limit / 60:g} min; {remedy}"
    )
    store.warn(record.id, sentence)


def _add_failure_reason(store: Store, record: RunRecord) -> RunRecord:
    """Return the record with the reason of a failure: the job's own, else its last error events."""
    if record.outcome is not RunState.FAILED or record.error:
        return record
    events = [event for _, event in store.events(record.id) if not event.id.startswith("llmtune-") and event.message]
    worst = [event for event in events if event.level == "error"] or [e for e in events if e.level == "warning"]
    messages = list(dict.fromkeys(event.message for event in worst[-REASONS:]))
    return store.change(record.id, error="; ".join(messages)) if messages else record


def refresh_missing_model(
    store: Store, record: RunRecord, provider: Provider, *, lease: Lease | None = None
) -> RunRecord:
    """Ask again for the model of a run that has succeeded without one, and rewrite its report when there is one now.

    With a `lease` ("finalize:RUN", held by the caller) the model is evaluated too, as it would have been. A vendor
    that cannot be asked leaves the run as it is.
    """
    job = store.ref(record.id, "job", JobRef)
    if job is None or not settling.lacks_model(store, record):
        return record
    try:
        snapshot = poll_job(provider, job, record.cursor)
    except Exception as error:  # noqa: BLE001 - the run has its report; this look can only add to it
        log.info("run %s: %s could not be asked for its model: %s", record.id, provider.name, error)
        return record
    record = store.record(record.id, name_rows(record, snapshot), previous=record).record
    if settling.lacks_model(store, record):
        return record
    if lease is not None:
        _evaluate(store, record, provider, lease, lambda _: None, last_try=True)
    evaluation.write_report(store, store.get(record.id), provider)
    return store.get(record.id)


def _evaluate(store: Store, record: RunRecord, provider: Provider, lease: Lease, say: Say, last_try: bool) -> None:
    """Evaluate the model and store the result, or add a warning why not."""
    model = store.ref(record.id, "model", ModelRef)
    try:
        if evaluation.stored_evaluation(store, record):  # only the deployment may be left of an earlier attempt
            _remove_leftover(store, record, provider)
            return
        if model is None:
            raise LlmtuneError(evaluation.UNNAMED)  # `refresh_missing_model` looks for it later
        with open_target(store, record, provider, model, lease) as target:
            say("evaluating")
            evaluation.evaluate(store, record, provider, target, say)
    except LlmtuneError as error:
        if isinstance(error, LeaseLost | StoreUnavailable) or (isinstance(error, TransientError) and not last_try):
            raise
        store.warn(record.id, f"{evaluation.NOT_EVALUATED}{error.message}")
    except Exception as error:
        log.exception("evaluation of run %s broke", record.id)
        store.warn(record.id, f"{evaluation.NOT_EVALUATED}{type(error).__name__}: {error}")


# --- deployments, which cost money while they exist -----------------------------------------------------------------
@contextmanager
def open_target(
    store: Store, record: RunRecord, provider: Provider, model: ModelRef, lease: Lease, *, allow: bool | None = None
) -> Iterator[ModelRef | DeploymentRef]:
    """Yield something that answers: the model itself, or a deployment that is removed at the end of the `with`.

    `allow` None asks the job (`evaluation.deploy`).
    """
    need = provider.capabilities(record.plan.target).abilities.deployment
    allowed = record.tuning_job.evaluation.deploy if allow is None else allow
    if need == "none" or (need == "optional" and not allowed):
        yield model
        return
    if not allowed:
        raise LlmtuneError(
            "the tuned model answers only from a deployment that costs money while it stands, and evaluation.deploy"
            " is false",
            hint="set evaluation.deploy: true to allow it; the deployment is removed afterwards",
        )
    ref = _deploy(store, record, provider, model, lease)
    if ref is None:
        yield model
        return
    with _undeploy_afterwards(store, record, provider, ref):
        yield ref


def _deploy(store: Store, record: RunRecord, provider: Provider, model: ModelRef, lease: Lease) -> DeploymentRef | None:
    recorded = store.ref(record.id, "deployment", DeploymentRef)
    if recorded is not None:
        return recorded
    deployment = None
    if store.ref(record.id, DEPLOY_BEGUN, Ref) is not None:  # an earlier process may have deployed before it died
        deployment = _find_deployment(provider, record)
    if deployment is None:
        store.set_ref(record.id, DEPLOY_BEGUN, Ref(id="meant"))
        lease.check()
        failpoint("before-deploy")
        try:
            deployment = read_ref(provider, "deployment", lambda: provider.deploy(model, record.key))
        except TransientError as error:
            if not error.sent:
                raise
            deployment = _find_deployment(provider, record)
            if deployment is None:
                raise
    failpoint("after-deploy")
    if deployment is not None:
        store.keep_ref(record, "deployment", "deployment", deployment)
    failpoint("deployment-kept")
    return deployment


def _remove_leftover(store: Store, record: RunRecord, provider: Provider) -> None:
    ref = store.ref(record.id, "deployment", DeploymentRef)
    if ref is not None:
        undeploy(store, record, provider, ref)


def remove_leftover(store: Store, run_id: str, provider: Provider) -> None:
    """Remove the deployment that was left by a process which died while it evaluated a finished run.

    Nothing happens while another process asks it. Raises `LlmtuneError` when the vendor cannot be asked.
    """
    standing = store.ref(run_id, "deployment", DeploymentRef) is not None
    if not standing and store.ref(run_id, DEPLOY_BEGUN, Ref) is None:
        return
    record, lease = store.get(run_id), Lease(store, f"model:{run_id}")
    if not record.state.final or not lease.acquire(wait=0):
        return
    with lease:
        if not standing and (ref := _find_deployment(provider, record)) is not None:
            store.keep_ref(record, "deployment", "deployment", ref)
        _remove_leftover(store, record, provider)
        store.drop_ref(run_id, DEPLOY_BEGUN)


def _find_deployment(provider: Provider, record: RunRecord) -> DeploymentRef | None:
    """Look for a deployment with the run's key, for as long as the vendor's lists may lag."""
    window = max(provider.submit_safety.window, DEPLOYMENT_LAG)
    deadline = time.monotonic() + window
    while True:
        past_deadline = time.monotonic() >= deadline
        deployment = with_retries(
            lambda: read_ref(provider, "deployment", lambda: provider.find_deployment(record.key)),
            submission.RETRIES,
            doing="look for a deployment",
        )
        if deployment is not None or past_deadline:
            return deployment
        time.sleep(min(1.0, max(0.05, window / 20)))


@contextmanager
def _undeploy_afterwards(store: Store, record: RunRecord, provider: Provider, ref: DeploymentRef) -> Iterator[None]:
    """Remove the deployment at the end, also when the evaluation broke or the interpreter ends under it."""
    done = threading.Event()

    def remove() -> None:
        if not done.is_set():
            done.set()
            undeploy(store, record, provider, ref)

    atexit.register(remove)  # this runs in a daemon thread, which an exit would cut off without its `finally`
    try:
        yield
    finally:
        remove()
        atexit.unregister(remove)


def undeploy(store: Store, record: RunRecord, provider: Provider, ref: DeploymentRef) -> None:
    """Remove a deployment; one that cannot be removed becomes a warning with the command that removes it."""
    failpoint("before-undeploy")
    try:
        with_retries(lambda: provider.undeploy(ref), submission.RETRIES, doing=f"removal of deployment {ref.id}")
    except LlmtuneError as error:
        with suppress(LlmtuneError):
            store.warn(
                record.id,
                f"the deployment {ref.id} could not be removed and costs money while it stands ({error.message});"
                f" llmtune runs cleanup {record.id}",
            )
        return
    failpoint("after-undeploy")
    for resource in store.resources(record.id):
        if resource.type == "deployment" and resource.ref.id == ref.id:
            store.mark_removed(resource)
    store.drop_ref(record.id, "deployment")
    store.drop_ref(record.id, DEPLOY_BEGUN)
    failpoint("undeployed")
