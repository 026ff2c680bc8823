"""Records to put into a store."""

from __future__ import annotations

import time
from typing import Any

from llmtune.provider.types import RunState
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.poller import PollInterval
from llmtune.runs.store.records import RunRecord

#: Polls as fast as a test wants them.
QUICK = PollInterval(first=0.005, most=0.02)


def a_record(**changed: Any) -> RunRecord:
    """Return a planned run, with fields changed."""
    run_id = changed.pop("id", None) or new_run_id()
    now = time.time()
    fields: dict[str, Any] = {
        "id": run_id,
        "key": run_key(run_id),
        "name": "job",
        "provider": "acme",
        "kind": "acme",
        "model": "m-1",
        "fingerprint": f"f-{run_id}",
        "state": RunState.PLANNED,
        "created": now,
        "updated": now,
        "job": {"name": "job", "model": "m-1", "dataset": "x.jsonl"},
        "receipt": {},
    }
    return RunRecord(**{**fields, **changed})
