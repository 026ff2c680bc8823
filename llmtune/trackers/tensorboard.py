"""TensorBoard: scalars in an event file, one folder per run. TensorBoard keeps scalars in single precision."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from llmtune.metrics.points import MetricPoint
from llmtune.metrics.samples import Sample
from llmtune.trackers import TrackedRun, Written, format_samples

_SUFFIX = ".llmtune"


class TensorBoardTracker:
    """Event files under a folder, by default `runs/`."""

    def __init__(self, target: str) -> None:
        self._root = Path(target or "runs").absolute()
        self._folder = self._root
        self._writer: EventFileWriter | None = None

    def start_run(self, run: TrackedRun, handle: dict[str, Any]) -> Written:
        """Choose a folder named by job and run, and empty it: writing all points again is cheap, and exact."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-.") or "run"
        self._folder = Path(handle.setdefault("folder", str(self._root / f"{name[:80]}-{run.id}")))
        self.start_over(handle)
        return {}

    def series_name(self, series: str) -> str:
        """Return the series' own name: TensorBoard takes any."""
        return series

    def write(self, points: Sequence[MetricPoint]) -> None:
        """Write one event per point."""
        for point in points:
            self._add(point.series, point.value, point.step, point.time)
        self._open().flush()

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Write the answers for TensorBoard's page of texts."""
        text = TensorProto(dtype=DT_STRING, string_val=[format_samples(samples).encode()])
        text.tensor_shape.dim.add(size=1)
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        summary = Summary(value=[Summary.Value(tag="samples/text_summary", metadata=plugin, tensor=text)])
        self._open().add_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._open().flush()

    def start_over(self, handle: dict[str, Any]) -> None:
        """Remove the event files that llmtune wrote into this run's folder, and no others."""
        self.close()
        for path in self._folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            path.unlink()

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """Write the results as scalars of the last step."""
        for name, value in results.items():
            self._add(name, value, step, None)
        self._open().flush()

    def close(self) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open(self) -> EventFileWriter:
        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder), filename_suffix=_SUFFIX)
        return self._writer

    def _add(self, name: str, value: float, step: int, when: float | None) -> None:
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        self._open().add_event(Event(wall_time=when or time.time(), step=step, summary=summary))
