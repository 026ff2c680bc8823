"""Everything llmtune raises on purpose.

The tree, with the exit code the command line answers with::

    LlmtuneError                       1
    ├── InvalidJob                     2   the job file or a field of the job is wrong
    │   └── UnknownName                2   an unknown name; carries the nearest valid ones
    │       └── UnknownOption          2   a function has no such keyword (a TypeError too)
    ├── InvalidData                    2   the dataset is wrong; carries the findings
    ├── InvalidSettings                2   the configuration files or account settings are wrong
    ├── NotTranslatable                3   this backend cannot run this job as asked
    ├── ProviderClosed                 3   the vendor takes no such job (any more, or from you)
    ├── OverBudget                     3   the estimate is above the budget, unknown, or not confirmed
    ├── QuotaExceeded                  3   the vendor's limit is reached
    ├── MissingExtra                   4   an optional dependency is not installed
    ├── MissingCredentials             4   the vendor's own credential chain found nothing
    ├── DeviceUnavailable              4   the asked-for accelerator is not here, or too small
    ├── StoreError                     1   the run store cannot be opened, read or written
    │   └── StoreUnavailable           1   the same for now: it is being restarted, locked, or was moved away
    ├── VendorError                    1   the vendor refused or broke; carries its own words
    │   └── TransientError             1   the same, but trying again later is right
    ├── SubmitUnknown                  1   we cannot know whether the vendor took the job
    ├── RunFailed                      1   the run ended without a model; carries the report
    ├── StillRunning                   1   waiting ended before the run did; the run goes on (a TimeoutError too)
    ├── RunNotFound                    1   no run of that id in the store
    │   └── AmbiguousRun               1   several runs have that name, or an id that begins so
    └── NotJudged                      6   a gate has nothing to judge by; judged and not passed is 5, without an error

An interrupted command exits with 130. Every message is one clear sentence that says what is wrong, where,
and how to fix it: it is shown to the user as it is, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import date

#: Exit code of a command that Ctrl-C ended.
EXIT_INTERRUPTED = 130


#: Exit code of a gate that judged and did not let pass.
EXIT_NOT_PASSED = 5


#: What a vendor's limit is on: money, the jobs of a day, files, jobs under way, deployments, requests per minute, or
#: something that the vendor does not name. Each kind lifts in its own way.
LimitKind = Literal["spending", "daily", "files", "active_jobs", "deployments", "rate", "other"]

#: What lifts a limit of each kind. A provider that knows more gives its own hint.
LIMIT_HINTS: dict[LimitKind, str] = {
    "spending": "waiting does not lift it: raise the spending limit, or add credit, in the account's billing settings",
    "daily": "the limit is a day's: start the same job again tomorrow, or ask for a higher one",
    "files": "llmtune runs cleanup removes uploads that no unfinished run uses; others go in the vendor's console",
    "active_jobs": "start it again when a running job has ended, or ask for a higher limit",
    "deployments": "remove a deployment that is not used, ask for less capacity, or raise the limit in the account",
    "rate": "it was tried again for as long as makes sense: wait some minutes, or send less at the same time",
    "other": "the account's page at the vendor shows the limit, and whether it can be raised",
}


class LlmtuneError(Exception):
    """Base of everything llmtune raises on purpose.

    `hint` is the next thing to do ("pip install ...", "llmtune runs attach ..."), shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidJob(LlmtuneError):
    """The job, or one of its fields, is wrong. `where` names the file and field when they are known.

    `faults` holds each wrong field's path and sentence, where the error is about fields.
    """

    exit_code = 2
    faults: tuple[tuple[tuple[int | str, ...], str], ...] = ()

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message, hint=hint)
        self.where = where


class UnknownName(InvalidJob):
    """A provider, hyperparameter, option or metric that does not exist; `nearest` holds the likely names.

    `suggestion` is what was probably meant, where that is known better than by the spelling.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        valid_names: Iterable[str],
        *,
        where: str | None = None,
        hint: str | None = None,
        suggestion: str | None = None,
    ) -> None:
        valid_names = sorted(valid_names)
        self.nearest = did_you_mean(name, valid_names)
        if suggestion:
            tail = f"did you mean {suggestion}?"
        elif self.nearest:
            tail = f"did you mean {' or '.join(repr(suggestion) for suggestion in self.nearest)}?"
        else:
            tail = f"known: {', '.join(valid_names)}" if valid_names else "none are known"
        super().__init__(f"unknown {kind} {name!r}; {tail}", where=where, hint=hint)


class UnknownOption(UnknownName, TypeError):
    """A function was called with a keyword that it does not have; a TypeError too, as Python itself raises."""


class InvalidData(LlmtuneError):
    """The dataset is wrong. `findings` are `llmtune.data.Finding` objects, each with file, line and remedy."""

    exit_code = 2

    def __init__(self, message: str, *, findings: Sequence[Any] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class InvalidSettings(LlmtuneError):
    """A configuration file or an account setting is wrong or missing."""

    exit_code = 2


class NotTranslatable(LlmtuneError):
    """This backend cannot run this job as asked: an `invalid` value, another method or adapter, or `strict`."""

    exit_code = 3

    def __init__(self, message: str, *, provider: str, fields: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.provider = provider
        self.fields = tuple(fields)


class ProviderClosed(LlmtuneError):
    """The vendor takes no such job: retired, closed on a date, or closed to this account.

    `since` is the date it closed, `alternatives` the names of providers that still take jobs.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        since: date | None = None,
        alternatives: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.provider = provider
        self.since = since
        self.alternatives = tuple(alternatives)


class OverBudget(LlmtuneError):
    """The estimate is above the budget, or unknown while unknown costs were not allowed, or was not confirmed."""

    exit_code = 3


class QuotaExceeded(LlmtuneError):
    """The vendor's limit is reached: on jobs, files, deployments or spending.

    `limit` is what the limit is on; the hint says what lifts it. Only "active_jobs" lifts while one waits: when a job
    has ended.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, limit: LimitKind = "other") -> None:
        super().__init__(message, hint=hint or LIMIT_HINTS[limit])
        self.limit = limit


class MissingExtra(LlmtuneError):
    """An optional dependency is not installed; the hint is the command that installs it."""

    exit_code = 4

    def __init__(self, extra: str, package: str, *, purpose: str | None = None) -> None:
        needed = f" for {purpose}" if purpose else ""
        super().__init__(
            f"the package {package!r} is not installed, which is needed{needed}",
            hint=f"pip install 'llmtune-sdk[{extra}]'",
        )
        self.extra = extra
        self.package = package


class MissingCredentials(LlmtuneError):
    """The vendor's own credential chain found nothing usable."""

    exit_code = 4


class DeviceUnavailable(LlmtuneError):
    """The accelerator asked for is not on this machine, or has too little memory."""

    exit_code = 4


class StoreError(LlmtuneError):
    """The run store cannot be opened, read or written; nothing in it was changed."""


class StoreUnavailable(StoreError):
    """The run store does not answer for now; trying again later is right. `deleted` says that its file is gone."""

    def __init__(self, message: str, *, deleted: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.deleted = deleted


class VendorError(LlmtuneError):
    """The vendor refused or broke. `code` and `status` are the vendor's own, `raw` its own words."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        raw: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status
        self.raw = raw


class TransientError(VendorError):
    """The vendor, or the network, is unavailable for now; the same read may be retried after `retry_after` seconds.

    `sent` says whether the request may have reached the vendor: `False` means that it did not (connection
    refused, or answered with a refusal such as 429), so that even a paid call may safely be repeated. `limit` is
    "rate" where the vendor takes no more requests for now.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        sent: bool = True,
        code: str | None = None,
        status: int | None = None,
        raw: str | None = None,
        limit: LimitKind | None = None,
    ) -> None:
        super().__init__(message, code=code, status=status, raw=raw, hint=LIMIT_HINTS[limit] if limit else None)
        self.retry_after = retry_after
        self.sent = sent
        self.limit = limit


class SubmitUnknown(LlmtuneError):
    """We cannot know whether the vendor took the job, and will not risk paying twice."""

    def __init__(self, message: str, *, run_id: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id


class RunFailed(LlmtuneError):
    """The run ended without a model (failed, cancelled, lost); `report` says everything that is known."""

    def __init__(self, message: str, *, report: Any = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class StillRunning(LlmtuneError, TimeoutError):
    """Waiting ended before the run did, or its report was asked for too early; the run goes on."""


class StillQueued(StillRunning):
    """The run has stood in the vendor's queue for longer than was allowed; it is there still."""


class RunNotFound(LlmtuneError):
    """There is no run of that id in the store."""


class AmbiguousRun(RunNotFound):
    """Several runs have that name, or ids that begin so; the message lists them."""


class UnsupportedHyperparameterWarning(UserWarning):
    """Fields that were set and that this backend cannot take; one warning names them all."""


class LlmtuneWarning(UserWarning):
    """Anything else the user should know but that stops nothing."""


def did_you_mean(name: str, candidates: Iterable[str], *, limit: int = 2) -> list[str]:
    """Return those of `candidates` that are nearest to `name`, best first, at most `limit`; empty when none is near."""
    lowered = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), lowered, n=limit, cutoff=0.6)
    return [lowered[match] for match in matches]


class NotJudged(LlmtuneError):
    """A gate has nothing to judge by: a run was not evaluated, or has no such metric."""

    exit_code = 6
