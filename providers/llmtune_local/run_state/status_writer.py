"""Reports of the worker: status with a heartbeat, metric points and events, each written at once."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Literal

from llmtune_local.run_state import process
from llmtune_local.run_state.damage import is_full
from llmtune_local.run_state.run_dir import now
from llmtune_local.run_state.schema import EventLine, MetricLine, SampleLine, Status

if TYPE_CHECKING:
    from llmtune_local.run_state.run_dir import RunDir

logger = logging.getLogger("llmtune")

#: Seconds between two signs of life, and between two ordinary updates of the status.
HEARTBEAT = 5.0
_THROTTLE = 0.5


class NullStatusWriter:
    """A status writer for processes that do not report for their run: it does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class StatusWriter:
    """The writer of a run folder's status, points and events. Use as a context manager, which runs the heartbeat.

    On a full disk points and events are kept in memory until there is room, and the status is written in place.
    """

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder
        me = process.current()
        before = folder.read_status()
        self.status = Status(
            pid=me.pid,
            started=me.started,
            host=me.host,
            attempt=folder.last_attempt() + 1,
            attempts_before_resume=before.attempts_before_resume if before else 0,
            heartbeat=now(),
            moved=now(),
        )
        self._events = 0
        self._unwritten_points: list[MetricLine] = []
        self._unwritten_events: list[EventLine] = []
        self._unwritten_samples: list[SampleLine] = []
        self._written = 0.0
        self._guard = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> StatusWriter:
        self.folder.repair()
        self.folder.write_status(self.status)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write_lines()

    def update(self, **changes: Any) -> None:
        """Change the status; written at once where the state changes, else at most twice a second.

        Without changes it records that the training makes progress.
        """
        with self._guard:
            urgent = changes.get("state", self.status.state) != self.status.state
            self.status = self.status.model_copy(update=changes | {"heartbeat": now(), "moved": now()})
            if urgent or now() - self._written >= _THROTTLE:
                self._write()

    def points(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Append one point per series."""
        time = now()
        with self._guard:
            self._unwritten_points += [
                MetricLine(step=step, series=series, value=value, epoch=epoch, time=time)
                for series, value in values.items()
            ]
            self._write_lines()

    def samples(self, lines: list[SampleLine]) -> None:
        """Append the answers of a step."""
        with self._guard:
            self._unwritten_samples += lines
            self._write_lines()

    def event(self, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Append one event, and log it."""
        logger.log(getattr(logging, level.upper()), "%s", message)
        with self._guard:
            self._events += 1
            identity = f"{self.status.attempt}-{self._events}"
            self._unwritten_events.append(EventLine(id=identity, time=now(), level=level, message=message))
            self._write_lines()

    def _write_lines(self) -> None:
        with self._guard:
            try:
                if self._unwritten_points:
                    self.folder.append_metrics(self._unwritten_points)
                    self._unwritten_points = []
                for event in list(self._unwritten_events):
                    self.folder.append_event(event)
                    self._unwritten_events.remove(event)
                if self._unwritten_samples:
                    self.folder.append_samples(self._unwritten_samples)
                    self._unwritten_samples = []
            except OSError as problem:
                if not is_full(problem):
                    raise
                logger.warning("points, events and answers are kept in memory: %s", problem)

    def _write(self) -> None:
        self._written = now()
        try:
            self.folder.write_status(self.status)
        except OSError as problem:
            if not is_full(problem):
                raise
            logger.warning("the status cannot be written: %s", problem)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with self._guard:
                self.status = self.status.model_copy(update={"heartbeat": now()})
                try:
                    self._write()
                    self._write_lines()
                except OSError as problem:
                    logger.warning("the status cannot be written: %s", problem)
