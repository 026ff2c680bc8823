"""MLflow: one MLflow run a run, through MLflow's client (the `mlflow-skinny` package is enough)."""

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
from llmtune.trackers import SinkRun, Written

EXPERIMENT = "llmtune"

#: What MLflow takes in one call (mlflow.org/docs/latest/rest-api.html#log-batch, 2026-11-26).
_METRICS_A_CALL, _PARAMS_A_CALL, _PARAM_LENGTH = 1000, 100, 500
_ENDINGS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


class MLflowSink:
    """A run in a tracking store: `URI#EXPERIMENT`; without the URI, MLflow's own settings decide."""

    def __init__(self, place: str) -> None:
        uri, _, experiment = place.partition("#")
        self._experiment = experiment or EXPERIMENT
        self._client = MlflowClient(tracking_uri=uri or None)
        self._id = ""
        self._run: SinkRun | None = None

    def begin(self, run: SinkRun, handle: dict[str, Any]) -> Written | None:
        """A new MLflow run, or the one that was begun before with the points it holds."""
        self._run = run
        if "run" not in handle:
            handle["run"] = self._create(run)
        self._id = handle["run"]
        return {
            (name, metric.step): _value(metric.value)
            for name in self._client.get_run(self._id).data.metrics
            for metric in self._client.get_metric_history(self._id, name)
        }

    def named(self, series: str) -> str:
        """The name with only characters that MLflow takes."""
        return re.sub(r"[^\w\-. :/]", "_", series)[:250]

    def write(self, points: Sequence[MetricPoint]) -> None:
        """All of them, a thousand a call."""
        self._log([Metric(self.named(each.series), each.value, _ms(each.time), each.step) for each in points])

    def start_over(self, handle: dict[str, Any]) -> None:
        """MLflow changes no point: the run is deleted (MLflow's trash keeps it) and begun anew."""
        if self._run is None:
            return
        self._client.delete_run(self._id)
        self._id = handle["run"] = self._create(self._run)

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """The results as metrics of the last step, and the run's end."""
        self._log([Metric(self.named(name), value, _ms(None), step) for name, value in results.items()])
        self._client.set_terminated(self._id, _ENDINGS.get(state, "FAILED"))

    def close(self) -> None:
        """Nothing is held open."""

    def _create(self, run: SinkRun) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(self._experiment)
        made = self._client.create_run(experiment, start_time=_ms(run.created), tags=dict(run.tags), run_name=run.name)
        params = [Param(self.named(name), str(value)[:_PARAM_LENGTH]) for name, value in run.params.items()]
        for at in range(0, len(params), _PARAMS_A_CALL):
            self._client.log_batch(made.info.run_id, params=params[at : at + _PARAMS_A_CALL])
        return str(made.info.run_id)

    def _log(self, metrics: list[Metric]) -> None:
        for at in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(self._id, metrics=metrics[at : at + _METRICS_A_CALL])


def _value(kept: float) -> float:
    """MLflow's databases hold an infinity as the largest number."""
    return math.copysign(math.inf, kept) if abs(kept) == sys.float_info.max else kept


def _ms(seconds: float | None) -> int:
    return int(1000 * (seconds if seconds is not None else time.time()))
