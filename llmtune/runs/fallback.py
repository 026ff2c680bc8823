"""Fallback: start a job at the first backend of a list that takes it, and record why each one before did not.

By default only what happens before a job exists moves on: a service that has closed or refuses the model, a missing
extra, credential or device, a quota. What happens later moves on when `fallback_on` asks for it, and the earlier run
is confirmed ended before the next one is submitted. A bad dataset or a wrong value would be wrong
everywhere, and after an unclear submit another backend would mean paying twice: these never move on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.errors import (
    DeviceUnavailable,
    InvalidJob,
    InvalidSettings,
    LlmtuneError,
    MissingCredentials,
    MissingExtra,
    OverBudget,
    ProviderClosed,
    QuotaExceeded,
    RunFailed,
    StillQueued,
    did_you_mean,
)
from llmtune.provider.types import JobRef, RunState
from llmtune.runs.planned import StartOptions
from llmtune.runs.start import start_run

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.provider.protocol import Provider
    from llmtune.provider.receipt import Receipt
    from llmtune.report.schema import Report
    from llmtune.runs.run import Run
    from llmtune.runs.store.records import RunRecord
    from llmtune.runs.store.store import Store

log = logging.getLogger("llmtune")

#: The errors after which the next backend is tried, whatever `fallback_on` says.
FALLBACK_ERRORS: tuple[type[LlmtuneError], ...] = (
    ProviderClosed,
    MissingExtra,
    MissingCredentials,
    InvalidSettings,
    DeviceUnavailable,
    QuotaExceeded,
)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

#: Seconds in which a cancelled run must end, before the next backend may be tried.
CANCEL_TIMEOUT = 600.0


@dataclass(frozen=True)
class Conditions:
    """The conditions for trying the next backend beside the default ones: a failed run, a long queue, the cost."""

    failed: bool = False
    over_budget: bool = False
    queued: float | None = None
    """Seconds in the vendor's queue."""

    @classmethod
    def parse(cls, conditions: Sequence[str]) -> Conditions:
        """Parse conditions such as "failed", "over_budget", "queued>2h". Raises `InvalidJob` for any other."""
        failed = over = False
        queued: float | None = None
        for condition in conditions:
            plain = condition.strip().lower().replace("-", "_")
            queue_limit = re.fullmatch(r"queued?\s*>\s*(\d+(?:\.\d+)?)\s*([smhd])", plain)
            if plain == "failed":
                failed = True
            elif plain == "over_budget":
                over = True
            elif queue_limit is not None:
                queued = float(queue_limit[1]) * _UNITS[queue_limit[2]]
            else:
                suggestions = did_you_mean(plain, ("failed", "over_budget", "queued>2h"))
                suggestion = f"; did you mean {suggestions[0]!r}?" if suggestions else ""
                raise InvalidJob(
                    f"unknown fallback condition {condition!r}{suggestion}",
                    where="fallback_on",
                    hint="there are: failed, over_budget, queued>TIME (30m, 2h, 1d)",
                )
        return cls(failed=failed, over_budget=over, queued=queued)

    @property
    def waits(self) -> bool:
        """Whether a condition can only be seen while a run is followed."""
        return self.failed or self.queued is not None


def start_first(
    job: TuningJob, providers: Sequence[str | Provider], *, fallback_on: Sequence[str] = (), **options: Any
) -> Run:
    """Start the job at the first backend that takes it; the run's warnings say why earlier ones did not.

    Raises:
        LlmtuneError: none takes it; the message gives every reason. And whatever does not move on (see above).
        InvalidJob: `fallback_on` names a condition for which the run must be followed (`tune` does).
    """
    conditions = Conditions.parse(fallback_on)
    if conditions.waits:
        raise InvalidJob(
            "failed and queued>TIME are seen only while the run is followed",
            where="fallback_on",
            hint="use tune (on the command line: without --detach)",
        )
    return _Chain(job, providers, conditions, options).start()


def tune_first(
    job: TuningJob,
    providers: Sequence[str | Provider],
    *,
    fallback_on: Sequence[str] = (),
    follow: Callable[[Run, float | None], Report],
    on_start: Callable[[Run], None] | None = None,
    **options: Any,
) -> Report:
    """Start and follow the job, at one backend after the other where `fallback_on` says so, until one has made a model.

    The same call after a crash continues with the backend that it had reached; nothing is paid for twice.

    Args:
        job: the job.
        providers: names, configured instances, or providers, in order.
        fallback_on: conditions beside the default: "failed", "over_budget", "queued>2h".
        follow: waits for a run to end and returns its report; its second argument is the most seconds it may wait
            in the queue (None: any), after which it raises `StillQueued`.
        on_start: called with each run that is started or joined.
        options: as for `start`.

    Raises:
        RunFailed: the last backend of the list failed, or a run failed and `fallback_on` does not say "failed".
        LlmtuneError: no backend takes the job; or a run left behind could not be confirmed ended, so nothing else was
            started.
    """
    conditions = Conditions.parse(fallback_on)
    chain = _Chain(job, providers, conditions, options)
    while True:
        run = chain.start()
        if on_start is not None:
            on_start(run)
        last = chain.exhausted
        try:
            return follow(run, None if last else conditions.queued)
        except RunFailed as failure:
            if last or not conditions.failed or run.state is not RunState.FAILED:
                raise
            chain.leave(run, failure.message)
        except StillQueued:
            if _cancel_and_confirm(run) is RunState.SUCCEEDED:
                return run.report()
            chain.leave(run, f"it stood in the queue for more than {conditions.queued:g} s and was cancelled")


def _cancel_and_confirm(run: Run) -> RunState:
    """Cancel a run and wait until it has ended, in whatever state. Raises when that cannot be confirmed."""
    try:
        run.cancel()
        run.wait(timeout=CANCEL_TIMEOUT)
    except RunFailed:
        pass
    except LlmtuneError as error:
        raise LlmtuneError(
            f"run {run.id} at {run.record.provider} could not be confirmed cancelled ({error.message}), so no other"
            " backend was asked",
            hint=f"look at it with: llmtune runs show {run.id}; when it has ended, run the same command again",
        ) from None
    if run.state is RunState.LOST:
        raise LlmtuneError(
            f"run {run.id} at {run.record.provider} is lost: there may be a job, so no other backend was asked",
            hint=f"look there; then: llmtune runs adopt {run.id} JOB, or llmtune runs resubmit {run.id}",
        )
    return run.state


class _Chain:
    """The remaining backends of one call, and those that were passed over, each with its reason."""

    def __init__(
        self, job: TuningJob, providers: Sequence[str | Provider], conditions: Conditions, options: dict[str, Any]
    ) -> None:
        from llmtune.provider.registry import get_provider
        from llmtune.runs.store.store import open_store

        if not providers:
            raise InvalidJob("the list of providers is empty")
        self._job, self._conditions, self._options = job, conditions, dict(options)
        self._sinks: Collection[str] = self._options.pop("sinks", ())
        self._remaining = [get_provider(provider) for provider in providers]
        self._store: Store = open_store()
        self.group = self._options.pop("group", None) or _make_group_name(
            job, [backend.name for backend in self._remaining]
        )
        self._refused: list[tuple[str, LlmtuneError]] = []
        self._before: RunRecord | None = None
        if not self._options.get("new"):
            self._skip_tried_backends()

    @property
    def exhausted(self) -> bool:
        """Whether no backend is left after the one that was started last."""
        return not self._remaining

    def start(self) -> Run:
        """Start the run at the next backend that takes the job. Raises when none does."""
        moves_on: tuple[type[LlmtuneError], ...] = FALLBACK_ERRORS
        if self._conditions.over_budget:
            moves_on = (*FALLBACK_ERRORS, OverBudget)
        while self._remaining:
            backend = self._remaining.pop(0)
            try:
                options = StartOptions(group=self.group, **self._options)
                run = start_run(self._job, backend, options, sinks=self._sinks)
            except moves_on as error:
                log.info("%s was passed over: %s", backend.name, error.message)
                self._refused.append((backend.name, error))
                continue
            self._record_reasons(run)
            return run
        raise _no_backend_error(self._refused)

    def leave(self, run: Run, reason: str) -> None:
        """Record that a run has ended and that the next backend is tried."""
        record = run.record
        self._refused.append((record.provider, LlmtuneError(reason)))
        self._before = record
        self._store.note(run.id, f"left for the next backend: {reason}", "warning")
        log.info("%s was left: %s", record.provider, reason)

    def _record_reasons(self, run: Run) -> None:
        """Record in the run's warnings why this backend has the job, and what is different there."""
        if not self._refused:
            return
        reasons = [f"{name} was passed over: {error.message}" for name, error in self._refused]
        reasons += [
            f"at {run.record.provider} instead: {change}" for change in _describe_changes(self._before, run.record)
        ]
        warnings = run.record.warnings
        self._store.warn(run.id, *(reason for reason in reasons if reason not in warnings))

    def _skip_tried_backends(self) -> None:
        """Skip the backends that an earlier, interrupted call of the same list has already tried."""
        runs = sorted(self._store.runs(group=self.group), key=lambda run: run.created)
        names = [backend.name for backend in self._remaining]
        for record in reversed(runs):
            if record.state is RunState.SUCCEEDED or (record.provider == names[-1] and record.state.final):
                runs = runs[runs.index(record) + 1 :]  # that call came to its end
                break
        for record in runs:
            was_left = record.state is RunState.FAILED and self._conditions.failed
            was_left = was_left or (record.state is RunState.CANCELLED and self._conditions.queued is not None)
            had_a_job = self._store.ref(record.id, "job", JobRef) is not None
            if not was_left or not had_a_job or record.provider not in [backend.name for backend in self._remaining]:
                continue
            while self._remaining.pop(0).name != record.provider:
                pass
            self._refused.append((record.provider, LlmtuneError(record.error or f"run {record.id} {record.state}")))
            self._before = record


def _make_group_name(job: TuningJob, names: Sequence[str]) -> str:
    identity = json.dumps([job.to_dict(), list(names)], sort_keys=True, default=str)
    return f"fallback {hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _describe_changes(before: RunRecord | None, now: RunRecord) -> list[str]:
    """Return what is different at the backend that has the job now."""
    receipt = now.plan
    changes = []
    if before is not None and before.model != now.model:
        changes.append(f"the model is {now.model} (it was {before.model})")
    else:
        changes.append(f"the model is {now.model}")
    lost = [row.field for row in receipt.unsupported()]
    if lost:
        changes.append(f"not used here: {', '.join(lost)}")
    changes.append(f"the cost is {receipt.cost.sentence()}")
    return changes


def describe_fallbacks(receipts: dict[str, Receipt | LlmtuneError]) -> list[str]:
    """Return one line per backend, in order: its model, the cost and unused fields; or why it is refused."""
    lines = []
    for number, (name, receipt) in enumerate(receipts.items(), start=1):
        if isinstance(receipt, LlmtuneError):
            lines.append(f"{number}. {name}: {receipt.message}")
            continue
        if not receipt.lifecycle.open:
            lines.append(f"{number}. {name}: passed over, {receipt.lifecycle.sentence}")
            continue
        lost = [row.field for row in receipt.unsupported()]
        parts = [receipt.target.model, receipt.cost.sentence()]
        if lost:
            parts.append(f"not used there: {', '.join(lost)}")
        if receipt.refusals:
            parts.append(f"refused: {'; '.join(receipt.refusals)}")
        lines.append(f"{number}. {name}: {'; '.join(parts)}")
    return lines


def _no_backend_error(refused: Sequence[tuple[str, LlmtuneError]]) -> LlmtuneError:
    reasons = "; ".join(f"{name}: {error.message}" for name, error in refused)
    hints = dict.fromkeys(error.hint for _, error in refused if error.hint)
    error = LlmtuneError(f"no backend of the list takes this job: {reasons}", hint="\n".join(hints) or None)
    error.exit_code = refused[-1][1].exit_code
    return error
