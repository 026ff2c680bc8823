"""Experiment trackers: TensorBoard, MLflow and Weights & Biases, each through its own library.

A tracker is named by a line: `tensorboard:runs/`, `mlflow:http://tracker:5000#my-experiment`,
`wandb:my-team/my-project`. The part after the colon is optional: without it the tool's own settings decide.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llmtune._safety.telemetry import turn_off_telemetry
from llmtune.config import redact_url
from llmtune.errors import InvalidJob, MissingExtra, UnknownName
from llmtune.metrics.points import MetricPoint
from llmtune.metrics.samples import Sample
from llmtune.redaction.control_chars import escape_controls

#: The points that a tracker holds, by its own name of the series, and step.
Written = dict[tuple[str, int], float]


@dataclass(frozen=True)
class TrackedRun:
    """The description of a run for a tracker."""

    id: str
    name: str
    created: float
    """Seconds since 1970 UTC."""

    params: Mapping[str, Any] = field(default_factory=dict)
    """What the job asked for, flat."""

    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """An experiment tracker that takes the points of one run. Used from one thread at a time."""

    def start_run(self, run: TrackedRun, handle: dict[str, Any]) -> Written | None:
        """Open a new run at the tracker, or the one of the stored `handle`; fill `handle` with what identifies it.

        Returns the points it holds already; None when it cannot list them: the store's record counts then.
        """
        ...

    def series_name(self, series: str) -> str:
        """Return the tracker's name of a series: the series' own, without characters that the tool does not take."""
        ...

    def write(self, points: Sequence[MetricPoint]) -> None:
        """Add points. No two of them, now or earlier, have the same series and step."""
        ...

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Add the answers of a step as text. A step that was written before is written again as it was."""
        ...

    def start_over(self, handle: dict[str, Any]) -> None:
        """Remove every point: the backend has corrected some, and all are written again."""
        ...

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """End the run with its results on the held-out rows, its last step, and its state ("succeeded", ...)."""
        ...

    def close(self) -> None:
        """Close the connection, whether or not the run has ended."""
        ...


def format_samples(samples: Sequence[Sample]) -> str:
    """Return the answers of a step as plain text in Markdown, whatever is written in them."""
    parts = []
    for sample in samples:
        texts = [("asked", sample.prompt), ("expected", sample.expected), ("answered", sample.answer)]
        parts.append(
            f"validation row {sample.number}\n\n"
            + "\n\n".join(f"{name}:\n\n{_indent(text)}" for name, text in texts if text or name == "answered")
        )
    return "\n\n".join(parts) + "\n"


def _indent(text: str) -> str:
    """Indent every line: Markdown shows such a block as it is."""
    return "\n".join(f"    {line}" for line in escape_controls(text).splitlines() or [""])


class _Kind(NamedTuple):
    home: str
    package: str
    extra: str


_KINDS = {
    "tensorboard": _Kind("llmtune.trackers.tensorboard:TensorBoardTracker", "tensorboard", "tensorboard"),
    "mlflow": _Kind("llmtune.trackers.mlflow:MLflowTracker", "mlflow", "mlflow"),
    "wandb": _Kind("llmtune.trackers.wandb:WandbTracker", "wandb", "wandb"),
}


def normalize_spec(spec: str) -> str:
    """Check a spec and make its paths absolute, so that it means the same wherever the run is followed from.

    Raises:
        UnknownName: there is no such sink.
        InvalidJob: it holds a password, which would be written into the run's record.
        MissingExtra: the tool's package is not installed.
    """
    name, _, target = spec.strip().partition(":")
    if name not in _KINDS:
        raise UnknownName("sink", name, _KINDS, where="sinks")
    if redact_url(target) != target:
        raise InvalidJob(
            f"the address of the sink {name} holds a password, which would be kept with the run",
            where="sinks",
            hint="leave it out; the tool's own environment variables and login files are used",
        )
    kind = _KINDS[name]
    if importlib.util.find_spec(kind.package) is None:
        raise MissingExtra(kind.extra, kind.package, purpose=f"the sink {name}")
    return f"{name}:{_resolve_paths(name, target)}" if target else name


def create_tracker(spec: str) -> Tracker:
    """Create the tracker of a spec that was checked."""
    name, _, target = spec.partition(":")
    module, _, attribute = _KINDS[name].home.partition(":")
    turn_off_telemetry()
    tracker: Tracker = getattr(importlib.import_module(module), attribute)(target)
    return tracker


def _resolve_paths(name: str, target: str) -> str:
    if name == "tensorboard":
        return str(Path(target).expanduser().absolute())
    if name == "mlflow":
        uri, mark, experiment = target.partition("#")
        prefix = "sqlite:///"
        if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
            uri = prefix + str(Path(uri.removeprefix(prefix)).absolute())
        return uri + mark + experiment
    return target
