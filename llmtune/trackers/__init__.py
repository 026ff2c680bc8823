"""Curves in the tools people have: TensorBoard, MLflow and Weights & Biases, each through its own library.

A sink is named by a line: `tensorboard:runs/`, `mlflow:http://tracker:5000#my-experiment`, `wandb:my-team/my-project`.
What is after the colon may be left out; then the tool's own settings decide.
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

#: What a sink holds already, by its own name of the series, and step.
Written = dict[tuple[str, int], float]


@dataclass(frozen=True)
class SinkRun:
    """What a sink is told of the run whose points it gets."""

    id: str
    name: str
    created: float
    """Seconds since 1970 UTC."""

    params: Mapping[str, Any] = field(default_factory=dict)
    """What the job asked for, flat."""

    tags: Mapping[str, str] = field(default_factory=dict)


class Sink(Protocol):
    """Where points go. One object is used from one thread at a time."""

    def begin(self, run: SinkRun, handle: dict[str, Any]) -> Written | None:
        """Open it, for the first time or (with the `handle` that was kept) again; fill `handle` with what finds it.

        Returns what it holds already; None when it cannot tell, so that the store's own note is believed.
        """
        ...

    def named(self, series: str) -> str:
        """How the sink calls a series: its own name, but for characters that the tool does not take."""
        ...

    def write(self, points: Sequence[MetricPoint]) -> None:
        """Add points. No two of them, now or earlier, have the same series and step."""
        ...

    def start_over(self, handle: dict[str, Any]) -> None:
        """Drop every point: some were corrected by the backend, and all come again."""
        ...

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """The run has ended: the results on the held-out rows, the last step, and the state ("succeeded", ...)."""
        ...

    def close(self) -> None:
        """Let go of it, whether or not the run has ended."""
        ...


class _Kind(NamedTuple):
    home: str
    package: str
    extra: str


_KINDS = {
    "tensorboard": _Kind("llmtune.trackers.tensorboard:TensorBoardSink", "tensorboard", "tensorboard"),
    "mlflow": _Kind("llmtune.trackers.mlflow:MLflowSink", "mlflow", "mlflow"),
    "wandb": _Kind("llmtune.trackers.wandb:WandbSink", "wandb", "wandb"),
}


def checked(spec: str) -> str:
    """The spec with its paths made absolute, so that it means the same wherever the run is followed from.

    Raises:
        UnknownName: there is no such sink.
        InvalidJob: it holds a password, which would be written into the run's record.
        MissingExtra: the tool's package is not installed.
    """
    name, _, place = spec.strip().partition(":")
    if name not in _KINDS:
        raise UnknownName("sink", name, _KINDS, where="sinks")
    if redact_url(place) != place:
        raise InvalidJob(
            f"the address of the sink {name} holds a password, which would be kept with the run",
            where="sinks",
            hint="leave it out; the tool's own environment variables and login files are used",
        )
    kind = _KINDS[name]
    if importlib.util.find_spec(kind.package) is None:
        raise MissingExtra(kind.extra, kind.package, purpose=f"the sink {name}")
    return f"{name}:{_absolute(name, place)}" if place else name


def make(spec: str) -> Sink:
    """The sink of a spec that was checked."""
    name, _, place = spec.partition(":")
    module, _, attribute = _KINDS[name].home.partition(":")
    turn_off_telemetry()
    made: Sink = getattr(importlib.import_module(module), attribute)(place)
    return made


def _absolute(name: str, place: str) -> str:
    if name == "tensorboard":
        return str(Path(place).expanduser().absolute())
    if name == "mlflow":
        uri, mark, experiment = place.partition("#")
        prefix = "sqlite:///"
        if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
            uri = prefix + str(Path(uri.removeprefix(prefix)).absolute())
        return uri + mark + experiment
    return place
