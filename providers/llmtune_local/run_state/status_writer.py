"""What the worker tells the world: status with a heartbeat, metric points and events, each written at once."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Literal

from llmtune_local.run_state import process
from llmtune_local.run_state.run_dir import now
from llmtune_local.run_state.schema import EventLine, MetricLine, Status

if TYPE_CHECKING:
    from llmtune_local.run_state.run_dir import RunDir

logger = logging.getLogger("llmtune")

#: Seconds between two signs of life, and between two ordinary updates of the status.
HEARTBEAT = 5.0
_THROTTLE = 0.5


class Silent:
    """The journal of a process that does not speak for its run."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Journal:
    """Writes a run folder for one worker. Use as a context manager: the heartbeat runs in between."""

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder
        me = process.current()
        before = folder.read_status()
        attempt = before.attempt + 1 if before else 1
        self.status = Status(pid=me.pid, started=me.started, host=me.host, attempt=attempt, heartbeat=now())
        self._events = 0
        self._written = 0.0
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Journal:
        self.folder.write_status(self.status)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def update(self, **changes: Any) -> None:
        """Change the status; written at once where the state changes, else at most twice a second."""
        with self._guard:
            urgent = changes.get("state", self.status.state) != self.status.state
            self.status = self.status.model_copy(update=changes | {"heartbeat": now()})
            if urgent or now() - self._written >= _THROTTLE:
                self._write()

    def points(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Append one point a series."""
        time = now()
        self.folder.append_metrics(
            [
                MetricLine(step=step, series=series, value=value, epoch=epoch, time=time)
                for series, value in values.items()
            ]
        )

    def event(self, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Append one event, and log it."""
        logger.log(getattr(logging, level.upper()), "%s", message)
        self._events += 1
        identity = f"{self.status.attempt}-{self._events}"
        self.folder.append_event(EventLine(id=identity, time=now(), level=level, message=message))

    def _write(self) -> None:
        self.folder.write_status(self.status)
        self._written = now()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with self._guard:
                self.status = self.status.model_copy(update={"heartbeat": now()})
                try:
                    self._write()
                except OSError as problem:
                    logger.warning("the status cannot be written: %s", problem)
