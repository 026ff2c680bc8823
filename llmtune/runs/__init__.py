"""Runs: started once, followed from anywhere, never paid for twice. See docs/runs.md.

run = start(job, "local")
report = run.wait(timeout=3600, stall_timeout=900, on_update=print)
run = attach("k3f9")            # from any other process
"""

from __future__ import annotations

from llmtune.runs import secrets as _secrets
from llmtune.runs.actions import Cleanup, cleanup
from llmtune.runs.poller import Pace, Update
from llmtune.runs.run import Run, attach, provider_of, runs, start, start_async, tune, tune_async
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store, open_store

_secrets.guard_logs()

__all__ = [
    "Cleanup",
    "Pace",
    "Run",
    "RunRecord",
    "Store",
    "Update",
    "attach",
    "cleanup",
    "open_store",
    "provider_of",
    "runs",
    "start",
    "start_async",
    "tune",
    "tune_async",
]
