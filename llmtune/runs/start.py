"""Start one run at one backend: plan it, record it, submit it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from llmtune.runs import submission, tracking
from llmtune.runs.failpoints import failpoint
from llmtune.runs.planned import StartOptions, prepare_run
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store

if TYPE_CHECKING:
    from llmtune.job.spec import TuningJob
    from llmtune.provider.protocol import Provider

log = logging.getLogger("llmtune")


def start_run(job: TuningJob, backend: Provider, options: StartOptions, *, sinks: Collection[str] = ()) -> Run:
    """Plan, upload and submit the job at `backend`, or join the unfinished run of the same content."""
    sinks = tracking.normalize_specs(sinks)
    store = open_store()
    record, how = prepare_run(store, job, backend, options)
    tracking.attach(store, record.id, sinks)
    failpoint("planned")
    run = Run(record.id, store=store, provider=backend)
    if how != "new":
        log.info("%s run %s of the same content", how, record.id, extra={"run": record.id})
    if record.state in submission.BEFORE_JOB:
        lease = submission.submission_lease(store, record.id)
        if lease.acquire(wait=0):
            with lease:
                submission.submit_run(store, record.id, backend, lease=lease)
        # else another process submits it now; waiting for the run waits for that too
    return run
