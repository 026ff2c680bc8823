"""The process that a kill trial kills: it starts or reattaches to one run and follows it to its end."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

# Loaded here once, so that each trial's process is forked with everything in place.
import sqlalchemy.dialects.sqlite  # noqa: F401

from llmtune.errors import RunFailed, SubmitUnknown
from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.runs import failpoints, finalize, poller
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.runs.store.store import open_store
from llmtune.testing.fake_provider import FakeProvider, FakeSettings


def main(settings: dict[str, Any], folder: str, arrow: str, nth: int, start_again: bool) -> None:
    """Run the job, and die the `nth` time at `arrow`. Exits with 0 when the run has ended, whatever its state."""
    root = Path(folder)
    os.environ["LLMTUNE_HOME"] = str(root / "home")
    os.environ.pop("LLMTUNE_STORE", None)
    warnings.simplefilter("ignore")
    passed = 0

    def die(name: str) -> None:
        nonlocal passed
        passed += name == arrow
        if name == arrow and passed == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.failpoint_hook = die
    finalize.DEPLOYMENT_LAG = settings["window"]
    poller._poller = poller.Poller(polls_per_second=500)
    provider = FakeProvider("fake", FakeSettings.model_validate(settings))
    job = TuningJob(
        name="crash",
        dataset=str(root / "rows.jsonl"),
        model="m-1",
        evaluation=EvaluationSpec(deploy=True, max_rows=4),
    )
    runs = open_store().runs()
    try:
        if (start_again and not any(record.state.final for record in runs)) or not runs:
            run = start(job, provider)
        else:
            run = Run(runs[0].id, provider=provider)
        run.wait(timeout=60, pace=PollInterval(first=0.01, most=0.05))
    except (SubmitUnknown, RunFailed):
        pass
    sys.stdout.flush()
    os._exit(0)
