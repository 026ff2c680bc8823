"""After the job has ended: last metrics, a deployment if one was asked for, evaluation, its removal, and the report.

All of it under a lease, so that two attached processes do not both pay; and every step can be done again after a kill.
A failed evaluation does not fail a run: it succeeded, with a warning.
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
from llmtune.runs.failpoints import checkpoint
from llmtune.runs.row_names import name_rows
from llmtune.runs.store.leases import Lease, LeaseLost
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")
Say = Callable[[str], None]

#: Seconds after which a vendor's list surely shows a new deployment. Only a killed process makes anybody wait for it.
DEPLOYMENT_LAG = 30.0

#: Error events of a failed job that are given as its reason where the job itself has none.
REASONS = 3

#: Name of the reference that says: we are about to deploy, and may have.
MEANT = "deployment-meant"


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

    With `last_try` a vendor that is unwell costs the run its evaluation (with a warning), and nothing is raised.

    A run that has succeeded without a model is looked at once more: its vendor may have named the model since.

    Raises:
        NotSettled: the job has ended, and the vendor has not told everything yet (model, result files); calling
            again later is right.
        TransientError: the vendor is unwell; calling again later goes on from here.
    """
    record = store.get(run_id)
    outcome = record.outcome
    if settling.lacks_model(store, record):
        return ask_again(store, record, provider, lease=lease)
    if record.state.final or outcome is None:
        return record
    if record.state is not RunState.FINALIZING:
        store.move(run_id, RunState.FINALIZING, f"the job ended: {outcome}")
    checkpoint("finalizing")
    record, pending = _last_metrics(store, record, provider, last_try)
    checkpoint("last-metrics")
    if pending and outcome is not RunState.LOST:
        _refuse_to_end_early(store, record, provider, pending)
    record = _give_reason(store, record)
    if outcome is RunState.SUCCEEDED:
        _evaluate(store, record, provider, lease, say, last_try)
        checkpoint("evaluated")
    evaluation.write_report(store, store.get(run_id), provider)
    checkpoint("reported")
    record = store.move(run_id, outcome, record.error or "")
    checkpoint("finished")
    log.info("run %s %s", run_id, record.state.value, extra={"run": run_id})
    return record


def _last_metrics(
    store: Store, record: RunRecord, provider: Provider, last_try: bool
) -> tuple[RunRecord, tuple[str, ...]]:
    """One more look, for what the vendor wrote while it said that the job had ended; and what it has yet to tell."""
    job = store.ref(record.id, "job", JobRef)
    if job is None:
        return record, ()
    try:
        snapshot = with_retries(
            lambda: poll_job(provider, job, record.cursor), submission.RETRIES, doing="last metrics"
        )
        record = store.record(record.id, name_rows(record, snapshot), known=record).record
    except LlmtuneError as error:
        if isinstance(error, StoreUnavailable) or (isinstance(error, TransientError) and not last_try):
            raise
        store.warn(record.id, f"the last metrics could not be read: {error.message}")
        return store.get(record.id), ()
    if record.outcome is RunState.SUCCEEDED and store.ref(record.id, "model", ModelRef) is None:
        return record, ("the tuned model's id", *snapshot.pending)
    return record, snapshot.pending


def _refuse_to_end_early(store: Store, record: RunRecord, provider: Provider, pending: tuple[str, ...]) -> None:
    """Raise `NotSettled` while the vendor may still fill in what is `pending`."""
    limit = settling.settling_of(provider).model_seconds
    remaining = settling.ended_at(store, record.id) + limit - settling.now()
    what = " and ".join(pending)
    verb = "was cancelled" if record.outcome is RunState.CANCELLED else f"has {record.outcome}"
    if remaining > 0:
        raise settling.NotSettled(
            f"{provider.name} says that the job {verb}, and has not told {what} yet;"
            f" it is asked again for up to {max(1, round(remaining / 60))} min",
            retry_after=min(settling.LOOK_EVERY, remaining),
        )
    unnamed = record.outcome is RunState.SUCCEEDED and store.ref(record.id, "model", ModelRef) is None
    remedy = f"llmtune runs attach {record.id} asks again" if unnamed else "the run ends without it"
    sentence = f"{provider.name} says that the job {verb}, and has not told {what} within {limit / 60:g} min; {remedy}"
    store.warn(record.id, sentence)


def _give_reason(store: Store, record: RunRecord) -> RunRecord:
    """The record with why it failed: where the job itself gives no reason, its last error events do."""
    if record.outcome is not RunState.FAILED or record.error:
        return record
    events = [event for _, event in store.events(record.id) if not event.id.startswith("llmtune-") and event.message]
    worst = [event for event in events if event.level == "error"] or [e for e in events if e.level == "warning"]
    messages = list(dict.fromkeys(event.message for event in worst[-REASONS:]))
    return store.change(record.id, error="; ".join(messages)) if messages else record


def ask_again(store: Store, record: RunRecord, provider: Provider, *, lease: Lease | None = None) -> RunRecord:
    """Look once more at a run that has succeeded without a model, and report on it anew if there is one now.

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
    record = store.record(record.id, name_rows(record, snapshot), known=record).record
    if settling.lacks_model(store, record):
        return record
    if lease is not None:
        _evaluate(store, record, provider, lease, lambda _: None, last_try=True)
    evaluation.write_report(store, store.get(record.id), provider)
    return store.get(record.id)


def _evaluate(store: Store, record: RunRecord, provider: Provider, lease: Lease, say: Say, last_try: bool) -> None:
    """Evaluate, or warn why not. What came out is kept in the store."""
    model = store.ref(record.id, "model", ModelRef)
    try:
        if evaluation.kept_evaluation(store, record):  # only the deployment may be left of an earlier attempt
            _remove_leftover(store, record, provider)
            return
        if model is None:
            raise LlmtuneError(evaluation.UNNAMED)  # `ask_again` looks for it later
        with deployed(store, record, provider, model, lease) as target:
            say("evaluating")
            evaluation.evaluate(store, record, provider, target, say)
    except LlmtuneError as error:
        if isinstance(error, LeaseLost | StoreUnavailable) or (isinstance(error, TransientError) and not last_try):
            raise
        store.warn(record.id, f"{evaluation.NOT_EVALUATED}{error.message}")
    except Exception as error:
        log.exception("evaluation of run %s broke", record.id)
        store.warn(record.id, f"{evaluation.NOT_EVALUATED}{type(error).__name__}: {error}")


# --- deployments: they cost money while they stand -------------------------------------------------------------------
@contextmanager
def deployed(
    store: Store, record: RunRecord, provider: Provider, model: ModelRef, lease: Lease, *, allow: bool | None = None
) -> Iterator[ModelRef | DeploymentRef]:
    """Something that answers: the model itself, or a deployment that stands only inside the `with`.

    `allow` None asks the job (`evaluation.deploy`).
    """
    need = provider.capabilities(record.plan.target).abilities.deployment
    wanted = record.tuning_job.evaluation.deploy if allow is None else allow
    if need == "none" or (need == "optional" and not wanted):
        yield model
        return
    if not wanted:
        raise LlmtuneError(
            "the tuned model answers only from a deployment that costs money while it stands, and evaluation.deploy"
            " is false",
            hint="set evaluation.deploy: true to allow it; the deployment is removed afterwards",
        )
    ref = _deploy(store, record, provider, model, lease)
    if ref is None:
        yield model
        return
    with _standing(store, record, provider, ref):
        yield ref


def _deploy(store: Store, record: RunRecord, provider: Provider, model: ModelRef, lease: Lease) -> DeploymentRef | None:
    kept = store.ref(record.id, "deployment", DeploymentRef)
    if kept is not None:
        return kept
    found = None
    if store.ref(record.id, MEANT, Ref) is not None:  # somebody was about to deploy and did not live to tell
        found = _look_for_deployment(provider, record)
    if found is None:
        store.set_ref(record.id, MEANT, Ref(id="meant"))
        lease.check()
        checkpoint("before-deploy")
        try:
            found = read_ref(provider, "deployment", lambda: provider.deploy(model, record.key))
        except TransientError as error:
            if not error.sent:
                raise
            found = _look_for_deployment(provider, record)
            if found is None:
                raise
    checkpoint("after-deploy")
    if found is not None:
        store.keep_ref(record, "deployment", "deployment", found)
    checkpoint("deployment-kept")
    return found


def _remove_leftover(store: Store, record: RunRecord, provider: Provider) -> None:
    ref = store.ref(record.id, "deployment", DeploymentRef)
    if ref is not None:
        undeploy(store, record, provider, ref)


def remove_leftover(store: Store, run_id: str, provider: Provider) -> None:
    """Remove the deployment that a process left standing which died while it asked a finished run's model.

    Nothing happens while another process asks it. Raises `LlmtuneError` when the vendor cannot be asked.
    """
    standing = store.ref(run_id, "deployment", DeploymentRef) is not None
    if not standing and store.ref(run_id, MEANT, Ref) is None:
        return
    record, lease = store.get(run_id), Lease(store, f"model:{run_id}")
    if not record.state.final or not lease.acquire(wait=0):
        return
    with lease:
        if not standing and (ref := _look_for_deployment(provider, record)) is not None:
            store.keep_ref(record, "deployment", "deployment", ref)
        _remove_leftover(store, record, provider)
        store.drop_ref(run_id, MEANT)


def _look_for_deployment(provider: Provider, record: RunRecord) -> DeploymentRef | None:
    """A deployment of our key, looked for as long as the vendor's lists may lag."""
    window = max(provider.submit_safety.window, DEPLOYMENT_LAG)
    deadline = time.monotonic() + window
    while True:
        late = time.monotonic() >= deadline
        found = with_retries(
            lambda: read_ref(provider, "deployment", lambda: provider.find_deployment(record.key)),
            submission.RETRIES,
            doing="look for a deployment",
        )
        if found is not None or late:
            return found
        time.sleep(min(1.0, max(0.05, window / 20)))


@contextmanager
def _standing(store: Store, record: RunRecord, provider: Provider, ref: DeploymentRef) -> Iterator[None]:
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
    """Remove a deployment of ours; one that cannot be removed becomes a warning that says what to type."""
    checkpoint("before-undeploy")
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
    checkpoint("after-undeploy")
    for resource in store.resources(record.id):
        if resource.type == "deployment" and resource.ref.id == ref.id:
            store.mark_removed(resource)
    store.drop_ref(record.id, "deployment")
    store.drop_ref(record.id, MEANT)
    checkpoint("undeployed")
