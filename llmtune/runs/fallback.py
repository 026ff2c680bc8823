"""Declared fallback: the first backend of a list that takes the job, and why each one before it did not.

By default only what happens before a job exists moves on: a service that has closed or refuses the model, a missing
extra, credential or device, a quota. What happens later moves on when `fallback_on` asks for it, and the run that is
left behind is confirmed ended before the next one is submitted. A bad dataset or a wrong value would be wrong
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

#: What makes the next backend of the list be asked, unless that is asked for or not.
MOVES_ON: tuple[type[LlmtuneError], ...] = (
    ProviderClosed,
    MissingExtra,
    MissingCredentials,
    InvalidSettings,
    DeviceUnavailable,
    QuotaExceeded,
)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

#: Seconds that a run left behind has to end, once its cancellation was asked for.
CANCEL_PATIENCE = 600.0


@dataclass(frozen=True)
class Conditions:
    """What moves on beside the default: runs that fail, runs that wait too long, costs over the budget."""

    failed: bool = False
    over_budget: bool = False
    queued: float | None = None
    """Seconds in the vendor's queue."""

    @classmethod
    def parse(cls, words: Sequence[str]) -> Conditions:
        """From words such as "failed", "over_budget", "queued>2h". Raises `InvalidJob` for any other."""
        failed = over = False
        queued: float | None = None
        for word in words:
            plain = word.strip().lower().replace("-", "_")
            found = re.fullmatch(r"queued?\s*>\s*(\d+(?:\.\d+)?)\s*([smhd])", plain)
            if plain == "failed":
                failed = True
            elif plain == "over_budget":
                over = True
            elif found is not None:
                queued = float(found[1]) * _UNITS[found[2]]
            else:
                near = did_you_mean(plain, ("failed", "over_budget", "queued>2h"))
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise InvalidJob(
                    f"unknown fallback condition {word!r}{meant}",
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
    """Start the job at the first backend that takes it; the others' reasons stand in the run's warnings.

    Raises:
        LlmtuneError: none takes it; the message gives every reason. And whatever does not move on (see above).
        InvalidJob: `fallback_on` names a condition that needs somebody who follows the run (`tune` does).
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
    """Start, follow, and move on where `fallback_on` says so, until a backend has made a model.

    The same call after a crash goes on with the backend it was at; nothing is paid for twice.

    Args:
        job: the job.
        providers: names, configured instances, or providers, in order.
        fallback_on: conditions beside the default: "failed", "over_budget", "queued>2h".
        follow: waits for a run to end and returns its report; its second argument is the most seconds it may stand
            in the queue (None: any), after which `StillQueued` is to be raised.
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
            if _confirmed_ended(run) is RunState.SUCCEEDED:
                return run.report()
            chain.leave(run, f"it stood in the queue for more than {conditions.queued:g} s and was cancelled")


def _confirmed_ended(run: Run) -> RunState:
    """Cancel a run and wait until it has ended, however it does. Raises when that cannot be confirmed."""
    try:
        run.cancel()
        run.wait(timeout=CANCEL_PATIENCE)
    except RunFailed:
        pass
    except LlmtuneError as error:
        raise LlmtuneError(
            f"run {run.id} at {run.record.provider} could not be confirmed cancelled ({error.message}), so no other"
            " backend was asked",
            hint=f"look at it with: llmtune runs show {run.id}; when it has ended, say the same command again",
        ) from None
    if run.state is RunState.LOST:
        raise LlmtuneError(
            f"run {run.id} at {run.record.provider} is lost: there may be a job, so no other backend was asked",
            hint=f"look there; then: llmtune runs adopt {run.id} JOB, or llmtune runs resubmit {run.id}",
        )
    return run.state


class _Chain:
    """The backends of one call, those already passed over, and the runs of an earlier, interrupted call."""

    def __init__(
        self, job: TuningJob, providers: Sequence[str | Provider], conditions: Conditions, options: dict[str, Any]
    ) -> None:
        from llmtune.provider.registry import get_provider
        from llmtune.runs.store.store import open_store

        if not providers:
            raise InvalidJob("the list of providers is empty")
        self._job, self._conditions, self._options = job, conditions, dict(options)
        self._sinks: Collection[str] = self._options.pop("sinks", ())
        self._left = [get_provider(each) for each in providers]
        self._store: Store = open_store()
        self.group = self._options.pop("group", None) or _group(job, [each.name for each in self._left])
        self._refused: list[tuple[str, LlmtuneError]] = []
        self._before: RunRecord | None = None
        if not self._options.get("new"):
            self._go_on()

    @property
    def exhausted(self) -> bool:
        """Whether no backend is left after the one that was started last."""
        return not self._left

    def start(self) -> Run:
        """The run at the next backend that takes the job."""
        moves_on: tuple[type[LlmtuneError], ...] = MOVES_ON
        if self._conditions.over_budget:
            moves_on = (*MOVES_ON, OverBudget)
        while self._left:
            backend = self._left.pop(0)
            try:
                options = StartOptions(group=self.group, **self._options)
                run = start_run(self._job, backend, options, sinks=self._sinks)
            except moves_on as error:
                log.info("%s was passed over: %s", backend.name, error.message)
                self._refused.append((backend.name, error))
                continue
            self._tell(run)
            return run
        raise _nobody(self._refused)

    def leave(self, run: Run, reason: str) -> None:
        """Put a run behind: it has ended, and the next backend is asked."""
        record = run.record
        self._refused.append((record.provider, LlmtuneError(reason)))
        self._before = record
        self._store.note(run.id, f"left for the next backend: {reason}", "warning")
        log.info("%s was left: %s", record.provider, reason)

    def _tell(self, run: Run) -> None:
        """Record why this backend has the job, and what is different here."""
        if not self._refused:
            return
        said = [f"{name} was passed over: {error.message}" for name, error in self._refused]
        said += [f"at {run.record.provider} instead: {each}" for each in _changes(self._before, run.record)]
        known = run.record.warnings
        self._store.warn(run.id, *(each for each in said if each not in known))

    def _go_on(self) -> None:
        """Take up an earlier call of this list that was interrupted: skip the backends that it left."""
        runs = sorted(self._store.runs(group=self.group), key=lambda each: each.created)
        names = [each.name for each in self._left]
        for record in reversed(runs):
            if record.state is RunState.SUCCEEDED or (record.provider == names[-1] and record.state.final):
                runs = runs[runs.index(record) + 1 :]  # that call came to its end
                break
        for record in runs:
            left = record.state is RunState.FAILED and self._conditions.failed
            left = left or (record.state is RunState.CANCELLED and self._conditions.queued is not None)
            had_a_job = self._store.ref(record.id, "job", JobRef) is not None
            if not left or not had_a_job or record.provider not in [each.name for each in self._left]:
                continue
            while self._left.pop(0).name != record.provider:
                pass
            self._refused.append((record.provider, LlmtuneError(record.error or f"run {record.id} {record.state}")))
            self._before = record


def _group(job: TuningJob, names: Sequence[str]) -> str:
    told = json.dumps([job.to_dict(), list(names)], sort_keys=True, default=str)
    return f"fallback {hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _changes(before: RunRecord | None, now: RunRecord) -> list[str]:
    """What is different at the backend that has the job now."""
    receipt = now.plan
    said = []
    if before is not None and before.model != now.model:
        said.append(f"the model is {now.model} (it was {before.model})")
    else:
        said.append(f"the model is {now.model}")
    lost = [row.field for row in receipt.unsupported()]
    if lost:
        said.append(f"not used here: {', '.join(lost)}")
    said.append(f"the cost is {receipt.cost.sentence()}")
    return said


def outlook(receipts: dict[str, Receipt | LlmtuneError]) -> list[str]:
    """One line a backend, in order: the model it would train, what it would not use, the cost; or why not at all."""
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


def _nobody(refused: Sequence[tuple[str, LlmtuneError]]) -> LlmtuneError:
    reasons = "; ".join(f"{name}: {error.message}" for name, error in refused)
    hints = dict.fromkeys(error.hint for _, error in refused if error.hint)
    nobody = LlmtuneError(f"no backend of the list takes this job: {reasons}", hint="\n".join(hints) or None)
    nobody.exit_code = refused[-1][1].exit_code
    return nobody
