"""Declared fallback: the first backend of a list that takes the job, and why each one before it did not.

Only what happens before a job exists moves on: a service that has closed (or does not offer the model), a missing
extra, missing credentials, a quota. A bad dataset or a wrong value would be wrong everywhere, and after an unclear
submit another backend would mean paying twice: these are raised at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmtune.errors import (
    InvalidJob,
    LlmtuneError,
    MissingCredentials,
    MissingExtra,
    ProviderClosed,
    QuotaExceeded,
)

if TYPE_CHECKING:
    from llmtune.job import TuningJob
    from llmtune.provider import Provider
    from llmtune.runs import Run

log = logging.getLogger("llmtune")

#: What makes the next backend of the list be asked.
MOVES_ON = (ProviderClosed, MissingExtra, MissingCredentials, QuotaExceeded)


def start_first(job: TuningJob, providers: Sequence[str | Provider], **options: Any) -> Run:
    """Start the job at the first backend that takes it; the others' reasons stand in the run's warnings.

    Raises:
        LlmtuneError: none takes it; the message gives every reason. And whatever does not move on (see above).
    """
    from llmtune.runs import start
    from llmtune.runs.store import open_store

    if not providers:
        raise InvalidJob("the list of providers is empty")
    refused: list[tuple[str, LlmtuneError]] = []
    for provider in providers:
        name = provider if isinstance(provider, str) else provider.name
        try:
            run = start(job, provider, **options)
        except MOVES_ON as error:
            log.info("%s was passed over: %s", name, error.message)
            refused.append((name, error))
            continue
        if refused:
            open_store().warn(run.id, *(f"{name} was passed over: {error.message}" for name, error in refused))
        return run
    raise _nobody(refused)


def _nobody(refused: Sequence[tuple[str, LlmtuneError]]) -> LlmtuneError:
    reasons = "; ".join(f"{name}: {error.message}" for name, error in refused)
    hints = dict.fromkeys(error.hint for _, error in refused if error.hint)
    nobody = LlmtuneError(f"no backend of the list takes this job: {reasons}", hint="\n".join(hints) or None)
    nobody.exit_code = refused[-1][1].exit_code
    return nobody
