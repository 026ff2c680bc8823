"""Runs: started once, followed from anywhere, never paid for twice. See docs/runs.md.

run = start(job, "local")
report = run.wait(timeout=3600, stall_timeout=900, on_update=print)
run = attach("k3f9")            # from any other process
"""

from __future__ import annotations

from llmtune.redaction import secrets

secrets.guard_logs()
