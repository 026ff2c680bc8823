"""MLflow: one MLflow run per run, through MLflow's client (the `mlflow-skinny` package is enough)."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from llmtune.metrics.points import MetricPoint
from llmtune.metrics.samples import Sample
from llmtune.trackers import TrackedRun, Written, format_samples

EXPERIMENT = "llmtune"

#: What MLflow takes in one call (mlflow.org/docs/latest/rest-api.html#log-batch, 2026-11-26).
_METRICS_PER_CALL, _PARAMS_PER_CALL, _PARAM_LENGTH = 1000, 100, 500
_ENDINGS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


class MLflowTracker:
    """A tracker for an MLflow server: `URI#EXPERIMENT`; without the URI, MLflow's own settings decide."""

    def __init__(self, target: str) -> None:
        uri, _, experiment = target.partition("#")
        self._experiment = experiment or EXPERIMENT
        self._client = MlflowClient(tracking_uri=uri or None)
        self._id = ""
        self._run: TrackedRun | None = None

    def start_run(self, run: TrackedRun, handle: dict[str, Any]) -> Written | None:
        """Create an MLflow run, or open the one that exists. Returns the points it holds."""
        self._run = run
        if "run" not in handle:
            handle["run"] = self._create(run)
        self._id = handle["run"]
        return {
            (name, metric.step): _restore_infinity(metric.value)
            for name in self._client.get_run(self._id).data.metrics
            for metric in self._client.get_metric_history(self._id, name)
        }

    def series_name(self, series: str) -> str:
        """Return the name with only characters that MLflow takes."""
        return re.sub(r"[^\w\-. :/]", "_", series)[:250]

    def write(self, points: Sequence[MetricPoint]) -> None:
        """Log the points, a thousand per call."""
        self._log(
            [
                Metric(self.series_name(point.series), point.value, _to_milliseconds(point.time), point.step)
                for point in points
            ]
        )

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Log the answers as an artifact of the run, one file per step."""
        self._client.log_text(self._id, format_samples(samples), f"samples/step-{step:06}.md")

    def start_over(self, handle: dict[str, Any]) -> None:
        """Delete the run (MLflow's trash keeps it) and create another: MLflow changes no point."""
        if self._run is None:
            return
        self._client.delete_run(self._id)
        self._id = handle["run"] = self._create(self._run)

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """Log the results as metrics of the last step, and end the run."""
        self._log(
            [Metric(self.series_name(name), value, _to_milliseconds(None), step) for name, value in results.items()]
        )
        self._client.set_terminated(self._id, _ENDINGS.get(state, "FAILED"))

    def close(self) -> None:
        """Do nothing: no connection is held."""

    def _create(self, run: TrackedRun) -> str:
        existing = self._client.get_experiment_by_name(self._experiment)
        experiment = (
            existing.experiment_id if existing is not None else self._client.create_experiment(self._experiment)
        )
        created = self._client.create_run(
            experiment, start_time=_to_milliseconds(run.created), tags=dict(run.tags), run_name=run.name
        )
        params = [Param(self.series_name(name), str(value)[:_PARAM_LENGTH]) for name, value in run.params.items()]
        for at in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(created.info.run_id, params=params[at : at + _PARAMS_PER_CALL])
        return str(created.info.run_id)

    def _log(self, metrics: list[Metric]) -> None:
        for at in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(self._id, metrics=metrics[at : at + _METRICS_PER_CALL])


def _restore_infinity(stored: float) -> float:
    """Return an infinity for the largest float: MLflow's databases store it so."""
    return math.copysign(math.inf, stored) if abs(stored) == sys.float_info.max else stored


def _to_milliseconds(seconds: float | None) -> int:
    return int(1000 * (seconds if seconds is not None else time.time()))
