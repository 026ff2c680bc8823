"""The verifications of a run's model, as the store has them: one record each, written before its server is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmtune.provider.types import Ref
from llmtune.redaction.secrets import scrub_leaves
from llmtune.runs.store.store import Store
from llmtune.verifications.results import Verification

#: Prefix of the references that hold them: "verification:1", ...
PREFIX = "verification:"

#: Id of such a reference while its server is being asked, and once there is a result.
BEGUN, DONE = "begun", "done"

#: Verifications in a report: the last ones.
SHOWN = 10


def begin(store: Store, run_id: str, *, endpoint: str, model: str, rows: int) -> str:
    """Record that a server is asked so many rows, which may cost money there; return the name of the record."""
    number = 1 + sum(name.startswith(PREFIX) for name in store.refs(run_id))
    data = {"endpoint": endpoint, "model": model, "rows": rows, "began": time.time()}
    store.set_ref(run_id, f"{PREFIX}{number}", Ref(id=BEGUN, data=scrub_leaves(data)))
    return f"{PREFIX}{number}"


def keep(store: Store, run_id: str, name: str, result: Verification) -> None:
    """Store a result in the place of the record that it was begun."""
    store.set_ref(run_id, name, Ref(id=DONE, data=scrub_leaves({"result": result.model_dump(mode="json")})))


def read(refs: Mapping[str, Mapping[str, Any]]) -> tuple[Verification, ...]:
    """Return the last results of a run, oldest first, from its references; damaged and unfinished ones are left out."""
    names = [name for name, ref in refs.items() if name.startswith(PREFIX) and ref.get("id") == DONE]
    results = []
    for name in sorted(names, key=lambda name: int(name.partition(":")[2]))[-SHOWN:]:
        try:
            results.append(Verification.model_validate(refs[name]["data"]["result"]))
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(results)
