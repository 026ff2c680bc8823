"""The audit log: one line of JSON for everything that a key started, changed, removed or was refused for its budget.

Lines are appended to HOME/tuning/audit.jsonl before the action itself, so that nothing happens that is not on record;
a line whose action a kill prevented may stand there twice, as its client tries again. Texts are masked like all output,
and keys appear by their names. The file is opened anew for each line: it can be rotated or moved at any time.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from llmtune._safety.private_files import open_private
from llmtune.redaction.documents import dump_json
from llmtune.server.tuning.keys import Key

#: Characters of a value that are written: clients choose names and models.
_LENGTH = 300


class AuditLog:
    """The file. Raises OSError where it cannot be written, and then the action does not happen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def record(self, key: Key, action: str, **details: str | int | float | None) -> None:
        """Append a line and flush it to the disk. `action` is a noun and a verb, such as `job.create`."""
        entry: dict[str, str | int | float | None] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key": key.name,
            "owner": key.owner,
            "action": action,
        }
        for name, value in details.items():
            if value is not None:
                entry[name] = value[:_LENGTH] if isinstance(value, str) else value
        line = dump_json(entry, indent=False).encode() + b"\n"
        with self._lock, open_private(self.path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
