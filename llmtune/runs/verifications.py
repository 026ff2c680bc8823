"""The verifications of a run's model, as the store has them: one record for each server and each form of export.

That of a server is written before it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmtune.provider.types import Ref
from llmtune.redaction.secrets import scrub_leaves
from llmtune.runs.store.store import Store
from llmtune.verifications.results import Verification, VerifiedExport

#: Prefix of the references that hold them: "verification:1", "verification:gguf-q8_0", ...
PREFIX = "verification:"

#: Id of such a reference while its server is being asked, and once there is a result.
BEGUN, DONE = "begun", "done"

#: Verifications of servers in a report: the last ones.
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


def keep_export(store: Store, run_id: str, result: Verification, export: VerifiedExport) -> None:
    """Store the result of an export; an older one of the same format and precision goes."""
    form = "-".join(filter(None, (export.format, export.precision)))
    keep(store, run_id, f"{PREFIX}{form}", result)


def read(refs: Mapping[str, Mapping[str, Any]]) -> tuple[Verification, ...]:
    """Return the results of a run, oldest first, from its references: of every export, and of the last servers.

    Damaged and unfinished ones are left out.
    """
    results = []
    for name, ref in refs.items():
        if name.startswith(PREFIX) and ref.get("id") == DONE:
            try:
                results.append(Verification.model_validate(ref["data"]["result"]))
            except (ValueError, KeyError, TypeError):
                continue
    results.sort(key=lambda result: result.finished or 0.0)
    servers = [result for result in results if result.export is None][-SHOWN:]
    return tuple(result for result in results if result.export is not None or result in servers)
